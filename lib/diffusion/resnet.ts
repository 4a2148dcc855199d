/**
 * The residual block and the two resampling convolutions that the U-Net and the VAE are built from.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import { silu } from "../nn/activation.ts";
import { conv } from "../nn/conv.ts";
import { convParameters, linearParameters, normParameters, type Parameter } from "../nn/init.ts";
import { linear } from "../nn/linear.ts";
import { groupNorm, type GroupNormOptions } from "../nn/norm.ts";
import type { Weights } from "../nn/weights.ts";

/**
 * diffusers' `ResnetBlock2D`:
 * `(shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + proj(silu(temb)))))) / outputScale`.
 *
 * @param w The block's weights; `conv_shortcut` is used where it exists.
 * @param x [N, H, W, in]
 * @param temb Time embedding [N, T] with its SiLU already applied, or nothing (VAE).
 * @param outputScale Divides the sum.
 * @returns [N, H, W, out]
 */
export function resnetBlock(
  w: Weights,
  x: Tensor,
  temb: Tensor | undefined,
  norm: GroupNormOptions,
  outputScale = 1,
): Tensor {
  let h = conv(w.at("conv1"), silu(groupNorm(w.at("norm1"), x, norm)), { padding: 1 });
  if (temb) {
    const shift = linear(w.at("time_emb_proj"), temb);
    h = h.add(shift.reshape([shift.shape[0]!, 1, 1, shift.shape[1]!]));
  }
  h = conv(w.at("conv2"), silu(groupNorm(w.at("norm2"), h, norm)), { padding: 1 });
  const shortcut = w.has("conv_shortcut.weight") ? conv(w.at("conv_shortcut"), x) : x;
  const sum = h.add(shortcut);
  return outputScale === 1 ? sum : sum.div(outputScale);
}

/** The parameters of {@linkcode resnetBlock}; `temb` is the time embedding's width, 0 for none. */
export function resnetParameters(
  name: string,
  inputs: number,
  outputs: number,
  temb: number,
): Parameter[] {
  return [
    ...normParameters(`${name}.norm1`, inputs),
    ...convParameters(`${name}.conv1`, inputs, outputs, 3),
    ...temb > 0 ? linearParameters(`${name}.time_emb_proj`, temb, outputs) : [],
    ...normParameters(`${name}.norm2`, outputs),
    ...convParameters(`${name}.conv2`, outputs, outputs, 3),
    ...inputs === outputs ? [] : convParameters(`${name}.conv_shortcut`, inputs, outputs, 1),
  ];
}

/**
 * Halves an image with a 3x3 convolution of stride 2.
 *
 * @param w Holds `conv`.
 * @param x [N, H, W, C]
 * @param padding Pixels on every side; with 0 the image is padded by one at the bottom and the right
 * only, as `AutoencoderKL` does.
 */
export function downsample(w: Weights, x: Tensor, padding: number): Tensor {
  return conv(w.at("conv"), x, { stride: 2, padding: padding === 0 ? [0, 1, 0, 1] : padding });
}

/**
 * Doubles an image by repeating pixels, then a 3x3 convolution.
 *
 * @param w Holds `conv`.
 * @param x [N, H, W, C]
 * @param size The height and width to reach, one less than double where the image that this one is
 * joined with had an odd size.
 */
export function upsample(w: Weights, x: Tensor, size?: readonly [number, number]): Tensor {
  const [n, height, width, channels] = x.shape as [number, number, number, number];
  let big = x.reshape([n, height, 1, width, 1, channels])
    .expand([n, height, 2, width, 2, channels])
    .reshape([n, 2 * height, 2 * width, channels]);
  if (size && size[0] !== 2 * height) big = big.slice(1, 0, size[0]);
  if (size && size[1] !== 2 * width) big = big.slice(2, 0, size[1]);
  return conv(w.at("conv"), big, { padding: 1 });
}

/** The parameters of {@linkcode downsample} and {@linkcode upsample}. */
export function resampleParameters(name: string, channels: number): Parameter[] {
  return convParameters(`${name}.conv`, channels, channels, 3);
}
