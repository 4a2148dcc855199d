/**
 * Normalisation layers. The variance is the mean of squared deviations (two passes), since the
 * one-pass form loses half the digits where the mean is large.
 *
 * @module
 */
import { stopGradient, type Tensor } from "../tensor/mod.ts";
import type { Weights } from "./weights.ts";

/** Options of {@linkcode groupNorm}. */
export interface GroupNormOptions {
  readonly groups: number;
  readonly eps: number;
}

/**
 * Group normalisation: every group of C / groups channels of an image has mean 0 and variance 1, then
 * `weight` and `bias`, per channel, are applied.
 *
 * Positions are reduced first, which walks memory in order and leaves a mean and a variance for each
 * image and channel; a group's follow from those of its channels, `var = mean(var_c + (mean_c -
 * mean)^2)`. The scale per image and channel is worked out before the image is touched again.
 *
 * @param w Holds `weight` [C] and `bias` [C].
 * @param x [N, ..., C]
 * @throws {RangeError} When the groups do not divide the channels.
 */
export function groupNorm(w: Weights, x: Tensor, { groups, eps }: GroupNormOptions): Tensor {
  const n = x.shape[0]!;
  const channels = x.shape.at(-1)!;
  if (channels % groups !== 0) {
    throw new RangeError(
      `group norm "${w.prefix}": ${channels} channels do not divide into ${groups} groups`,
    );
  }
  const positions = x.shape.slice(1, -1).map((_, i) => i + 1);
  const overImage = [n, ...positions.map(() => 1), channels];
  const inGroups = [n, groups, channels / groups];

  // Deviations from a mean sum to zero, so no variance depends on its mean to first order.
  const channelMean = x.mean(positions);
  const deviation = x.sub(stopGradient(channelMean).reshape(overImage));
  const channelVariance = deviation.square().mean(positions).reshape(inGroups);
  const means = channelMean.reshape(inGroups);
  const mean = means.mean(2, true);
  const between = means.sub(stopGradient(mean)).square();
  const variance = channelVariance.add(between).mean(2, true);

  const scale = variance.add(eps).rsqrt().mul(w.get("weight").reshape(inGroups.slice(1)));
  // Centred before it is scaled: a group's mean can be many times its deviation.
  const perImage = (t: Tensor) => t.expand(inGroups).reshape(overImage);
  return x.sub(perImage(mean)).mul(perImage(scale)).add(w.get("bias"));
}

/**
 * Layer normalisation over the last axis: `(x - mean) / sqrt(variance + eps) * weight + bias`.
 *
 * @param w Holds `weight` [C] and `bias` [C].
 * @param x [..., C]
 */
export function layerNorm(w: Weights, x: Tensor, eps = 1e-5): Tensor {
  const mean = x.mean(-1, true);
  const variance = x.sub(stopGradient(mean)).square().mean(-1, true);
  return x.sub(mean).mul(variance.add(eps).rsqrt()).mul(w.get("weight")).add(w.get("bias"));
}
