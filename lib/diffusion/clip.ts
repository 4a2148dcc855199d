/**
 * The whole of CLIP (transformers' `CLIPModel`): how well a prompt and an image agree. PickScore and
 * HPSv2 are this model with other weights.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import { constant, initialise, type Parameter } from "../nn/init.ts";
import type { Weights } from "../nn/weights.ts";
import { clipText, clipTextParameters, type TextInputs } from "./clip_text.ts";
import { clipVision, clipVisionParameters } from "./clip_vision.ts";
import type { ClipConfig } from "./config.ts";

/** Vectors scaled to length 1 along the last axis. */
export function unitVectors(x: Tensor): Tensor {
  return x.mul(x.square().sum(-1, true).rsqrt());
}

/** Text and image embeddings of length 1, [N, P] and [M, P]. */
export function clipEmbeddings(
  w: Weights,
  config: ClipConfig,
  text: TextInputs,
  pixels: Tensor,
): { text: Tensor; image: Tensor } {
  return {
    text: unitVectors(clipText(w, config.text_config, text).projected!),
    image: unitVectors(clipVision(w, config.vision_config, pixels).projected!),
  };
}

/**
 * `exp(logit_scale) cos(text, image)` for every image and prompt.
 *
 * @param pixels [M, image_size, image_size, 3]
 * @returns [M, N], transformers' `logits_per_image`
 */
export function clipSimilarity(
  w: Weights,
  config: ClipConfig,
  text: TextInputs,
  pixels: Tensor,
): Tensor {
  const embeddings = clipEmbeddings(w, config, text, pixels);
  const cosines = embeddings.image.matmul(embeddings.text.transpose(0, 1));
  return cosines.mul(w.get("logit_scale").exp());
}

/** Every parameter of a CLIP. */
export function clipParameters(config: ClipConfig): Parameter[] {
  return [
    { name: "logit_scale", shape: [], init: constant(config.logit_scale_init_value) },
    ...clipTextParameters(config.text_config),
    ...clipVisionParameters(config.vision_config),
  ];
}

/** A CLIP from random numbers, as transformers would start it. */
export function initClip(config: ClipConfig, seed: number): Map<string, Tensor> {
  return initialise(clipParameters(config), seed);
}
