/**
 * Scaled dot-product attention.
 *
 * @module
 */
import type { Tensor } from "./tensor.ts";

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
  const scores = q.matmul(k.transpose(-1, -2)).mul(scale);
  return (options.mask ? scores.add(options.mask) : scores).softmax(-1).matmul(v);
}
