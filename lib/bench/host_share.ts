/**
 * How much of a replayed step is JavaScript rather than kernels, on the `cpu` device.
 *
 * Two parts are measured. Everything outside `Program.run` (drawing the batch, uploading it, binding
 * buffers) is what is left of a step's time when the time inside is taken away; a device that passes
 * all calls on to another one and holds a clock around `run` tells the two apart. Inside, the loop over
 * the kernels is JavaScript too: its cost is that of a plan with as many kernels of a single element.
 * Waiting at barriers belongs to the kernels, whose unevenness causes it.
 *
 * @module
 */
import type { DeviceBuffer, Program } from "../tensor/backend.ts";
import type { Kernel, Slot } from "../tensor/kernel.ts";
import type { Backend } from "../tensor/mod.ts";

/** A device that knows how long its programs ran. */
export class ClockedBackend implements Backend {
  readonly name: Backend["name"];
  readonly description: string;
  readonly maxInputs: number;
  readonly capacity: number | undefined;
  readonly largestBuffer: number;
  readonly #device: Backend;
  /** Seconds spent in `Program.run` so far. */
  inside = 0;

  constructor(device: Backend) {
    this.#device = device;
    this.name = device.name;
    this.description = device.description;
    this.maxInputs = device.maxInputs;
    this.capacity = device.capacity;
    this.largestBuffer = device.largestBuffer;
  }

  get liveBytes(): number {
    return this.#device.liveBytes;
  }

  allocate(bytes: number): DeviceBuffer {
    return this.#device.allocate(bytes);
  }

  free(buffer: DeviceBuffer): void {
    this.#device.free(buffer);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, byteOffset?: number): void {
    this.#device.write(buffer, data, byteOffset);
  }

  read(buffer: DeviceBuffer, byteOffset?: number, byteLength?: number): Promise<Uint8Array> {
    return this.#device.read(buffer, byteOffset, byteLength);
  }

  arenaBytes(kernels: readonly Kernel[], slots: readonly Slot[]): number {
    return this.#device.arenaBytes(kernels, slots);
  }

  compile(kernels: readonly Kernel[], slots: readonly Slot[]): Program {
    const program = this.#device.compile(kernels, slots);
    return {
      arenaBytes: program.arenaBytes,
      run: (bindings) => {
        const start = performance.now();
        program.run(bindings);
        this.inside += (performance.now() - start) / 1000;
      },
      dispose: () => program.dispose(),
    };
  }

  finish(): Promise<void> {
    return this.#device.finish();
  }

  close(): void {
    this.#device.close();
  }
}

/**
 * Seconds that a device takes to walk a plan of `count` kernels that compute next to nothing. The
 * kernels differ, as a step's do: calling the same code again and again would be cheaper.
 */
export function emptyPlanSeconds(backend: Backend, count: number): number {
  const access = { slot: 0, dtype: "f32" as const, strides: [1], offset: 0 };
  const kernels = Array.from({ length: count }, (_, i): Kernel => ({
    kind: "map",
    name: `empty ${i}`,
    shape: [1],
    inputs: [],
    output: access,
    expr: { kind: "const", type: "f32", value: i },
  }));
  const program = backend.compile(kernels, [{ kind: "external", bytes: 4 }]);
  const buffer = backend.allocate(4);
  let best = Infinity;
  for (let i = 0; i < REPLAYS; i++) {
    const start = performance.now();
    program.run([buffer]);
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  program.dispose();
  backend.free(buffer);
  return best;
}

const REPLAYS = 100;

/** A step's time, and JavaScript's part of it. */
export interface HostShare {
  /** Mean seconds of a step. */
  readonly step: number;
  /** Seconds of it outside `Program.run`. */
  readonly outside: number;
  /** Seconds of the loop over the kernels. */
  readonly loop: number;
  /** `(outside + loop) / step` */
  readonly share: number;
}

/**
 * Measures JavaScript's share of a step.
 *
 * @param run One step, prepared while `backend` was the current device.
 * @param kernels How many kernels it has.
 * @param seconds How long to measure.
 */
export async function measureHostShare(
  run: () => Promise<void>,
  kernels: number,
  { backend, seconds }: { readonly backend: ClockedBackend; readonly seconds: number },
): Promise<HostShare> {
  const before = backend.inside;
  const start = performance.now();
  let count = 0;
  let elapsed = 0;
  while (count === 0 || elapsed < seconds) {
    await run();
    count++;
    elapsed = (performance.now() - start) / 1000;
  }
  const step = elapsed / count;
  const outside = step - (backend.inside - before) / count;
  const loop = emptyPlanSeconds(backend, kernels);
  return { step, outside, loop, share: (outside + loop) / step };
}
