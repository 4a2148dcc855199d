/**
 * Multi-head attention over already projected queries, keys and values.
 *
 * @module
 */
import { attention, type Tensor } from "../tensor/mod.ts";

/**
 * `softmax(q k^T / sqrt(C / heads) + mask) v` in each head.
 *
 * @param q [N, Lq, C]
 * @param k [N, Lk, C]
 * @param v [N, Lk, C]
 * @param heads How many heads share the C channels.
 * @param mask Added to the scores; broadcasts to [N, heads, Lq, Lk].
 * @returns [N, Lq, C]
 */
export function multiHeadAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  heads: number,
  mask?: Tensor,
): Tensor {
  const [n, length, channels] = q.shape as [number, number, number];
  const split = (x: Tensor) =>
    x.reshape([n, x.shape[1]!, heads, channels / heads]).permute([0, 2, 1, 3]);
  const mixed = attention(split(q), split(k), split(v), mask ? { mask } : {});
  return mixed.permute([0, 2, 1, 3]).reshape([n, length, channels]);
}
