/**
 * The machine's limit: multiply-adds per second when nothing is loaded or stored.
 *
 * On the CPU it is that of WebAssembly's 128-bit SIMD, on as many threads as the kernels run on; a
 * processor with wider vectors could do more outside WebAssembly.
 *
 * @module
 */
import type { Expr } from "../tensor/kernel.ts";
import type { Backend } from "../tensor/mod.ts";
import { assemble, Code, hasRelaxedSimd, I32, V128 } from "../tensor/cpu/wasm.ts";
import { measure, type MeasureOptions } from "./measure.ts";

/** The limit and how it was found. */
export interface Limit {
  /** Floating-point operations per second; a multiply-add counts as two. */
  readonly flops: number;
  readonly description: string;
}

/**
 * Measures the limit of a device.
 *
 * @param threads Threads of the `cpu` device.
 */
export async function measureLimit(
  threads: number,
  options: MeasureOptions & { readonly backend: Backend },
): Promise<Limit> {
  return options.backend.name === "cpu"
    ? await cpuLimit(threads, options)
    : await gpuLimit(options.backend, options);
}

/** Independent chains: two units of latency four want eight, and registers are sixteen. */
const CHAINS = 12;
/** Multiply-adds per chain and turn of the loop. */
const UNROLL = 8;
/** Turns of the loop per unit of work: about a millisecond. */
const TURNS = 40_000;
/** Units of work per thread and round. */
const UNITS = 16;
/** Where the loop's results go, so that no compiler drops it; the counter is before it. */
const RESULTS = 16;

/** What a thread needs. */
export interface Task {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  /** Units of work of all threads together. */
  readonly units: number;
}

/** Takes units one by one, as kernels' are taken, until a round has none left. */
export function takeUnits({ module, memory, units }: Task): void {
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const run = exports["run"] as (results: number, begin: number, end: number) => void;
  const counter = new Int32Array(memory.buffer, 0, 1);
  for (;;) {
    const unit = Atomics.add(counter, 0, 1);
    if (unit >= units) return;
    run(RESULTS, unit, unit + 1);
  }
}

/** `run(results, begin, end)`: chains of `x = a b + x` in registers. */
function multiplyAdds(): Uint8Array<ArrayBuffer> {
  const code = new Code(3);
  const [results, unit, end] = [0, 1, 2];
  const chains = Array.from({ length: CHAINS }, () => code.local(V128));
  const [a, b] = [code.local(V128), code.local(V128)];
  const turn = code.local(I32);
  // Sums stay far from overflow and from denormal numbers.
  code.f32x4(1e-3).set(a).f32x4(1e-3).set(b);
  code.for(unit, { local: end }, 1, () => {
    chains.forEach((x, i) => code.f32x4(i).set(x));
    code.i32(0).set(turn);
    code.for(turn, TURNS, 1, () => {
      for (let i = 0; i < UNROLL; i++) {
        for (const x of chains) {
          if (hasRelaxedSimd) code.get(a).get(b).get(x).op("f32x4.relaxed_madd").set(x);
          else code.get(x).get(a).get(b).op("f32x4.mul").op("f32x4.add").set(x);
        }
      }
    });
    code.get(results).get(unit).i32(4).op("i32.shl").op("i32.add");
    chains.forEach((x, i) => i === 0 ? code.get(x) : code.get(x).op("f32x4.add"));
    code.memory("v128.store");
  });
  return assemble([{ params: 3, code }]);
}

async function cpuLimit(threads: number, options: MeasureOptions): Promise<Limit> {
  const units = UNITS * threads;
  const pages = Math.ceil((RESULTS + 16 * units) / 65536);
  const task: Task = {
    module: new WebAssembly.Module(multiplyAdds()),
    memory: new WebAssembly.Memory({ initial: pages, maximum: 65536, shared: true }),
    units,
  };
  const workers = Array.from(
    { length: threads - 1 },
    () => new Worker(new URL("./limit_worker.ts", import.meta.url), { type: "module" }),
  );
  /** Sends a message to every worker and waits for all answers; meanwhile this thread works too. */
  const tell = async (message: Task | "round", meanwhile?: () => void) => {
    const answers = workers.map((worker) =>
      new Promise<void>((resolve, reject) => {
        worker.onmessage = () => resolve();
        worker.onerror = ({ message }) => reject(new Error(`the limit's thread: ${message}`));
      })
    );
    for (const worker of workers) worker.postMessage(message);
    meanwhile?.();
    await Promise.all(answers);
  };
  const counter = new Int32Array(task.memory.buffer, 0, 1);
  try {
    await tell(task);
    const { best } = await measure(() => {
      Atomics.store(counter, 0, 0);
      return tell("round", () => takeUnits(task));
    }, options);
    return {
      flops: 2 * 4 * CHAINS * UNROLL * TURNS * units / best,
      description: `${hasRelaxedSimd ? "fused" : "separate"} multiply-adds in 128-bit registers, ` +
        `${threads} thread${threads === 1 ? "" : "s"}, WebAssembly`,
    };
  } finally {
    for (const worker of workers) worker.terminate();
  }
}

/** Elements, each with a chain of its own, and multiply-adds in a chain. */
const ELEMENTS = 2 ** 20;
const LENGTH = 256;

async function gpuLimit(backend: Backend, options: MeasureOptions): Promise<Limit> {
  const load: Expr = { kind: "load", type: "f32", input: 0 };
  let expr: Expr = load;
  for (let i = 0; i < LENGTH; i++) {
    const product: Expr = { kind: "binary", type: "f32", op: "mul", a: expr, b: load };
    expr = { kind: "binary", type: "f32", op: "add", a: product, b: load };
  }
  const access = { dtype: "f32" as const, strides: [1], offset: 0 };
  const external = { kind: "external" as const, bytes: 4 * ELEMENTS };
  const program = backend.compile([{
    kind: "map",
    name: "limit",
    shape: [ELEMENTS],
    inputs: [{ ...access, slot: 0 }],
    output: { ...access, slot: 1 },
    expr,
  }], [external, external]);
  const buffers = [backend.allocate(external.bytes), backend.allocate(external.bytes)];
  backend.write(buffers[0]!, new Uint8Array(new Float32Array(ELEMENTS).fill(0.5).buffer));
  try {
    const { best } = await measure(() => {
      program.run(buffers);
      return Promise.resolve();
    }, options);
    return {
      flops: 2 * LENGTH * ELEMENTS / best,
      description: "multiply-adds in registers, one chain per element",
    };
  } finally {
    program.dispose();
    for (const buffer of buffers) backend.free(buffer);
  }
}
