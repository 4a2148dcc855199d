/**
 * CLIP's vision tower, transformers' `CLIPVisionModel` and `CLIPVisionModelWithProjection`.
 *
 * @module
 */
import { concat, type Tensor } from "../tensor/mod.ts";
import { conv } from "../nn/conv.ts";
import {
  convParameters,
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
import type { ClipVisionConfig } from "./config.ts";

/** What the vision tower gives. */
export interface VisionFeatures {
  /** The last layer's output [N, 1 + patches, C]. */
  readonly hidden: Tensor;
  /** The class token's output after the final norm [N, C]. */
  readonly pooled: Tensor;
  /** `pooled` in the space shared with text [N, P], where the model has a projection. */
  readonly projected?: Tensor;
}

/**
 * Encodes images.
 *
 * @param pixels [N, image_size, image_size, 3], normalised as the checkpoint's processor does.
 * @throws {RangeError} When the images have another size.
 */
export function clipVision(w: Weights, config: ClipVisionConfig, pixels: Tensor): VisionFeatures {
  const [n, height, width] = pixels.shape as [number, number, number];
  const size = config.image_size;
  if (height !== size || width !== size) {
    throw new RangeError(
      `this vision model takes images of ${size}x${size} ("image_size"), ` +
        `not ${height}x${width}: resize them`,
    );
  }
  const channels = config.hidden_size;
  const model = w.at("vision_model");
  const embeddings = model.at("embeddings");
  const patches = conv(embeddings.at("patch_embedding"), pixels, { stride: config.patch_size })
    .reshape([n, -1, channels]);
  const first = embeddings.get("class_embedding").cast("f32").reshape([1, 1, channels])
    .expand([n, 1, channels]);
  const tokens = concat([first, patches], 1).add(embeddings.get("position_embedding.weight"));
  const eps = config.layer_norm_eps;
  // The missing letter is the checkpoints' own.
  const x = layerNorm(model.at("pre_layrnorm"), tokens, eps);
  const hidden = clipTower(model.at("encoder"), config, x).at(-1)!;
  const pooled = layerNorm(
    model.at("post_layernorm"),
    hidden.slice(1, 0, 1).reshape([n, channels]),
    eps,
  );
  if (!config.with_projection) return { hidden, pooled };
  return { hidden, pooled, projected: linear(w.at("visual_projection"), pooled) };
}

/** Every parameter of a vision tower. */
export function clipVisionParameters(config: ClipVisionConfig): Parameter[] {
  const width = config.hidden_size;
  const patches = (config.image_size / config.patch_size) ** 2;
  const embeddings = "vision_model.embeddings";
  return [
    {
      name: `${embeddings}.class_embedding`,
      shape: [width],
      init: normal(1 / Math.sqrt(width)),
    },
    ...convParameters(
      `${embeddings}.patch_embedding`,
      config.num_channels,
      width,
      config.patch_size,
      { bias: false, weightInit: normal(0.02) },
    ),
    ...embeddingParameters(`${embeddings}.position_embedding`, patches + 1, width, 0.02),
    ...normParameters("vision_model.pre_layrnorm", width),
    ...clipTowerParameters("vision_model.encoder", config),
    ...normParameters("vision_model.post_layernorm", width),
    ...config.with_projection
      ? linearParameters("visual_projection", width, config.projection_dim, {
        bias: false,
        weightInit: normal(1 / Math.sqrt(width)),
      })
      : [],
  ];
}

/** A vision tower from random numbers, as transformers would start it. */
export function initClipVision(config: ClipVisionConfig, seed: number): Map<string, Tensor> {
  return initialise(clipVisionParameters(config), seed);
}
