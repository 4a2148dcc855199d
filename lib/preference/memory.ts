/**
 * The memory of a training, worked out before it is taken, so that what cannot fit is refused with
 * numbers at once rather than by a device that gives up in the middle.
 *
 * @module
 */
import { type Backend, byteSize, type Memory } from "../tensor/mod.ts";

/** Bytes on the device. */
export interface TrainingMemory {
  /** Held before the training: the base model, and whatever else the caller keeps there. */
  readonly held: number;
  /** The LoRA, its gradients, the optimiser's state and a batch. */
  readonly state: number;
  /** Intermediate values of a step. */
  readonly step: number;
  /** All of it. */
  readonly total: number;
}

/**
 * Adds up what a training takes.
 *
 * @param backend The device, which holds the base model already.
 * @param learn The step that gathers gradients, with the whole state among its inputs.
 * @param update The optimiser's step.
 */
export function trainingMemory(backend: Backend, learn: Memory, update: Memory): TrainingMemory {
  const held = backend.liveBytes;
  const state = learn.inputs;
  // Both steps keep their intermediate values' memory from one call to the next.
  const step = learn.arena + update.arena;
  return { held, state, step, total: held + state + step };
}

/** `1.72 GB of weights + 310.0 MB of LoRA and optimiser + 960.0 MB for a step = 2.99 GB`. */
export function describeMemory({ held, state, step, total }: TrainingMemory): string {
  return `${byteSize(held)} of weights + ${byteSize(state)} of LoRA and optimiser + ` +
    `${byteSize(step)} for a step = ${byteSize(total)}`;
}

/**
 * Refuses a training that the device cannot hold.
 *
 * @throws {RangeError} With the sizes, the device's limit and what would help.
 */
export function checkMemory(backend: Backend, memory: TrainingMemory): void {
  if (backend.capacity === undefined || memory.total <= backend.capacity) return;
  throw new RangeError(
    `this training needs ${describeMemory(memory)}, but the ${backend.name} device holds ` +
      `at most ${byteSize(backend.capacity)}: take smaller batches and accumulate more of them, ` +
      `compute blocks again (recompute), images of a lower resolution, a lower rank, or another device`,
  );
}
