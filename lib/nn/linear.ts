/**
 * The affine map of PyTorch's `Linear`, with the LoRA overlay where there is one.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import type { Weights } from "./weights.ts";

/**
 * `y = x W^T + b + scale (x down^T) up^T`.
 *
 * @param w Holds `weight` [out, in] and perhaps `bias` [out].
 * @param x [..., in]
 * @param rows Only the outputs `[start, end)`, for layers that give two things at once.
 * @returns [..., out]
 */
export function linear(w: Weights, x: Tensor, rows?: readonly [number, number]): Tensor {
  const part = (t: Tensor) => rows ? t.slice(0, rows[0], rows[1]) : t;
  const weight = part(w.get("weight"));
  const lead = x.shape.slice(0, -1);
  // One tall matrix product, rather than one per batch entry.
  const flat = x.rank === 2 ? x : x.reshape([-1, x.shape.at(-1)!]);
  let y = flat.matmul(weight.transpose(0, 1));
  if (w.has("bias")) y = y.add(part(w.get("bias")));
  const lora = w.lora;
  if (lora) {
    const low = flat.matmul(lora.down.transpose(0, 1)).mul(lora.scale);
    y = y.add(low.matmul(part(lora.up).transpose(0, 1)));
  }
  return x.rank === 2 ? y : y.reshape([...lead, weight.shape[0]!]);
}
