/**
 * Clipping of gradients by their common norm, as PyTorch's `clip_grad_norm_`, without leaving the device.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";

/**
 * Scales gradients by `min(1, maxNorm / (norm + 1e-6))`, where the norm is that of all of them together.
 *
 * @param gradients Tensors of any shapes.
 * @param maxNorm The largest norm to leave as it is.
 * @returns The scaled gradients, and the norm before scaling (a scalar).
 */
export function clipGradNorm(
  gradients: readonly Tensor[],
  maxNorm: number,
): { gradients: Tensor[]; norm: Tensor } {
  const norm = gradients.map((g) => g.square().sum()).reduce((a, b) => a.add(b)).sqrt();
  const scale = norm.add(1e-6).reciprocal().mul(maxNorm).minimum(1);
  return { gradients: gradients.map((g) => g.mul(scale)), norm };
}
