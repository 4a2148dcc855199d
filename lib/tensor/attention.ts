/**
 * Scaled dot-product attention whose matrix of scores is never in memory as a whole.
 *
 * Rows of the softmax do not depend on each other, so where all scores together are many, the queries
 * are taken some at a time (Rabe and Staats 2021, "Self-attention does not need O(n^2) memory"), and
 * the backward pass computes each part's scores again.
 *
 * @module
 */
import { checkpoint, concat, stopGradient, type Tensor } from "./tensor.ts";

/** The most scores held at once: 128 MiB, which is the largest binding that every WebGPU device has. */
const MOST_SCORES = 2 ** 25;

/**
 * `softmax(q k^T * scale + mask) v` for q [B, H, Lq, D], k and v [B, H, Lk, D].
 *
 * @param options.scale `1 / sqrt(D)` unless given.
 * @param options.mask Added to the scores; broadcasts to [B, H, Lq, Lk].
 * @param options.most The most scores held at once; default 2^25.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: { scale?: number; mask?: Tensor; most?: number } = {},
): Tensor {
  const { mask, most = MOST_SCORES } = options;
  const [batch, heads, length, width] = q.shape as [number, number, number, number];
  const scale = options.scale ?? 1 / Math.sqrt(width);
  const row = batch * heads * k.shape[2]!;
  const parts = Math.ceil(length / Math.max(1, Math.floor(most / row)));
  if (parts <= 1) return attend(q, k, v, scale, mask);
  const size = Math.ceil(length / parts);
  const perQuery = mask !== undefined && mask.rank >= 2 && mask.shape.at(-2) === length;
  const outputs: Tensor[] = [];
  for (let first = 0; first < length; first += size) {
    const rows = [first, Math.min(first + size, length)] as const;
    const some = perQuery ? mask.slice(mask.rank - 2, ...rows) : mask;
    const block = (...[q, k, v]: Tensor[]) => [attend(q!, k!, v!, scale, some)];
    outputs.push(...checkpoint(block, q.slice(2, ...rows), k, v));
  }
  return concat(outputs, 2);
}

function attend(q: Tensor, k: Tensor, v: Tensor, scale: number, mask?: Tensor): Tensor {
  const products = q.matmul(k.transpose(-1, -2)).mul(scale);
  const scores = mask ? products.add(mask) : products;
  const weights = scores.sub(stopGradient(scores.max(-1, true))).exp();
  // Dividing after the second product takes one pass over [Lq, D] instead of [Lq, Lk].
  return weights.matmul(v).div(weights.sum(-1, true));
}
