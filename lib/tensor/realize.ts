/**
 * Realising: upload what is on the host, schedule the rest, run it, and let the tensors hold the result.
 *
 * @module
 */
import type { Backend, DeviceBuffer } from "./backend.ts";
import { getDevice } from "./device.ts";
import type { Kernel } from "./kernel.ts";
import { mapSlots, reads } from "./kernel.ts";
import { type Schedule, schedule } from "./schedule.ts";
import { show, sizeOf } from "./shape.ts";
import { byteLength, setRealizer, type Tensor } from "./tensor.ts";

let debugging = false;

/**
 * Debug mode: every operation runs as a kernel of its own, the memory of dead values is filled with
 * NaN, and the first operation whose result holds a NaN is named. Slow.
 */
export function setDebug(on: boolean): void {
  debugging = on;
}

/** Whether debug mode is on. */
export function isDebugging(): boolean {
  return debugging;
}

/** Copies host data to the device. */
export function upload(backend: Backend, tensor: Tensor): DeviceBuffer {
  const source = tensor.source;
  if (source?.op !== "host") throw new Error("upload: the tensor has no host data");
  const { data } = source;
  const buffer = backend.allocate(byteLength(tensor.shape, tensor.dtype));
  let bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (bytes.byteLength % 4 !== 0) {
    const padded = new Uint8Array(byteLength(tensor.shape, tensor.dtype));
    padded.set(bytes);
    bytes = padded;
  }
  backend.write(buffer, bytes);
  return buffer;
}

/**
 * Computes tensors and lets each hold its buffer; the graph behind them is dropped. Host tensors among
 * them go to the device; those that others are computed from are there only for as long as it takes.
 */
export async function realize(...tensors: Tensor[]): Promise<void> {
  const backend = getDevice();
  const lazy = [...new Set(tensors)].filter((t) => !t.storage);
  for (const t of lazy) {
    if (t.source?.op === "host") t.settle({ backend, buffer: upload(backend, t) });
  }
  const rest = lazy.filter((t) => !t.storage);
  if (rest.length === 0) return;
  const plan = schedule(rest, { fuse: !debugging, maxInputs: backend.maxInputs });
  const temporary: DeviceBuffer[] = [];
  const owned: DeviceBuffer[] = [];
  try {
    const bound = bindLeaves(backend, plan, (leaf) => {
      const buffer = upload(backend, leaf);
      temporary.push(buffer);
      return buffer;
    });
    plan.outputs.forEach((slot, i) => {
      const buffer = backend.allocate(byteLength(rest[i]!.shape, rest[i]!.dtype));
      owned.push(buffer);
      bound.set(slot, buffer);
    });
    await execute(backend, plan, bound);
  } catch (error) {
    for (const buffer of owned) backend.free(buffer);
    throw error;
  } finally {
    for (const buffer of temporary) backend.free(buffer);
  }
  rest.forEach((t, i) => {
    // Somebody else may have realised the same tensor meanwhile.
    if (t.storage) backend.free(owned[i]!);
    else t.settle({ backend, buffer: owned[i]! });
  });
}

async function execute(
  backend: Backend,
  plan: Schedule,
  bound: ReadonlyMap<number, DeviceBuffer>,
): Promise<void> {
  if (debugging) return await runChecked(backend, plan, bound);
  const program = backend.compile(plan.kernels, plan.slots);
  try {
    program.run(externals(plan).map((slot) => bound.get(slot)!));
    await backend.finish();
  } finally {
    program.dispose();
  }
}

setRealizer((tensors) => realize(...tensors));

/** The external slots of a plan, in order. */
export function externals(plan: Schedule): number[] {
  return plan.slots.flatMap((slot, i) => slot.kind === "external" ? [i] : []);
}

/** Buffers for the leaves of a plan; `supply` makes those of host tensors. */
export function bindLeaves(
  backend: Backend,
  plan: Schedule,
  supply: (leaf: Tensor) => DeviceBuffer,
): Map<number, DeviceBuffer> {
  const bound = new Map<number, DeviceBuffer>();
  for (const { slot, tensor } of plan.leaves) {
    const { storage } = tensor;
    if (storage && storage.backend !== backend) {
      throw new Error(
        `A tensor of shape ${show(tensor.shape)} lies on another device ` +
          `(${storage.backend.name}) than the current one (${backend.name})`,
      );
    }
    bound.set(slot, storage?.buffer ?? supply(tensor));
  }
  return bound;
}

/** Runs kernels one by one, checks every result for NaN, and poisons what is dead. */
export async function runChecked(
  backend: Backend,
  plan: Schedule,
  bound: ReadonlyMap<number, DeviceBuffer>,
): Promise<void> {
  const buffers = new Map(bound);
  const lastUse = new Map<number, number>();
  plan.kernels.forEach((k, i) => {
    for (const { slot } of [...reads(k), k.output]) lastUse.set(slot, i);
  });
  try {
    for (const [i, kernel] of plan.kernels.entries()) {
      const used = [...new Set([...reads(kernel), kernel.output].map((a) => a.slot))];
      for (const slot of used) {
        if (!buffers.has(slot)) {
          const buffer = backend.allocate(plan.slots[slot]!.bytes);
          poison(backend, buffer);
          buffers.set(slot, buffer);
        }
      }
      const program = backend.compile(
        [mapSlots(kernel, (slot) => used.indexOf(slot))],
        used.map((slot) => ({ kind: "external", bytes: plan.slots[slot]!.bytes })),
      );
      program.run(used.map((slot) => buffers.get(slot)!));
      program.dispose();
      await checkNaN(backend, kernel, buffers);
      for (const slot of used) {
        if (lastUse.get(slot) === i && !bound.has(slot)) {
          backend.free(buffers.get(slot)!);
          buffers.delete(slot);
        }
      }
    }
  } finally {
    for (const [slot, buffer] of buffers) if (!bound.has(slot)) backend.free(buffer);
  }
}

function poison(backend: Backend, buffer: DeviceBuffer): void {
  backend.write(buffer, new Uint8Array(new Uint32Array(buffer.bytes / 4).fill(0x7fc00000).buffer));
}

async function checkNaN(
  backend: Backend,
  kernel: Kernel,
  buffers: ReadonlyMap<number, DeviceBuffer>,
): Promise<void> {
  if (kernel.output.dtype !== "f32") return;
  const bytes = await backend.read(buffers.get(kernel.output.slot)!);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  // Parts of a joined output that are still unwritten hold the poison, so look only at this part.
  const own = values.subarray(kernel.output.offset);
  const isPart = kernel.kind === "map" && sizeOf(kernel.shape) < values.length;
  const at = isPart ? -1 : own.findIndex((v) => Number.isNaN(v));
  if (at >= 0) {
    throw new Error(`NaN: first made by ${kernel.name}, element ${at}; its inputs held none`);
  }
}
