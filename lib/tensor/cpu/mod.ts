/**
 * The `cpu` device: WebAssembly SIMD kernels written at run time, over one shared memory, by a team of
 * threads.
 *
 * @module
 */
import { Worker } from "node:worker_threads";
import type { Backend, DeviceBuffer, Program } from "../backend.ts";
import type { Kernel, Slot } from "../kernel.ts";
import type { Compiled } from "./map.ts";
import { Heap, HEAP_BYTES, type Life, planArena } from "./memory.ts";
import { type Draft, draft, type DraftProgram, type Operand } from "./program.ts";
import { Control, type Message, type Run, runSteps, type Step } from "./team.ts";
import { hasRelaxedSimd } from "./wasm.ts";

interface CpuBuffer extends DeviceBuffer {
  readonly at: number;
}

/** Steps cheaper than this (in nanoseconds) are not worth a barrier. */
const ALONE = 15_000;
/** Chunks of a step per thread: enough to even out threads that are not equally fast. */
const CHUNKS = 4;

/** Opens the CPU. */
export function openCpu(options: { threads?: number } = {}): Backend {
  return new Cpu(Math.max(1, options.threads ?? navigator.hardwareConcurrency));
}

class Cpu implements Backend {
  readonly name = "cpu";
  readonly maxInputs = 64;
  readonly capacity = HEAP_BYTES;
  readonly largestBuffer = HEAP_BYTES;
  readonly description: string;
  readonly #heap = new Heap();
  readonly #workers: Worker[] = [];
  readonly #control: Int32Array;
  readonly #controlAt: number;
  readonly #kernelIds = new Map<string, number>();
  readonly #modules: WebAssembly.Module[] = [];
  readonly #kernels: Run[] = [];
  #words: Int32Array;
  #known = 0;
  #nextPlan = 1;

  constructor(threads: number) {
    const simd = hasRelaxedSimd ? "relaxed SIMD" : "SIMD";
    this.description = `${threads} thread${threads === 1 ? "" : "s"}, WebAssembly ${simd}`;
    this.#words = new Int32Array(this.#heap.memory.buffer);
    this.#controlAt = this.#heap.allocate(Control.words * 4);
    this.#control = this.#words.subarray(
      this.#controlAt >>> 2,
      (this.#controlAt >>> 2) + Control.words,
    );
    for (let me = 1; me < threads; me++) {
      // Node's workers, as they can be told not to keep the process alive; Deno's own can't.
      const worker = new Worker(new URL("./worker.ts", import.meta.url));
      worker.unref();
      const { memory } = this.#heap;
      worker.postMessage({ type: "start", memory, control: this.#controlAt, me } satisfies Message);
      this.#workers.push(worker);
    }
  }

  get liveBytes(): number {
    return this.#heap.held;
  }

  allocate(bytes: number): CpuBuffer {
    return { bytes, at: this.#heap.allocate(bytes) };
  }

  free(buffer: DeviceBuffer): void {
    this.#heap.free((buffer as CpuBuffer).at, buffer.bytes);
  }

  write(buffer: DeviceBuffer, data: Uint8Array, byteOffset = 0): void {
    const { at, bytes } = buffer as CpuBuffer;
    if (byteOffset + data.byteLength > bytes) {
      throw new RangeError(
        `write: ${data.byteLength} bytes at ${byteOffset} exceed a buffer of ${bytes}`,
      );
    }
    new Uint8Array(this.#heap.memory.buffer, at + byteOffset, data.byteLength).set(data);
  }

  read(buffer: DeviceBuffer, byteOffset = 0, byteLength = buffer.bytes): Promise<Uint8Array> {
    const { at } = buffer as CpuBuffer;
    const view = new Uint8Array(this.#heap.memory.buffer, at + byteOffset, byteLength);
    return Promise.resolve(view.slice());
  }

  finish(): Promise<void> {
    return Promise.resolve();
  }

  close(): void {
    this.#command(-1);
    this.#workers.length = 0;
  }

  arenaBytes(kernels: readonly Kernel[], slots: readonly Slot[]): number {
    return arenaOf(draft(kernels, slots)).bytes;
  }

  compile(kernels: readonly Kernel[], given: readonly Slot[]): Program {
    const drafted = draft(kernels, given);
    const { steps, slots, tables, zeroBytes } = drafted;
    const arena = arenaOf(drafted);
    const owned: { at: number; bytes: number }[] = [];
    const own = (bytes: number): number => {
      const at = this.#heap.allocate(bytes);
      owned.push({ at, bytes });
      return at;
    };
    const base = own(arena.bytes);
    const zeros = own(zeroBytes);
    this.#bytesAt(zeros, zeroBytes).fill(0);
    const tableAt = new Map<string, number>();
    for (const [key, make] of tables) {
      const table = make();
      const at = own(table.byteLength);
      this.#bytesAt(at, table.byteLength).set(new Uint8Array(table.buffer));
      tableAt.set(key, at);
    }
    // Arguments and counters of all steps lie in one block.
    const argWords = steps.reduce(
      (n, s) => n + s.operands.length + (s.then?.operands.length ?? 0) + 1,
      0,
    );
    const block = own(argWords * 4);
    this.#refresh();
    const words = this.#words;
    words.fill(0, block >>> 2, (block >>> 2) + argWords);
    let next = block;
    const patches: { word: number; slot: number }[] = [];
    const place = (operands: readonly Operand[]): number => {
      const at = next;
      for (const operand of operands) {
        const word = next >>> 2;
        next += 4;
        if ("zeros" in operand) words[word] = zeros;
        else if ("table" in operand) words[word] = tableAt.get(operand.table)!;
        else if (slots[operand.slot]!.kind === "external") {
          patches.push({ word, slot: operand.slot });
        } else words[word] = base + arena.offsets[operand.slot]!;
      }
      return at;
    };
    const threads = this.#workers.length + 1;
    const plan = steps.map((step): Step => {
      const args = place(step.operands);
      const thenArgs = step.then ? place(step.then.operands) : 0;
      const counter = next;
      next += 4;
      return this.#step(step, args, thenArgs, counter, threads);
    });
    const order = new Map<number, number>();
    slots.forEach((s, i) => {
      if (s.kind === "external") order.set(i, order.size);
    });
    const cost = steps.reduce((sum, s) => sum + s.compiled.cost + (s.then?.compiled.cost ?? 0), 0);
    return this.#program(
      plan,
      patches.map(({ word, slot }) => ({ word, binding: order.get(slot)! })),
      owned,
      arena.bytes,
      cost,
    );
  }

  #step(step: Draft, args: number, thenArgs: number, counter: number, threads: number): Step {
    const { compiled, then, most } = step;
    const { units } = compiled;
    const cost = compiled.cost + (then?.compiled.cost ?? 0);
    const even = Math.ceil(units / (threads * CHUNKS));
    const chunk = Math.max(1, Math.min(even, most));
    let rows: Int32Array | undefined;
    if (then) {
      rows = Int32Array.from({ length: units + 1 }, (_, unit) => then.firstRow(unit));
    }
    return {
      kernel: this.#kernel(compiled),
      args,
      ...then && rows
        ? { then: { kernel: this.#kernel(then.compiled), args: thenArgs, rows } }
        : {},
      units,
      chunk,
      alone: cost < ALONE || units < 2,
      counter,
    };
  }

  #program(
    steps: readonly Step[],
    patches: readonly { word: number; binding: number }[],
    owned: readonly { at: number; bytes: number }[],
    arenaBytes: number,
    cost: number,
  ): Program {
    let id = 0;
    const shared = cost > 10 * ALONE && this.#workers.length > 0;
    const run = (bindings: readonly DeviceBuffer[]) => {
      this.#refresh();
      for (const { word, binding } of patches) {
        this.#words[word] = (bindings[binding] as CpuBuffer).at;
      }
      const ready = Atomics.load(this.#control, Control.ready) === this.#workers.length;
      // A team that lost a thread no longer meets at its barriers: from then on this thread works alone.
      const whole = ready && Atomics.load(this.#control, Control.failed) === 0;
      const threads = shared && whole ? this.#workers.length + 1 : 1;
      if (threads > 1) {
        if (id === 0) id = this.#announce(steps);
        Atomics.store(this.#control, Control.threads, threads);
        this.#command(id);
      }
      try {
        runSteps(steps, this.#kernels, this.#words, this.#control, threads, 0);
      } catch (error) {
        if (threads > 1) Atomics.store(this.#control, Control.failed, 1);
        throw error;
      }
    };
    const dispose = () => {
      for (const { at, bytes } of owned) this.#heap.free(at, bytes);
      if (id > 0) this.#tell({ type: "forget", id });
    };
    return { arenaBytes, run, dispose };
  }

  /** Sends a plan, with the kernels that the workers lack. */
  #announce(steps: readonly Step[]): number {
    const id = this.#nextPlan++;
    const kernels = this.#modules.slice(this.#known).map((m, i) => [this.#known + i, m] as const);
    this.#known = this.#modules.length;
    this.#tell({ type: "plan", id, steps, kernels });
    return id;
  }

  #tell(message: Message): void {
    this.#command(0);
    for (const worker of this.#workers) worker.postMessage(message);
  }

  #command(plan: number): void {
    // Odd while the plan changes, so that a worker never takes a new plan for an old command.
    Atomics.add(this.#control, Control.command, 1);
    Atomics.store(this.#control, Control.plan, plan);
    Atomics.add(this.#control, Control.command, 1);
    Atomics.notify(this.#control, Control.command);
  }

  #kernel(compiled: Compiled): number {
    const known = this.#kernelIds.get(compiled.key);
    if (known !== undefined) return known;
    const module = new WebAssembly.Module(compiled.bytes());
    const instance = new WebAssembly.Instance(module, { env: { memory: this.#heap.memory } });
    const id = this.#modules.push(module) - 1;
    this.#kernels.push(instance.exports["run"] as Run);
    this.#kernelIds.set(compiled.key, id);
    return id;
  }

  #bytesAt(at: number, bytes: number): Uint8Array {
    return new Uint8Array(this.#heap.memory.buffer, at, bytes);
  }

  #refresh(): void {
    const { buffer } = this.#heap.memory;
    if (this.#words.byteLength !== buffer.byteLength) this.#words = new Int32Array(buffer);
  }
}

function arenaOf({ slots }: DraftProgram): { offsets: number[]; bytes: number } {
  return planArena(
    slots.map((s): Life => s.kind === "arena" ? s : { bytes: 0, first: 0, last: 0 }),
  );
}
