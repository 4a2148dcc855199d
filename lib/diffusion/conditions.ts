/**
 * What a U-Net is told about prompts, from one text encoder (SD1.5) or two (SDXL).
 *
 * @module
 */
import type { Weights } from "../nn/weights.ts";
import { concat, type Tensor } from "../tensor/mod.ts";
import { clipText, type TextInputs } from "./clip_text.ts";
import type { ClipTextConfig } from "./config.ts";

/** One text encoder. */
export interface TextEncoder {
  readonly weights: Weights;
  readonly config: ClipTextConfig;
}

/** Encoded prompts. */
export type PromptFeatures = {
  /** [N, L, D] */
  readonly context: Tensor;
  /** SDXL's pooled embedding [N, P]. */
  readonly textEmbeds?: Tensor;
};

/**
 * Encodes prompts. SD1.5: the text encoder's last hidden state. SDXL: the last but one of both
 * encoders side by side, and the second's projection.
 *
 * @param inputs The prompts as each encoder's tokenizer sees them.
 */
export function promptFeatures(
  encoders: readonly TextEncoder[],
  inputs: readonly TextInputs[],
): PromptFeatures {
  const features = encoders.map(({ weights, config }, i) => clipText(weights, config, inputs[i]!));
  if (features.length === 1) return { context: features[0]!.hidden };
  return {
    context: concat(features.map((f) => f.hiddenStates.at(-2)!), 2),
    textEmbeds: features[1]!.projected!,
  };
}
