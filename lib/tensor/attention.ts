/**
 * Scaled dot-product attention.
 *
 * @module
 */
import { stopGradient, type Tensor } from "./tensor.ts";

/**
 * `softmax(q k^T * scale + mask) v` for q [B, H, Lq, D], k and v [B, H, Lk, D].
 *
 * @param options.scale `1 / sqrt(D)` unless given.
 * @param options.mask Added to the scores; broadcasts to [B, H, Lq, Lk].
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: { scale?: number; mask?: Tensor } = {},
): Tensor {
  const scale = options.scale ?? 1 / Math.sqrt(q.shape.at(-1)!);
  const products = q.matmul(k.transpose(-1, -2)).mul(scale);
  const scores = options.mask ? products.add(options.mask) : products;
  const weights = scores.sub(stopGradient(scores.max(-1, true))).exp();
  // Dividing after the second product takes one pass over [Lq, D] instead of [Lq, Lk].
  return weights.matmul(v).div(weights.sum(-1, true));
}
