/**
 * A team of threads that runs a list of steps in lockstep: the main thread and the workers all walk
 * the same list, share out each step's units, and meet at a barrier before the next one.
 *
 * @module
 */

/** A compiled kernel, instantiated in this thread. */
export type Run = (args: number, begin: number, end: number) => void;

/** One step of a plan. */
export interface Step {
  readonly kernel: number;
  readonly args: number;
  /** A map to run over the rows that the kernel has just computed. */
  readonly then?: { readonly kernel: number; readonly args: number; readonly rows: Int32Array };
  readonly units: number;
  /** Units that a thread takes at a time. */
  readonly chunk: number;
  /** Too small to share: the main thread runs it alone. */
  readonly alone: boolean;
  /** Address of the shared counter of units taken. */
  readonly counter: number;
}

/** Words at the start of the shared control block. */
export const Control = {
  /** Grows by two whenever the workers should look at `plan`; odd while `plan` is changing. */
  command: 0,
  /** The plan to run; 0: messages are waiting; -1: the end. */
  plan: 1,
  threads: 2,
  arrived: 3,
  generation: 4,
  ready: 5,
  /** Not zero once a thread has failed. */
  failed: 6,
  words: 16,
} as const;

/** Looks at a barrier this often before sleeping: a wake-up costs more than a short wait. */
const SPINS = 20_000;

/** Waits until all threads are here. */
function barrier(control: Int32Array, threads: number): void {
  const generation = Atomics.load(control, Control.generation);
  if (Atomics.add(control, Control.arrived, 1) === threads - 1) {
    Atomics.store(control, Control.arrived, 0);
    Atomics.add(control, Control.generation, 1);
    Atomics.notify(control, Control.generation);
    return;
  }
  for (let i = 0; i < SPINS; i++) {
    if (Atomics.load(control, Control.generation) !== generation) return;
  }
  while (Atomics.load(control, Control.generation) === generation) {
    Atomics.wait(control, Control.generation, generation, 1000);
    if (Atomics.load(control, Control.failed)) {
      throw new Error("a thread of the cpu device failed: its message is above");
    }
  }
}

/** Runs a plan's steps as thread `me` of `threads`. */
export function runSteps(
  steps: readonly Step[],
  kernels: readonly Run[],
  words: Int32Array,
  control: Int32Array,
  threads: number,
  me: number,
): void {
  let open = false;
  for (const step of steps) {
    if (threads === 1) {
      runChunks(step, kernels, 0, step.units);
      continue;
    }
    if (step.alone) {
      if (me === 0) runChunks(step, kernels, 0, step.units);
      open = true;
      continue;
    }
    if (open) barrier(control, threads);
    open = false;
    const { units, chunk } = step;
    const counter = step.counter >>> 2;
    for (;;) {
      const begin = Atomics.add(words, counter, chunk);
      if (begin >= units) break;
      runChunk(step, kernels, begin, Math.min(begin + chunk, units));
    }
    barrier(control, threads);
    if (me === 0) Atomics.store(words, counter, 0);
  }
}

/** A whole step in one thread, still chunk by chunk: a chunk's rows stay in cache for the map after it. */
function runChunks(step: Step, kernels: readonly Run[], begin: number, end: number): void {
  const size = step.then ? step.chunk : end - begin;
  for (let at = begin; at < end; at += size) {
    runChunk(step, kernels, at, Math.min(at + size, end));
  }
}

function runChunk(step: Step, kernels: readonly Run[], begin: number, end: number): void {
  kernels[step.kernel]!(step.args, begin, end);
  const { then } = step;
  if (then) kernels[then.kernel]!(then.args, then.rows[begin]!, then.rows[end]!);
}

/** What the main thread tells a worker. */
export type Message =
  | {
    readonly type: "start";
    readonly memory: WebAssembly.Memory;
    readonly control: number;
    readonly me: number;
  }
  | {
    readonly type: "plan";
    readonly id: number;
    readonly steps: readonly Step[];
    readonly kernels: readonly (readonly [number, WebAssembly.Module])[];
  }
  | { readonly type: "forget"; readonly id: number };
