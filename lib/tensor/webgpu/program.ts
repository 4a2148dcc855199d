/**
 * A compiled list of kernels: pipelines and bind groups are made once, and a run is one flat loop of
 * dispatches in one pass.
 *
 * Arena slots become whole GPU buffers rather than ranges of one buffer, as WebGPU tracks the use of
 * buffers as wholes and forbids to read and write the same one in a dispatch. Slots whose lives do
 * not overlap share a buffer.
 *
 * @module
 */
import type { DeviceBuffer, Program } from "../backend.ts";
import { type Kernel, reads, type Slot } from "../kernel.ts";
import { convDispatches } from "./conv.ts";
import { bufferBytes, type GpuDevice, type Pipeline } from "./device.ts";
import { mapDispatch } from "./map.ts";
import { matmulDispatches } from "./matmul.ts";
import { reduceDispatches, type Scratch } from "./reduce.ts";
import { scatterDispatch } from "./scatter.ts";
import type { Dispatch } from "./shader.ts";
import { sizeOf } from "./walk.ts";

/** Bind groups that a dispatch remembers: enough for buffers that take turns. */
const REMEMBERED_GROUPS = 4;

/** A slot that belongs to the program, from the kernel that first uses it to the last. */
interface ArenaSlot {
  readonly slot: number;
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

/** A dispatch with its pipeline and the bind groups made so far. */
interface Step extends Dispatch, Pipeline {
  /** Whether all its buffers belong to the program. */
  readonly fixed: boolean;
  readonly groups: { readonly buffers: readonly GPUBuffer[]; readonly group: GPUBindGroup }[];
}

/** Says which GPU buffer a caller's buffer is; throws where it is not one of this device. */
export type Resolve = (buffer: DeviceBuffer) => GPUBuffer;

/** Shaders of one kernel; none where the output is empty. */
function dispatchesOf(kernel: Kernel, slots: readonly Slot[], scratch: Scratch): Dispatch[] {
  switch (kernel.kind) {
    case "map":
      if (sizeOf(kernel.shape) === 0) return [];
      return [mapDispatch(kernel, slots[kernel.output.slot]!.bytes)];
    case "reduce":
      if (sizeOf(kernel.shape.slice(0, kernel.shape.length - kernel.reduced)) === 0) return [];
      return reduceDispatches(kernel, scratch);
    case "matmul":
      if (sizeOf([...kernel.batch, kernel.m, kernel.n]) === 0) return [];
      return matmulDispatches(kernel, scratch);
    case "conv2d":
      if (sizeOf(convOutput(kernel)) === 0) return [];
      return convDispatches(kernel, scratch);
    case "scatter":
      return kernel.size * kernel.width === 0 ? [] : [scatterDispatch(kernel)];
  }
}

function convOutput({ variant, conv }: Extract<Kernel, { kind: "conv2d" }>): number[] {
  switch (variant) {
    case "forward":
      return [conv.batch, conv.outHeight, conv.outWidth, conv.outChannels];
    case "input":
      return [conv.batch, conv.height, conv.width, conv.inChannels];
    case "weight":
      return [conv.kernelHeight, conv.kernelWidth, conv.inChannels, conv.outChannels];
  }
}

/**
 * Lets slots share buffers, largest slot first, each in the first buffer that is free all its life.
 *
 * @returns Bytes of every buffer, and the buffer's number per slot.
 */
export function planArena(
  slots: readonly ArenaSlot[],
): { readonly sizes: readonly number[]; readonly place: ReadonlyMap<number, number> } {
  const sizes: number[] = [];
  const lives: ArenaSlot[][] = [];
  const place = new Map<number, number>();
  for (const slot of slots.toSorted((a, b) => b.bytes - a.bytes || a.first - b.first)) {
    let buffer = lives.findIndex((held) =>
      held.every(({ first, last }) => last < slot.first || slot.last < first)
    );
    if (buffer < 0) {
      buffer = sizes.push(slot.bytes) - 1;
      lives.push([]);
    }
    lives[buffer]!.push(slot);
    place.set(slot.slot, buffer);
  }
  return { sizes, place };
}

/** The shaders of some kernels, and every slot that is the program's own, scratch space included. */
function draft(
  kernels: readonly Kernel[],
  slots: readonly Slot[],
): { readonly dispatches: readonly Dispatch[][]; readonly arena: readonly ArenaSlot[] } {
  const arena = slots.flatMap((slot, i) => slot.kind === "arena" ? [{ slot: i, ...slot }] : []);
  let count = slots.length;
  const dispatches = kernels.map((kernel, i) => {
    for (const { slot } of [kernel.output, ...reads(kernel)]) {
      if (slots[slot] === undefined) {
        throw new RangeError(
          `Kernel "${kernel.name}" names slot ${slot}, but only ${slots.length} slots were given.`,
        );
      }
    }
    return dispatchesOf(kernel, slots, (bytes) => {
      arena.push({ kind: "arena", slot: count, bytes, first: i, last: i });
      return count++;
    });
  });
  return { dispatches, arena };
}

/** The bytes that {@linkcode WebGpuProgram} takes for its own slots. */
export function arenaBytes(kernels: readonly Kernel[], slots: readonly Slot[]): number {
  const { sizes } = planArena(draft(kernels, slots).arena);
  return sizes.reduce((sum, bytes) => sum + bufferBytes(bytes), 0);
}

/** A program on a WebGPU device. */
export class WebGpuProgram implements Program {
  readonly arenaBytes: number;
  readonly #gpu: GpuDevice;
  readonly #resolve: Resolve;
  readonly #steps: Step[] = [];
  readonly #externals: number[] = [];
  readonly #arena: GPUBuffer[];
  /** The buffer of every slot; those of external slots change from run to run. */
  readonly #buffers: GPUBuffer[] = [];
  #disposed = false;

  constructor(
    gpu: GpuDevice,
    resolve: Resolve,
    kernels: readonly Kernel[],
    slots: readonly Slot[],
  ) {
    this.#gpu = gpu;
    this.#resolve = resolve;
    slots.forEach((slot, i) => {
      if (slot.kind === "external") this.#externals.push(i);
    });
    const { dispatches, arena } = draft(kernels, slots);
    for (const [i, dispatch] of dispatches.flatMap((list, i) => list.map((d) => [i, d] as const))) {
      if (dispatch.slots.length > gpu.maxBindings) {
        throw new RangeError(
          `Kernel "${kernels[i]!.name}" uses ${dispatch.slots.length} buffers, but ` +
            `"${gpu.description}" binds at most ${gpu.maxBindings}; split the expression.`,
        );
      }
      this.#steps.push({
        ...dispatch,
        ...gpu.pipeline(dispatch),
        fixed: dispatch.slots.every((slot) => slots[slot]?.kind !== "external"),
        groups: [],
      });
    }
    const { sizes, place } = planArena(arena);
    this.#arena = [];
    try {
      for (const bytes of sizes) this.#arena.push(gpu.acquire(bytes, "A program's memory"));
    } catch (error) {
      this.dispose();
      throw error;
    }
    this.arenaBytes = this.#arena.reduce((sum, { size }) => sum + size, 0);
    for (const [slot, buffer] of place) this.#buffers[slot] = this.#arena[buffer]!;
  }

  run(bindings: readonly DeviceBuffer[]): void {
    if (this.#disposed) throw new Error("The program was disposed of; compile it again.");
    if (bindings.length !== this.#externals.length) {
      throw new RangeError(
        `The program has ${this.#externals.length} external slots, found ${bindings.length} buffers.`,
      );
    }
    this.#externals.forEach((slot, i) => this.#buffers[slot] = this.#resolve(bindings[i]!));
    const encoder = this.#gpu.device.createCommandEncoder({ label: "program" });
    const pass = encoder.beginComputePass({ label: "program" });
    let current: GPUComputePipeline | undefined;
    for (const step of this.#steps) {
      if (step.pipeline !== current) pass.setPipeline(current = step.pipeline);
      pass.setBindGroup(0, this.#group(step));
      pass.dispatchWorkgroups(step.grid[0], step.grid[1]);
    }
    pass.end();
    this.#gpu.submit(encoder.finish());
  }

  #group({ slots, groups, layout, label, fixed }: Step): GPUBindGroup {
    const known = fixed
      ? groups[0]
      : groups.find(({ buffers }) => slots.every((slot, i) => buffers[i] === this.#buffers[slot]));
    if (known !== undefined) return known.group;
    const buffers = slots.map((slot) => this.#buffers[slot]!);
    if (buffers.indexOf(buffers[0]!, 1) > 0) {
      throw new Error(
        `Kernel "${label}" would read and write one buffer through two slots, which WebGPU ` +
          "forbids; bind another buffer to its output.",
      );
    }
    const group = this.#gpu.scoped(
      "validation",
      (message) => new Error(`Kernel "${label}" cannot bind its buffers: ${message}`),
      () =>
        this.#gpu.device.createBindGroup({
          label,
          layout,
          entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
        }),
    );
    groups.unshift({ buffers, group });
    groups.length = Math.min(groups.length, REMEMBERED_GROUPS);
    return group;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const buffer of this.#arena) this.#gpu.release(buffer);
    this.#steps.length = 0;
  }
}
