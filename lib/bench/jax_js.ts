/**
 * jax-js's times for the same work, on its WebAssembly backend and as many threads as it takes.
 *
 * It has no counterpart to the other rows: its convolutions run at a hundredth of its products' speed, so that
 * gradients and a training step would take minutes.
 *
 * @module
 */
import { measure } from "./measure.ts";

const VERSION = "0.1.25";

/** What its times are of. */
export const jaxJsDescription = `${VERSION}, WebAssembly, as many threads as it takes`;

/** A function that jax-js does, by name and shape of the table. */
interface JaxWorkload {
  readonly name: string;
  readonly shape: string;
  readonly inputs: readonly (readonly number[])[];
  readonly fn: (jax: Jax, inputs: readonly JaxArray[]) => JaxArray;
}

interface JaxArray {
  /** The array with one more owner; passing it on gives that up. */
  readonly ref: JaxArray;
  blockUntilReady(): Promise<JaxArray>;
  dispose(): void;
}

/** The part of jax-js's API that is used here. */
interface Jax {
  init(device: "wasm"): Promise<readonly string[]>;
  defaultDevice(device: "wasm"): void;
  jit(fn: (...inputs: JaxArray[]) => JaxArray): (...inputs: JaxArray[]) => JaxArray;
  readonly numpy: { matmul(a: JaxArray, b: JaxArray): JaxArray };
  readonly random: {
    key(seed: number): JaxArray;
    normal(key: JaxArray, shape: readonly number[]): JaxArray;
  };
  readonly lax: { conv(x: JaxArray, w: JaxArray, strides: number[], padding: string): JaxArray };
  readonly nn: { dotProductAttention(q: JaxArray, k: JaxArray, v: JaxArray): JaxArray };
}

const gemm = (name: string, m: number, k: number, n: number): JaxWorkload => ({
  name,
  shape: `${m}x${k}x${n}`,
  inputs: [[m, k], [k, n]],
  fn: ({ numpy }, [a, b]) => numpy.matmul(a!, b!),
});

// Its images have their channels first.
const convolution = (n: number, size: number, c: number): JaxWorkload => ({
  name: "conv3x3-forward",
  shape: `${n}x${size}x${size}x${c}->${c}`,
  inputs: [[n, c, size, size], [c, c, 3, 3]],
  fn: ({ lax }, [x, w]) => lax.conv(x!, w!, [1, 1], "SAME"),
});

const attentionInput = [4, 1024, 8, 40];

const jaxWorkloads: readonly JaxWorkload[] = [
  gemm("gemm", 512, 512, 512),
  gemm("gemm", 1024, 1024, 1024),
  gemm("gemm-skinny", 4096, 1024, 64),
  gemm("gemm-skinny", 4096, 64, 1024),
  convolution(16, 16, 96),
  convolution(8, 32, 64),
  {
    name: "attention",
    shape: "4x8x1024x40",
    inputs: [attentionInput, attentionInput, attentionInput],
    fn: ({ nn }, [q, k, v]) => nn.dotProductAttention(q!, k!, v!),
  },
];

/** How many rows there are whose name contains a word. */
export function countJaxRows(only: string): number {
  return jaxWorkloads.filter(({ name }) => name.includes(only)).length;
}

/** What {@linkcode benchJaxJs} runs. */
export interface JaxJsOptions {
  /** Time per row. */
  readonly seconds: number;
  /** Only rows whose name contains this. */
  readonly only: string;
  readonly onRow: (row: { readonly name: string }) => void;
}

/** What jax-js did, or why there is nothing to compare with. */
export interface JaxJsResult {
  readonly rows: readonly {
    readonly name: string;
    readonly shape: string;
    /** Best time. */
    readonly seconds: number;
  }[];
  readonly note?: string;
}

/** Runs jax-js, which is fetched from npm the first time. Where it can't be, that is a note. */
export async function benchJaxJs({ seconds, only, onRow }: JaxJsOptions): Promise<JaxJsResult> {
  // Not a literal, which would be fetched with the program whether it is asked for or not.
  const specifier = `npm:@jax-js/jax@${VERSION}` as string;
  let jax: Jax;
  try {
    jax = await import(specifier);
  } catch (error) {
    const why = error instanceof Error ? error.message : error;
    return { rows: [], note: `not compared with jax-js: ${specifier} can't be fetched (${why})` };
  }
  await jax.init("wasm");
  jax.defaultDevice("wasm");
  const backend = { name: "cpu" as const, finish: () => Promise.resolve() };
  const rows = [];
  for (const { name, shape, inputs, fn } of jaxWorkloads) {
    if (!name.includes(only)) continue;
    const arrays = inputs.map((of, i) => jax.random.normal(jax.random.key(i), of));
    await Promise.all(arrays.map((array) => array.ref.blockUntilReady()));
    const step = jax.jit((...given) => fn(jax, given));
    const { best } = await measure(async () => {
      const result = await step(...arrays.map((array) => array.ref)).blockUntilReady();
      result.dispose();
    }, { seconds, backend });
    for (const array of arrays) array.dispose();
    rows.push({ name, shape, seconds: best });
    onRow({ name });
  }
  return { rows };
}
