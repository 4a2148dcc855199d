/**
 * CLIP's text tower, transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.
 *
 * @module
 */
import { gather, type Tensor, tensor } from "../tensor/mod.ts";
import { embedding } from "../nn/embedding.ts";
import {
  embeddingParameters,
  initialise,
  linearParameters,
  normal,
  normParameters,
  type Parameter,
} from "../nn/init.ts";
import { linear } from "../nn/linear.ts";
import { layerNorm } from "../nn/norm.ts";
import type { Weights } from "../nn/weights.ts";
import { clipTower, clipTowerParameters } from "./clip_tower.ts";
import type { ClipTextConfig } from "./config.ts";

/** Prompts as token ids. */
export interface TextInputs {
  /** i32 [N, L] */
  readonly ids: Tensor;
  /** Where each prompt ends, i32 [N]: see {@linkcode eosPositions}. */
  readonly eos: Tensor;
}

/** What the text tower gives. */
export interface TextFeatures {
  /** The last layer's output after the final norm [N, L, C]: SD1.5's conditioning. */
  readonly hidden: Tensor;
  /** Embeddings and every layer's output, before the final norm; SDXL takes the last but one. */
  readonly hiddenStates: Tensor[];
  /** `hidden` at the end token [N, C]. */
  readonly pooled: Tensor;
  /** `pooled` in the space shared with images [N, P], where the model has a projection. */
  readonly projected?: Tensor;
}

/**
 * Where each prompt's end token stands, worked out on the host. Configurations with the historic
 * `eos_token_id` 2 do not know the true id; there it is the position of the largest id.
 *
 * @param ids N rows of L token ids.
 * @param length L
 */
export function eosPositions(config: ClipTextConfig, ids: Int32Array, length: number): Int32Array {
  return Int32Array.from({ length: ids.length / length }, (_, row) => {
    const tokens = ids.subarray(row * length, (row + 1) * length);
    const eos = config.eos_token_id === 2
      ? tokens.reduce((a, b) => Math.max(a, b))
      : config.eos_token_id;
    // As with argmax over "is the end token", a prompt without one is pooled at its start.
    return Math.max(tokens.indexOf(eos), 0);
  });
}

/**
 * Encodes prompts.
 *
 * @throws {RangeError} When the prompts are longer than the table of positions.
 */
export function clipText(
  w: Weights,
  config: ClipTextConfig,
  { ids, eos }: TextInputs,
): TextFeatures {
  const [n, length] = ids.shape as [number, number];
  if (length > config.max_position_embeddings) {
    throw new RangeError(
      `a prompt of ${length} tokens does not fit a text model of ` +
        `${config.max_position_embeddings} positions ("max_position_embeddings"): shorten it`,
    );
  }
  const model = w.at("text_model");
  const positions = model.get("embeddings.position_embedding.weight").slice(0, 0, length);
  const x = embedding(model.at("embeddings.token_embedding"), ids).add(positions);
  const hiddenStates = clipTower(model.at("encoder"), config, x, causalMask(length));
  const hidden = layerNorm(
    model.at("final_layer_norm"),
    hiddenStates.at(-1)!,
    config.layer_norm_eps,
  );
  const rows = tensor(Int32Array.from({ length: n }, (_, i) => i * length), [n]);
  const pooled = gather(hidden.reshape([n * length, config.hidden_size]), rows.add(eos));
  if (!config.with_projection) return { hidden, hiddenStates, pooled };
  return { hidden, hiddenStates, pooled, projected: linear(w.at("text_projection"), pooled) };
}

/** [L, L], 0 where a token may look and -1e9 where it may not: at those that follow it. */
function causalMask(length: number): Tensor {
  const mask = new Float32Array(length * length);
  for (let i = 0; i < length; i++) mask.fill(-1e9, i * length + i + 1, (i + 1) * length);
  return tensor(mask, [length, length]);
}

/** Every parameter of a text tower. */
export function clipTextParameters(config: ClipTextConfig): Parameter[] {
  const width = config.hidden_size;
  const embeddings = "text_model.embeddings";
  return [
    ...embeddingParameters(`${embeddings}.token_embedding`, config.vocab_size, width, 0.02),
    ...embeddingParameters(
      `${embeddings}.position_embedding`,
      config.max_position_embeddings,
      width,
      0.02,
    ),
    ...clipTowerParameters("text_model.encoder", config),
    ...normParameters("text_model.final_layer_norm", width),
    ...config.with_projection
      ? linearParameters("text_projection", width, config.projection_dim, {
        bias: false,
        weightInit: normal(1 / Math.sqrt(width)),
      })
      : [],
  ];
}

/** A text tower from random numbers, as transformers would start it. */
export function initClipText(config: ClipTextConfig, seed: number): Map<string, Tensor> {
  return initialise(clipTextParameters(config), seed);
}
