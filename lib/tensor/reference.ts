/**
 * The plain meaning of every operation: an interpreter that walks a lazy graph in double precision,
 * one row per operation, with loops instead of cleverness. Tests take it as the truth.
 *
 * @module
 */
import { decodeF16 } from "./f16.ts";
import type { BinaryOp, ConvShape, DType, UnaryOp } from "./kernel.ts";
import { contiguousStrides, type Shape, show, sizeOf } from "./shape.ts";
import type { Source, Tensor } from "./tensor.ts";

/** The scalar functions of one argument. */
export const UNARY: Readonly<Record<UnaryOp, (x: number) => number>> = {
  neg: (x) => -x,
  abs: Math.abs,
  exp: Math.exp,
  log: Math.log,
  sqrt: Math.sqrt,
  rsqrt: (x) => 1 / Math.sqrt(x),
  recip: (x) => 1 / x,
  sin: Math.sin,
  cos: Math.cos,
  tanh: Math.tanh,
  erf,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  floor: Math.floor,
};

/** The scalar functions of two arguments. */
export const BINARY: Readonly<Record<BinaryOp, (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  lt: (a, b) => a < b ? 1 : 0,
  eq: (a, b) => a === b ? 1 : 0,
};

/** The error function by `2/sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (2n+1)!!`, whose terms never cancel. */
function erf(x: number): number {
  if (!(Math.abs(x) < 6)) return Number.isNaN(x) ? x : Math.sign(x);
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > Math.abs(sum) * 1e-17; n++) {
    term *= 2 * x * x / (2 * n + 1);
    sum += term;
  }
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

/** Computes a node's elements, in row-major order, from those of its inputs. */
type Rule<S extends Source> = (
  source: S,
  node: Tensor,
  inputs: readonly Float64Array[],
) => number[];

/** What every operation means. */
export const RULES: { readonly [K in Source["op"]]: Rule<Extract<Source, { op: K }>> } = {
  host: ({ data }) => [...(data instanceof Uint16Array ? decodeF16(data) : data)],
  constant: ({ value }, node) => new Array<number>(node.size).fill(value),
  input: (_, node) => {
    throw new Error(`reference: an input of shape ${show(node.shape)} was given no value`);
  },
  unary: ({ fn }, _, [x]) => Array.from(x!, UNARY[fn]),
  binary: ({ fn }, node, [a, b]) => {
    // Integers wrap, and their products need more bits than a double has.
    const f = node.dtype === "i32" && fn === "mul" ? Math.imul : BINARY[fn];
    return Array.from(a!, (v, i) => f(v, b![i]!));
  },
  where: (_, __, [test, a, b]) => Array.from(test!, (t, i) => t !== 0 ? a![i]! : b![i]!),
  cast: (_, __, [x]) => [...x!],
  take: (_, __, [table, index]) => Array.from(index!, (i) => table![i]!),
  move: ({ move }, node, [x]) => {
    const from = node.inputs[0]!.shape;
    const walk = contiguousStrides(from);
    switch (move.kind) {
      case "reshape":
        return [...x!];
      case "permute":
        return coordinates(node.shape).map((c) =>
          x![dot(c, move.axes.map((axis) => walk[axis]!))]!
        );
      case "expand": {
        const lead = node.rank - from.length;
        return coordinates(node.shape).map((c) =>
          x![dot(c.slice(lead).map((i, axis) => from[axis] === 1 ? 0 : i), walk)]!
        );
      }
      case "slice":
        return coordinates(node.shape).map((c) =>
          x![dot(c.map((i, axis) => axis === move.axis ? i + move.start : i), walk)]!
        );
    }
  },
  sum: ({ axes }, node, [x]) => reduce(node, axes, x!, 0, (a, b) => a + b),
  max: ({ axes }, node, [x]) => reduce(node, axes, x!, -Infinity, Math.max),
  matmul: (_, node, [a, b]) => {
    const [m, n] = node.shape.slice(-2) as [number, number];
    const k = node.inputs[0]!.shape.at(-1)!;
    return coordinates(node.shape).map((_, at) => {
      const [batch, i, j] = [Math.floor(at / (m * n)), Math.floor(at / n) % m, at % n];
      let sum = 0;
      for (let l = 0; l < k; l++) {
        sum += a![(batch * m + i) * k + l]! * b![(batch * k + l) * n + j]!;
      }
      return sum;
    });
  },
  conv2d: ({ variant, conv }, node, [a, b]) => {
    const out = new Array<number>(node.size).fill(0);
    eachProduct(conv, (x, w, y) => {
      if (variant === "forward") out[y]! += a![x]! * b![w]!;
      else if (variant === "input") out[x]! += a![y]! * b![w]!;
      else out[w]! += a![x]! * b![y]!;
    });
    return out;
  },
  scatter: (_, node, [index, values]) => {
    const width = node.shape[1]!;
    const out = new Array<number>(node.size).fill(0);
    values!.forEach((v, i) => out[index![Math.floor(i / width)]! * width + i % width]! += v);
    return out;
  },
  concat: ({ axis }, node, parts) => {
    const walks = node.inputs.map((part) => contiguousStrides(part.shape));
    return coordinates(node.shape).map((c) => {
      let part = 0;
      let at = c[axis]!;
      while (at >= node.inputs[part]!.shape[axis]!) at -= node.inputs[part++]!.shape[axis]!;
      return parts[part]![dot(c.map((i, k) => k === axis ? at : i), walks[part]!)]!;
    });
  },
  stopGradient: (_, __, [x]) => [...x!],
  checkpoint: () => [],
  project: (_, __, [, inner]) => [...inner!],
};

/** Storing a value in each type; f32 stays in double precision, so that differences can be taken. */
const STORE: Readonly<Record<DType, (x: number) => number>> = {
  f32: (x) => x,
  f16: Math.f16round,
  // Like the devices, from floats: truncated towards zero and kept within bounds.
  i32: (x) => Math.max(-(2 ** 31), Math.min(2 ** 31 - 1, Math.trunc(x))) || 0,
  u8: (x) => Math.trunc(x) & 255,
};

/**
 * The value of a tensor.
 *
 * @param values Values of tensors that are not computed: inputs, realised tensors, or lazy ones that
 * are to be taken as given.
 * @throws Where a tensor without a graph has no value.
 */
export function evaluate(
  root: Tensor,
  values: ReadonlyMap<Tensor, ArrayLike<number>> = new Map(),
): Float64Array {
  const known = new Map<Tensor, Float64Array>();
  for (const [node, value] of values) known.set(node, Float64Array.from(value));
  const stack = [root];
  while (stack.length > 0) {
    const node = stack[stack.length - 1]!;
    const missing = known.has(node) ? [] : node.inputs.filter((x) => !known.has(x));
    if (missing.length > 0) stack.push(...missing);
    else {
      if (!known.has(node)) known.set(node, compute(node, node.inputs.map((x) => known.get(x)!)));
      stack.pop();
    }
  }
  return known.get(root)!;
}

function compute(node: Tensor, inputs: readonly Float64Array[]): Float64Array {
  const { source } = node;
  if (!source) {
    throw new Error(
      `reference: a realised tensor of shape ${show(node.shape)} lies on a device; give its value`,
    );
  }
  const rule = RULES[source.op] as Rule<Source>;
  const wraps = node.dtype === "i32" && source.op !== "cast";
  const store = wraps ? (x: number) => x | 0 : STORE[node.dtype];
  return Float64Array.from(rule(source, node, inputs), store);
}

/** Every coordinate of a shape, in row-major order. */
function coordinates(shape: Shape): number[][] {
  const strides = contiguousStrides(shape);
  return Array.from(
    { length: sizeOf(shape) },
    (_, at) => shape.map((n, axis) => Math.floor(at / strides[axis]!) % n),
  );
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, x, i) => sum + x * b[i]!, 0);
}

function reduce(
  node: Tensor,
  axes: readonly number[],
  x: Float64Array,
  start: number,
  combine: (a: number, b: number) => number,
): number[] {
  const out = new Array<number>(node.size).fill(start);
  const walk = contiguousStrides(node.shape);
  coordinates(node.inputs[0]!.shape).forEach((c, i) => {
    const at = dot(c.filter((_, axis) => !axes.includes(axis)), walk);
    out[at] = combine(out[at]!, x[i]!);
  });
  return out;
}

/** Visits the offsets into x, w and y of every product that a convolution sums. */
function eachProduct(s: ConvShape, visit: (x: number, w: number, y: number) => void): void {
  const outputs = coordinates([s.batch, s.outHeight, s.outWidth, s.outChannels]);
  outputs.forEach(([n, oy, ox, co], y) => {
    for (let ky = 0; ky < s.kernelHeight; ky++) {
      for (let kx = 0; kx < s.kernelWidth; kx++) {
        const row = oy! * s.stride + ky - s.padTop;
        const column = ox! * s.stride + kx - s.padLeft;
        if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
        for (let ci = 0; ci < s.inChannels; ci++) {
          const x = ((n! * s.height + row) * s.width + column) * s.inChannels + ci;
          const w = ((ky * s.kernelWidth + kx) * s.inChannels + ci) * s.outChannels + co!;
          visit(x, w, y);
        }
      }
    }
  });
}
