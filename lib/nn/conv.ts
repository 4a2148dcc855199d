/**
 * Two-dimensional convolution over channels-last images, with the LoRA overlay where there is one.
 *
 * @module
 */
import { conv2d, type Tensor } from "../tensor/mod.ts";
import type { Weights } from "./weights.ts";

/** How the kernel moves; `padding` is one number or [top, bottom, left, right], in pixels. */
export interface ConvOptions {
  readonly stride?: number;
  readonly padding?: number | [number, number, number, number];
}

/**
 * Convolution: `y = x * W + b + scale ((x * down) * up)`.
 *
 * @param w Holds `weight` [kh, kw, in, out] and perhaps `bias` [out].
 * @param x [N, H, W, in]
 * @returns [N, H', W', out]
 */
export function conv(w: Weights, x: Tensor, options: ConvOptions = {}): Tensor {
  let y = convolve(x, w.get("weight"), options);
  if (w.has("bias")) y = y.add(w.get("bias"));
  const lora = w.lora;
  if (!lora) return y;
  return y.add(convolve(convolve(x, lora.down, options).mul(lora.scale), lora.up, {}));
}

/** A 1x1 kernel that visits every pixel is a matrix product over the channels. */
function convolve(x: Tensor, weight: Tensor, options: ConvOptions): Tensor {
  const [kh, kw, cin, cout] = weight.shape as [number, number, number, number];
  const { stride = 1, padding = 0 } = options;
  if (kh !== 1 || kw !== 1 || stride !== 1 || padding !== 0) {
    return conv2d(x, weight, { stride, padding });
  }
  const [n, height, width] = x.shape as [number, number, number];
  return x.reshape([-1, cin]).matmul(weight.reshape([cin, cout]))
    .reshape([n, height, width, cout]);
}
