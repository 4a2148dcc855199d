/**
 * Whether a part of a model keeps its intermediate values for the backward pass or computes them again
 * (gradient checkpointing, Chen et al. 2016).
 *
 * @module
 */
import { checkpoint, type Tensor } from "../tensor/mod.ts";

/** Runs a part of a model on its inputs. Weights may be closed over. */
export type Run = <I extends readonly Tensor[]>(
  part: (...inputs: I) => Tensor,
  ...inputs: I
) => Tensor;

/** Keeps what the backward pass needs. */
export const plainly: Run = (part, ...inputs) => part(...inputs);

/** Keeps the inputs only. */
export const recomputed: Run = (part, ...inputs) =>
  checkpoint((...given) => [part(...given as unknown as typeof inputs)], ...inputs)[0]!;
