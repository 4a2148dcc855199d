/**
 * The cases that every operation is tested with: one row per operation, so that an operation without
 * a case does not type-check. Values, gradients and fusion are all tested on these.
 *
 * @module
 */
import { encodeF16 } from "../../lib/tensor/f16.ts";
import type { BinaryOp, ConvShape, DType, UnaryOp } from "../../lib/tensor/kernel.ts";
import {
  attention,
  checkpoint,
  concat,
  conv2d,
  full,
  gather,
  type Padding,
  randomUniform,
  scatterAdd,
  type Shape,
  stopGradient,
  take,
  type Tensor,
  tensor,
  where,
} from "../../lib/tensor/mod.ts";
import { sizeOf } from "../../lib/tensor/shape.ts";
import { constant, convolve, type Source } from "../../lib/tensor/tensor.ts";

/** A random operand. */
export interface Input {
  readonly shape: Shape;
  readonly dtype: DType;
  /** Bounds of the values: integers for `i32` and `u8`, the upper bound excluded. */
  readonly low: number;
  readonly high: number;
}

/** One use of an operation. */
export interface Case {
  readonly name: string;
  readonly inputs: readonly Input[];
  readonly build: (...inputs: Tensor[]) => Tensor;
  /** The largest error of a device, relative to `max(1, |value|)`. */
  readonly tolerance: number;
  /** Whether the value changes smoothly with the inputs. */
  readonly smooth: boolean;
}

/** Ten units in the last place: one rounding per step of an expression of a few steps. */
const CLOSE = 1.2e-6;

/** An operand of floats in [-1, 1). */
const f32 = (...shape: number[]): Input => ({ shape, dtype: "f32", low: -1, high: 1 });
const f16 = (...shape: number[]): Input => ({ ...f32(...shape), dtype: "f16" });
const between = (low: number, high: number, ...shape: number[]): Input => ({
  shape,
  dtype: "f32",
  low,
  high,
});
const i32 = (low: number, high: number, ...shape: number[]): Input => ({
  shape,
  dtype: "i32",
  low,
  high,
});
const u8 = (...shape: number[]): Input => ({ shape, dtype: "u8", low: 0, high: 256 });

function smooth(
  name: string,
  inputs: readonly Input[],
  build: Case["build"],
  tolerance = CLOSE,
): Case {
  return { name, inputs, build, tolerance, smooth: true };
}

/** A case without a derivative: integers, rounding, comparisons. */
function rough(
  name: string,
  inputs: readonly Input[],
  build: Case["build"],
  tolerance = CLOSE,
): Case {
  return { name, inputs, build, tolerance, smooth: false };
}

/** Where each function is tested; away from poles, where a tolerance would say nothing. */
export const UNARY_RANGE: Readonly<Record<UnaryOp, readonly [low: number, high: number]>> = {
  neg: [-2, 2],
  abs: [-2, 2],
  exp: [-4, 3],
  log: [0.1, 8],
  sqrt: [0.1, 8],
  rsqrt: [0.1, 8],
  recip: [0.3, 4],
  sin: [-8, 8],
  cos: [-8, 8],
  tanh: [-4, 4],
  erf: [-3, 3],
  sigmoid: [-6, 6],
  floor: [-4, 4],
};

/** The range of the second operand of each function. */
const BINARY_RANGE: Readonly<Record<BinaryOp, readonly [low: number, high: number]>> = {
  add: [-2, 2],
  sub: [-2, 2],
  mul: [-2, 2],
  div: [0.3, 3],
  max: [-2, 2],
  min: [-2, 2],
  lt: [-2, 2],
  eq: [-2, 2],
};

/** The method of each scalar function. */
export const UNARY_CALL: Readonly<Record<UnaryOp, (x: Tensor) => Tensor>> = {
  neg: (x) => x.neg(),
  abs: (x) => x.abs(),
  exp: (x) => x.exp(),
  log: (x) => x.log(),
  sqrt: (x) => x.sqrt(),
  rsqrt: (x) => x.rsqrt(),
  recip: (x) => x.reciprocal(),
  sin: (x) => x.sin(),
  cos: (x) => x.cos(),
  tanh: (x) => x.tanh(),
  erf: (x) => x.erf(),
  sigmoid: (x) => x.sigmoid(),
  floor: (x) => x.floor(),
};

/** The method of each scalar function of two arguments. */
export const BINARY_CALL: Readonly<
  Record<BinaryOp, (a: Tensor, b: Tensor | number) => Tensor>
> = {
  add: (a, b) => a.add(b),
  sub: (a, b) => a.sub(b),
  mul: (a, b) => a.mul(b),
  div: (a, b) => a.div(b),
  max: (a, b) => a.maximum(b),
  min: (a, b) => a.minimum(b),
  lt: (a, b) => a.lt(b),
  eq: (a, b) => a.eq(b),
};

const entries = <K extends string, V>(record: Readonly<Record<K, V>>) =>
  Object.entries(record) as [K, V][];

/** Steps and comparisons have a derivative of zero, which differences across a step don't. */
const isSmooth = (fn: UnaryOp | BinaryOp) => fn !== "floor" && fn !== "lt" && fn !== "eq";

function unaryCases(): Case[] {
  return entries(UNARY_CALL).flatMap(([fn, call]) => {
    const [low, high] = UNARY_RANGE[fn];
    const make = isSmooth(fn) ? smooth : rough;
    return [
      make(fn, [between(low, high, 3, 5)], call),
      make(`${fn} of one number`, [between(low, high)], call),
      // Longer than a block of the cpu's rows, with a tail.
      rough(`${fn} of many`, [between(low, high, 1031)], call),
    ];
  });
}

function binaryCases(): Case[] {
  const floats = entries(BINARY_CALL).flatMap(([fn, call]) => {
    const [low, high] = BINARY_RANGE[fn];
    const make = isSmooth(fn) ? smooth : rough;
    return [
      make(fn, [f32(4, 3), between(low, high, 4, 3)], call),
      make(`${fn}, both broadcast`, [f32(3, 1, 5), between(low, high, 2, 1)], call),
      make(`${fn} with a number`, [f32(7)], (x) => call(x, 0.75)),
      make(
        `${fn} with a transpose`,
        [f32(6, 5), between(low, high, 5, 6)],
        (a, b) => call(a, b.transpose(0, 1)),
      ),
      rough(`${fn} of f16 and f32`, [f16(3, 7), between(low, high, 7)], call),
    ];
  });
  const integers = entries(BINARY_CALL).flatMap(([fn, call]) =>
    fn === "div" ? [] : [
      rough(`${fn} of integers`, [i32(-9, 9, 5, 3), i32(-9, 9, 3)], call),
      rough(`${fn} of u8 and i32`, [u8(11), i32(-9, 9, 11)], call),
    ]
  );
  return [
    ...floats,
    ...integers,
    rough("eq of equal floats", [f32(9)], (x) => x.eq(x.slice(0, 2, 3))),
    rough("gt", [f32(9)], (x) => x.gt(0.1)),
    rough("neg, abs and floor of integers", [i32(-9, 9, 7)], (x) => x.neg().abs().floor()),
    rough("products of integers wrap", [i32(1e9, 2e9, 5)], (x) => x.mul(x)),
    smooth("a square and its powers", [f32(8)], (x) => {
      let y = x;
      for (let i = 0; i < 5; i++) y = y.square().add(0.25);
      return y;
    }, 1e-5),
  ];
}

/** Axes are tested on odd sizes, alone and together, near and apart. */
const AXES: readonly (readonly number[])[] = [
  [0],
  [1],
  [2],
  [3],
  [0, 1],
  [1, 2],
  [2, 3],
  [0, 2],
  [
    1,
    3,
  ],
  [0, 3],
  [0, 1, 2],
  [1, 2, 3],
  [0, 2, 3],
  [0, 1, 2, 3],
];

function reductionCases(op: "sum" | "max"): Case[] {
  const call = (x: Tensor, axes?: number | readonly number[], keep = false) =>
    op === "sum" ? x.sum(axes, keep) : x.max(axes, keep);
  // A sum of n numbers below 1 is wrong by at most n half units of its partial sums.
  const long = 2e-5;
  return [
    ...AXES.map((axes) => smooth(`${op} over [${axes}]`, [f32(3, 5, 2, 7)], (x) => call(x, axes))),
    smooth(`${op} of everything`, [f32(5, 3)], (x) => call(x)),
    smooth(`${op}, kept axes`, [f32(5, 3, 2)], (x) => call(x, [0, -1], true)),
    smooth(`${op} of a long row`, [f32(5001)], (x) => call(x), long),
    smooth(`${op} of long columns`, [f32(301, 37)], (x) => call(x, 0), long),
    smooth(`${op} of many columns`, [f32(3, 1027)], (x) => call(x, 0)),
    smooth(`${op} of narrow columns`, [f32(129, 3)], (x) => call(x, 0), long),
    smooth(`${op} of a transpose`, [f32(9, 33)], (x) => call(x.transpose(0, 1), 0), long),
    smooth(
      `${op} of a permuted image`,
      [f32(2, 3, 5, 19)],
      (x) => call(x.permute([0, 3, 1, 2]), [2, 3]),
      long,
    ),
    smooth(
      `${op} of a broadcast`,
      [f32(5, 1), f32(1, 6)],
      (a, b) => call(a.expand([5, 6]).mul(b), 1),
    ),
    smooth(`${op} of a repeated axis`, [f32(1, 6)], (x) => call(x.expand([7, 6]), [0, 1]), 1e-5),
    smooth(
      `${op} of a product and an epilogue`,
      [f32(6, 17), f32(6, 17), f32(6)],
      (a, b, c) => call(a.mul(b), 1).mul(0.5).add(c).tanh(),
    ),
    smooth(
      `${op} over columns and an epilogue`,
      [f32(21, 22), f32(22)],
      (a, b) => call(a.square(), 0).add(b).mul(b),
      1e-5,
    ),
    smooth(`${op} of a slice`, [f32(8, 9)], (x) => call(x.slice(1, 2, 7).slice(0, 3, 8), 0)),
    rough(`${op} of f16`, [f16(5, 12)], (x) => call(x, 1)),
    rough(`${op} of u8`, [u8(5, 12)], (x) => call(x, 0)),
    rough(`${op} of integers`, [i32(-100, 100, 7, 5)], (x) => call(x, 1)),
    rough(`${op} of integer columns`, [i32(-100, 100, 7, 25)], (x) => call(x, 0)),
  ];
}

function matmulCases(): Case[] {
  const sizes = [[1, 1, 1], [5, 3, 7], [1, 9, 20], [13, 9, 1], [17, 1, 9], [6, 8, 4], [20, 33, 12]];
  return [
    ...sizes.map(([m, n, k]) =>
      smooth(`${m}x${k} by ${k}x${n}`, [f32(m!, k!), f32(k!, n!)], (a, b) => a.matmul(b), 5e-6)
    ),
    ...([[true, false], [false, true], [true, true]] as const).map(([turnA, turnB]) =>
      smooth(
        `transposed ${turnA} ${turnB}`,
        [turnA ? f32(11, 14) : f32(14, 11), turnB ? f32(9, 11) : f32(11, 9)],
        (a, b) => (turnA ? a.transpose(0, 1) : a).matmul(turnB ? b.transpose(0, 1) : b),
        5e-6,
      )
    ),
    // Longer than a segment of the cpu's inner dimension: partial sums go through memory.
    rough("a long inner dimension", [f32(8, 1700), f32(1700, 11)], (a, b) => a.matmul(b), 2e-4),
    rough(
      "a long inner dimension, transposed",
      [f32(1700, 8), f32(11, 1700)],
      (a, b) => a.transpose(0, 1).matmul(b.transpose(0, 1)),
      2e-4,
    ),
    smooth("batches", [f32(2, 3, 4, 5), f32(2, 3, 5, 6)], (a, b) => a.matmul(b), 5e-6),
    smooth(
      "a broadcast second operand",
      [f32(2, 3, 4, 5), f32(3, 5, 2)],
      (a, b) => a.matmul(b),
      5e-6,
    ),
    smooth("a broadcast first operand", [f32(4, 5), f32(2, 3, 5, 2)], (a, b) => a.matmul(b), 5e-6),
    smooth("both broadcast", [f32(2, 1, 4, 5), f32(3, 5, 2)], (a, b) => a.matmul(b), 5e-6),
    smooth("images by a matrix", [f32(2, 3, 4, 5), f32(5, 7)], (a, b) => a.matmul(b), 5e-6),
    smooth("heads split and merged", [f32(2, 6, 12), f32(2, 5, 12)], (q, k) => {
      const heads = (x: Tensor, n: number) => x.reshape([2, n, 3, 4]).permute([0, 2, 1, 3]);
      const products = heads(q, 6).matmul(heads(k, 5).transpose(-1, -2));
      return products.permute([0, 2, 1, 3]).reshape([2, 6, 15]);
    }, 5e-6),
    smooth(
      "slices",
      [f32(9, 12), f32(12, 9)],
      (a, b) => a.slice(1, 2, 9).slice(0, 1, 8).matmul(b.slice(0, 3, 10).slice(1, 2, 7)),
      5e-6,
    ),
    smooth(
      "expanded operands",
      [f32(1, 6), f32(6, 1)],
      (a, b) => a.expand([5, 6]).matmul(b.expand([6, 3])),
      5e-6,
    ),
    smooth(
      "expanded inner dimension",
      [f32(5, 1), f32(1, 3)],
      (a, b) => a.expand([5, 6]).matmul(b.expand([6, 3])),
      5e-6,
    ),
    smooth("constants", [f32(5, 6)], (a) => a.matmul(full([6, 3], 0.5)), 5e-6),
    smooth("expressions", [f32(5, 6), f32(6, 4)], (a, b) => a.exp().matmul(b.tanh()), 5e-6),
    smooth("an epilogue of many inputs", [f32(7, 6), f32(6, 9), f32(9), f32(7, 9), f32(7, 1)], (
      a,
      b,
      bias,
      residual,
      gate,
    ) => a.matmul(b).add(bias).mul(gate).tanh().add(residual), 5e-6),
    smooth(
      "an epilogue through a reshape",
      [f32(6, 5), f32(5, 8), f32(8)],
      (a, b, bias) => a.matmul(b).reshape([2, 3, 8]).add(bias).sigmoid(),
      5e-6,
    ),
    smooth(
      "an epilogue through a transpose",
      [f32(6, 5), f32(5, 8), f32(6)],
      (a, b, bias) => a.matmul(b).transpose(0, 1).add(bias).sigmoid(),
      5e-6,
    ),
    smooth(
      "one column and an epilogue",
      [f32(9, 5), f32(5, 1), f32(9, 1)],
      (a, b, bias) => a.matmul(b).add(bias).exp(),
      1e-5,
    ),
    smooth("a product used twice", [f32(5, 6), f32(6, 5)], (a, b) => {
      const c = a.matmul(b);
      return c.matmul(c).add(c.transpose(0, 1));
    }, 1e-5),
    rough("f16 on the right", [f32(7, 10), f16(10, 13)], (a, b) => a.matmul(b), 5e-6),
    rough(
      "f16 on the right, transposed",
      [f32(7, 10), f16(13, 10)],
      (a, b) => a.matmul(b.transpose(0, 1)),
      5e-6,
    ),
    rough("f16 on the left", [f16(7, 9), f32(9, 5)], (a, b) => a.matmul(b), 5e-6),
    rough("f16 on both sides", [f16(3, 7, 9), f16(3, 9, 5)], (a, b) => a.matmul(b), 5e-6),
    smooth("attention", [f32(2, 3, 5, 4), f32(2, 3, 7, 4), f32(2, 3, 7, 4), f32(5, 7)], (
      q,
      k,
      v,
      mask,
    ) => attention(q, k, v, { mask }), 5e-6),
    // Two queries at a time, and one at the end.
    smooth(
      "attention in parts",
      [f32(2, 3, 5, 4), f32(2, 3, 7, 4), f32(2, 3, 7, 4), f32(5, 7)],
      (q, k, v, mask) => attention(q, k, v, { mask, most: 90 }),
      5e-6,
    ),
    smooth(
      "attention in parts, one mask for all queries",
      [f32(2, 1, 4, 3), f32(2, 1, 6, 3), f32(2, 1, 6, 3), f32(2, 1, 1, 6)],
      (q, k, v, mask) => attention(q, k, v, { mask, most: 1 }),
      5e-6,
    ),
  ];
}

interface Convolution {
  readonly image: readonly [batch: number, height: number, width: number, channels: number];
  readonly kernel: readonly [height: number, width: number, channels: number];
  readonly stride: number;
  readonly padding: Padding;
}

const CONVOLUTIONS: readonly Convolution[] = [
  { image: [2, 5, 6, 3], kernel: [3, 3, 4], stride: 1, padding: 1 },
  { image: [1, 7, 5, 5], kernel: [3, 3, 18], stride: 2, padding: 1 },
  { image: [1, 6, 8, 4], kernel: [3, 3, 3], stride: 2, padding: [0, 1, 0, 1] },
  { image: [3, 4, 4, 7], kernel: [1, 1, 9], stride: 1, padding: 0 },
  { image: [1, 6, 6, 2], kernel: [4, 2, 2], stride: 2, padding: [2, 1, 0, 1] },
  { image: [1, 1, 9, 1], kernel: [1, 5, 1], stride: 1, padding: [0, 0, 4, 2] },
  { image: [2, 4, 6, 3], kernel: [2, 2, 8], stride: 2, padding: 0 },
  // An input row that no tap reaches.
  { image: [1, 6, 6, 2], kernel: [3, 3, 2], stride: 2, padding: 0 },
];

function convolutionCases(): Case[] {
  const plain = CONVOLUTIONS.flatMap(({ image, kernel, stride, padding }) => {
    const [batch, height, width, inChannels] = image;
    const [kernelHeight, kernelWidth, outChannels] = kernel;
    const [top, bottom, left, right] = typeof padding === "number"
      ? [padding, padding, padding, padding]
      : padding;
    const conv: ConvShape = {
      batch,
      height,
      width,
      inChannels,
      outHeight: Math.floor((height + top + bottom - kernelHeight) / stride) + 1,
      outWidth: Math.floor((width + left + right - kernelWidth) / stride) + 1,
      outChannels,
      kernelHeight,
      kernelWidth,
      stride,
      padTop: top,
      padLeft: left,
    };
    const x = f32(...image);
    const w = f32(kernelHeight, kernelWidth, inChannels, outChannels);
    const y = f32(batch, conv.outHeight, conv.outWidth, outChannels);
    const name = `[${image}] by [${kernel}] stride ${stride} padding ${padding}`;
    return [
      smooth(`${name}, forward`, [x, w], (x, w) => conv2d(x, w, { stride, padding }), 1e-5),
      smooth(`${name}, input`, [y, w], (y, w) => convolve("input", conv, y, w), 1e-5),
      smooth(`${name}, weight`, [x, y], (x, y) => convolve("weight", conv, x, y), 2e-5),
    ];
  });
  return [
    ...plain,
    // More channels than a segment of the cpu's inner dimension holds in all taps.
    rough(
      "many channels",
      [f32(1, 3, 4, 300), f32(3, 3, 300, 10)],
      (x, w) => conv2d(x, w, { padding: 1 }),
      2e-4,
    ),
    rough(
      "f16 weights",
      [f32(1, 4, 5, 3), f16(3, 3, 3, 5)],
      (x, w) => conv2d(x, w, { padding: 1 }),
    ),
    rough("f16 images", [f16(1, 4, 5, 3), f32(3, 3, 3, 5)], (x, w) => conv2d(x, w)),
    smooth(
      "bias, silu and a residual",
      [f32(2, 4, 5, 3), f32(3, 3, 3, 6), f32(6), f32(2, 4, 5, 6)],
      (
        x,
        w,
        bias,
        residual,
      ) => {
        const y = conv2d(x, w, { padding: 1 }).add(bias);
        return y.mul(y.sigmoid()).add(residual);
      },
      1e-5,
    ),
    smooth("upsampled images", [f32(1, 3, 2, 3), f32(3, 3, 3, 2)], (x, w) => {
      const twice = x.reshape([1, 3, 1, 2, 1, 3]).expand([1, 3, 2, 2, 2, 3]).reshape([1, 6, 4, 3]);
      return conv2d(twice, w, { padding: 1 });
    }, 1e-5),
    smooth(
      "images channels first",
      [f32(2, 3, 4, 5), f32(4, 3, 2, 2)],
      (x, w) => conv2d(x.permute([0, 2, 3, 1]), w.permute([2, 3, 1, 0])).permute([0, 3, 1, 2]),
      1e-5,
    ),
    smooth(
      "joined channels",
      [f32(1, 4, 4, 3), f32(1, 4, 4, 2), f32(3, 3, 5, 4)],
      (a, b, w) => conv2d(concat([a, b], 3), w, { padding: 1 }),
      1e-5,
    ),
  ];
}

/** Every operation with its uses. */
export const CASES: Readonly<Record<Source["op"], readonly Case[]>> = {
  host: [
    rough("f32", [f32(2, 3)], (x) => x),
    rough("f16", [f16(5)], (x) => x),
    rough("i32", [i32(-9, 9, 7)], (x) => x),
    rough("u8", [u8(3, 3)], (x) => x),
  ],
  constant: [
    rough("zeros and ones", [], () => concat([full([2, 3], 0), full([2, 3], 1)], 0)),
    rough("a constant by itself", [], () => full([5], 0.3)),
    rough("an integer", [], () => constant(-7, [3], "i32")),
    rough("a half", [], () => constant(0.1, [5], "f16")),
    rough("a half in arithmetic", [], () => constant(0.1, [5], "f16").mul(3)),
    rough("a byte", [], () => constant(200, [5], "u8")),
    rough("a view of a constant", [], () => full([2, 3], 0.3).reshape([3, 2]).transpose(0, 1)),
    smooth("a sum with a constant", [f32(3)], (x) => full([3], -0.5).mul(x).sum()),
  ],
  // Inputs exist inside of compiled steps only; see jit_test.ts.
  input: [],
  unary: unaryCases(),
  binary: binaryCases(),
  where: [
    smooth(
      "where",
      [f32(4, 3), f32(4, 3), f32(4, 3)],
      (t, a, b) => where(stopGradient(t).lt(0), a, b),
    ),
    smooth(
      "where, all broadcast",
      [f32(4, 1), f32(3), f32(2, 1, 1)],
      (t, a, b) => where(stopGradient(t).gt(0), a, b),
    ),
    smooth("where with numbers", [f32(9)], (x) => where(stopGradient(x).lt(0), x, 2)),
    rough("where any number but zero", [i32(-1, 2, 9), f32(9)], (t, x) => where(t, x, 0)),
    rough(
      "where of integers",
      [f32(9), i32(0, 9, 9), i32(0, 9, 9)],
      (t, a, b) => where(t.floor(), a, b),
    ),
    rough("where of halves", [f32(9), f16(9), f16(9)], (t, a, b) => where(t.lt(0), a, b)),
  ],
  cast: [
    rough("f32 to i32", [between(-9, 9, 17)], (x) => x.cast("i32")),
    rough("far f32 to i32", [between(-9e9, 9e9, 17)], (x) => x.cast("i32")),
    rough("f32 to i32 and back", [between(-9, 9, 17)], (x) => x.cast("i32").cast("f32").mul(0.5)),
    rough("f32 to u8", [between(0, 255, 17)], (x) => x.cast("u8")),
    rough("f32 to u8 and back", [between(0, 255, 3, 7)], (x) => x.cast("u8").cast("f32").mul(0.5)),
    rough("f32 to f16", [between(-9, 9, 17)], (x) => x.cast("f16")),
    rough("f32 to f16 and back", [between(-9, 9, 5, 3)], (x) => x.cast("f16").cast("f32").mul(3)),
    rough("i32 to f32", [i32(-1e9, 1e9, 9)], (x) => x.cast("f32")),
    rough("i32 to u8", [i32(-300, 300, 9)], (x) => x.cast("u8")),
    rough("i32 to f16", [i32(-3000, 3000, 9)], (x) => x.cast("f16")),
    rough("u8 to i32 and f32", [u8(4, 5)], (x) => x.cast("i32").add(1).cast("f32").div(255)),
    rough("f16 to f32", [f16(4, 5)], (x) => x.cast("f32")),
    rough("a transposed f16", [f16(4, 5)], (x) => x.transpose(0, 1).cast("f32")),
    rough("a transposed u8", [u8(6, 5)], (x) => x.transpose(0, 1).cast("f32")),
    rough(
      "f16 through a view",
      [f32(4, 6)],
      (x) => x.cast("f16").transpose(0, 1).reshape([3, 8]).cast("f32").add(1),
    ),
    rough(
      "f16 as the end of a product",
      [f32(4, 6), f32(6, 5)],
      (a, b) => a.matmul(b).cast("f16"),
      2e-3,
    ),
    rough("f16 as the end of a sum", [f32(4, 6)], (x) => x.sum(1).cast("f16"), 2e-3),
  ],
  take: [
    smooth("take", [f32(7), i32(0, 7, 2, 9)], take),
    smooth("take from an expression", [f32(7), i32(0, 7, 9)], (t, i) => take(t.exp(), i)),
    smooth(
      "take in an expression",
      [f32(7), i32(0, 7, 2, 5), f32(5)],
      (t, i, x) => take(t, i).mul(x).tanh(),
    ),
    smooth(
      "take from a slice of a transpose",
      [f32(5, 6), i32(0, 4, 9)],
      (t, i) => take(t.transpose(0, 1).slice(0, 2, 3).reshape([5]), i),
    ),
    smooth("take from a slice", [f32(9), i32(0, 5, 7)], (t, i) => take(t.slice(0, 3, 8), i)),
    smooth(
      "take at computed places",
      [f32(9), i32(0, 5, 2, 5)],
      (t, i) => take(t, i.transpose(0, 1).mul(2)).sum(1),
    ),
    rough(
      "take at places that only some lanes have",
      [f32(9), between(0.4, 0.9, 5)],
      (t, x) => take(t, x.reciprocal().cast("i32")),
    ),
    rough(
      "take from a transposed f16",
      [f16(4, 5), i32(0, 20, 9)],
      (t, i) => take(t.transpose(0, 1).reshape([20]), i),
    ),
    rough("take f16", [f16(7), i32(0, 7, 9)], take),
    rough("take u8", [u8(7), i32(0, 7, 9)], take),
    rough("take i32", [i32(-99, 99, 7), i32(0, 7, 9)], take),
    rough("take from a constant", [i32(0, 7, 9)], (i) => take(full([7], 0.5), i)),
    smooth("gather rows", [f32(6, 5), i32(0, 6, 2, 3)], gather),
    smooth(
      "gather, joined and summed",
      [f32(6, 5), i32(0, 6, 7), f32(7, 5)],
      (t, i, x) => gather(t, i).add(x).square().sum(0),
    ),
    rough("gather f16 rows", [f16(6, 5), i32(0, 6, 4)], gather),
  ],
  move: [
    smooth("reshape", [f32(4, 6)], (x) => x.reshape([3, -1])),
    smooth("permute", [f32(2, 3, 4)], (x) => x.permute([2, 0, 1])),
    smooth("expand", [f32(3, 1)], (x) => x.expand([2, 3, 4])),
    smooth("slice", [f32(5, 7)], (x) => x.slice(1, 2, 6)),
    smooth("unsqueeze and squeeze", [f32(5, 7)], (x) => x.unsqueeze(1).transpose(0, 2).squeeze(1)),
    smooth("split", [f32(5, 6)], (x) => {
      const [a, b, c] = x.split(1, 3) as [Tensor, Tensor, Tensor];
      return a.mul(b).sub(c);
    }),
    smooth(
      "a transpose that can't be reshaped in place",
      [f32(4, 6)],
      (x) => x.transpose(0, 1).reshape([8, 3]),
    ),
    smooth(
      "the same inside of an expression",
      [f32(4, 6), f32(8, 3)],
      (x, y) => x.exp().transpose(0, 1).reshape([8, 3]).mul(y),
    ),
    smooth(
      "slice of a transpose of a slice",
      [f32(6, 7, 3)],
      (x) => x.slice(1, 1, 6).transpose(0, 2).slice(1, 1, 4).add(1),
    ),
    smooth(
      "expand of a slice",
      [f32(6, 7)],
      (x) => x.slice(0, 2, 3).expand([5, 7]).mul(x.slice(0, 0, 5)),
    ),
    smooth(
      "reshape of an expand",
      [f32(3, 1, 2)],
      (x) => x.expand([3, 4, 2]).reshape([12, 2]).neg(),
    ),
    smooth(
      "pixels to channels",
      [f32(1, 4, 6, 2)],
      (x) => x.reshape([1, 2, 2, 3, 2, 2]).permute([0, 1, 3, 2, 4, 5]).reshape([1, 2, 3, 8]),
    ),
    smooth("several views of one value", [f32(5, 5)], (x) => {
      const y = x.sin();
      return y.add(y.transpose(0, 1)).mul(y.slice(0, 0, 1)).add(y.slice(1, 4, 5));
    }),
    rough("views of narrow types", [u8(4, 6)], (x) => x.transpose(0, 1).slice(0, 1, 5)),
    rough("views of halves", [f16(4, 7)], (x) => x.slice(1, 1, 4).permute([1, 0])),
    rough("views of integers", [i32(-9, 9, 4, 7)], (x) => x.slice(1, 1, 4).permute([1, 0])),
    rough("many odd rows", [f32(67, 19, 5)], (x) => x.permute([1, 0, 2])),
  ],
  sum: [
    ...reductionCases("sum"),
    smooth("mean", [f32(4, 5, 3)], (x) => x.mean([0, 2])),
    rough("mean of integers", [i32(0, 9, 4, 5)], (x) => x.mean(1)),
    smooth("softmax", [f32(4, 7)], (x) => x.softmax(), 3e-6),
    smooth("softmax along another axis", [f32(4, 7, 3)], (x) => x.softmax(1), 3e-6),
    smooth("softmax of large scores", [between(-300, 300, 3, 9)], (x) => x.softmax(), 1e-4),
    smooth("layer norm", [f32(4, 19), f32(19), f32(19)], (x, w, b) => {
      const centred = x.sub(x.mean(-1, true));
      const variance = centred.square().mean(-1, true);
      return centred.mul(variance.add(1e-5).rsqrt()).mul(w).add(b);
    }, 1e-5),
    smooth("group norm", [f32(2, 3, 4, 6)], (x) => {
      const groups = x.reshape([2, 12, 2, 3]);
      const centred = groups.sub(groups.mean([1, 3], true));
      const scale = centred.square().mean([1, 3], true).add(1e-5).rsqrt();
      return centred.mul(scale).reshape(x.shape);
    }, 1e-5),
  ],
  max: [
    ...reductionCases("max"),
    rough("max of minus infinity", [f32(3, 5)], (x) => where(x.lt(9), -Infinity, x).max(1)),
  ],
  matmul: matmulCases(),
  conv2d: convolutionCases(),
  scatter: [
    smooth("scatter", [i32(0, 5, 9), f32(9, 3)], (i, v) => scatterAdd(5, i, v)),
    smooth(
      "scatter of one column",
      [i32(0, 3, 40), f32(40, 1)],
      (i, v) => scatterAdd(3, i, v),
      5e-6,
    ),
    smooth(
      "scatter of expressions",
      [i32(0, 4, 6), f32(7, 6)],
      (i, v) => scatterAdd(9, i.add(2), v.transpose(0, 1).tanh()).mul(2),
    ),
    rough("scatter of f16", [i32(0, 5, 4), f16(4, 3)], (i, v) => scatterAdd(5, i, v)),
  ],
  concat: [
    smooth("concat of rows", [f32(2, 5), f32(3, 5)], (a, b) => concat([a, b], 0)),
    smooth(
      "concat of columns",
      [f32(3, 2), f32(3, 5), f32(3, 1)],
      (a, b, c) => concat([a, b, c], -1),
    ),
    smooth("concat in the middle", [f32(2, 1, 3), f32(2, 4, 3)], (a, b) => concat([a, b], 1)),
    smooth(
      "concat of expressions and views",
      [f32(4, 3), f32(5, 4)],
      (a, b) => concat([a.exp(), b.transpose(0, 1), a.slice(1, 0, 2).add(1)], 1).mul(2),
    ),
    smooth("concat of one value twice", [f32(4, 3)], (x) => concat([x, x, x.neg()], 0).sin()),
    smooth("concat of concats", [f32(2, 3)], (x) => concat([concat([x, x.neg()], 0), x], 0)),
    smooth(
      "concat of products",
      [f32(3, 4), f32(4, 5)],
      (a, b) => concat([a.matmul(b), a.matmul(b.neg())], 1),
      5e-6,
    ),
    smooth("concat of sums", [f32(3, 4)], (x) => concat([x.sum(1), x.max(1)], 0)),
    smooth("pad", [f32(3, 4)], (x) => x.pad(1, 2, 1).pad(0, 0, 1)),
    rough("concat of u8", [u8(3, 3), u8(3, 5)], (a, b) => concat([a, b], 1)),
    rough("concat of f16", [f16(3, 3), f16(3, 5)], (a, b) => concat([a, b], 1)),
    rough(
      "pad of f16 and integers",
      [f16(3, 3), i32(0, 9, 3, 3)],
      (a, b) => a.pad(1, 1, 2).add(b.pad(1, 2, 1).cast("f32")),
    ),
    rough(
      "concat of rounded values",
      [f32(3, 3)],
      (x) => concat([x.cast("f16"), x.neg().cast("f16")], 1),
    ),
  ],
  stopGradient: [
    rough("stopGradient", [f32(3, 4)], (x) => stopGradient(x)),
    rough(
      "stopGradient of a view in a product",
      [f32(3, 4)],
      (x) => stopGradient(x.transpose(0, 1)).matmul(x),
    ),
  ],
  checkpoint: [
    smooth("checkpoint", [f32(3, 4), f32(4, 4)], (x, w) => {
      const [y, z] = checkpoint((x) => [x.matmul(w).tanh(), x.sum()], x) as [Tensor, Tensor];
      return y.mul(z).matmul(w);
    }, 1e-5),
  ],
  project: [
    smooth(
      "one output of a checkpoint",
      [f32(3, 4)],
      (x) => checkpoint((x) => [x.exp(), x.sin()], x)[1]!,
    ),
    smooth(
      "a checkpoint in a checkpoint",
      [f32(3, 4)],
      (x) => checkpoint((x) => checkpoint((x) => [x.exp().sin()], x.mul(2)), x)[0]!.mul(x),
    ),
  ],
};

/** Host data for an operand: the same for the same place in the table. */
export function makeInput(input: Input, seed: number): { tensor: Tensor; values: Float64Array } {
  const { shape, dtype, low, high } = input;
  const uniform = randomUniform({ seed: 7, stream: seed, step: 0 }, [sizeOf(shape)]);
  const values = uniform.map((u) => low + u * (high - low));
  switch (dtype) {
    case "f32":
      return { tensor: tensor(values, shape), values: Float64Array.from(values) };
    case "f16": {
      const bits = encodeF16(values);
      const rounded = new Float16Array(bits.buffer);
      return { tensor: tensor(bits, shape, "f16"), values: Float64Array.from(rounded) };
    }
    case "i32": {
      const integers = Int32Array.from(values, Math.floor);
      return { tensor: tensor(integers, shape), values: Float64Array.from(integers) };
    }
    case "u8": {
      const bytes = Uint8Array.from(values, Math.floor);
      return { tensor: tensor(bytes, shape), values: Float64Array.from(bytes) };
    }
  }
}

/** Builds a case on random operands. */
export function makeCase(
  { inputs, build }: Case,
  seed: number,
): { inputs: Tensor[]; output: Tensor } {
  const made = inputs.map((input, i) => makeInput(input, seed * 16 + i).tensor);
  return { inputs: made, output: build(...made) };
}

/** The case's largest error; throws where a value is off by more than the tolerance. */
export function expectClose(
  name: string,
  found: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
): void {
  if (found.length !== expected.length) {
    throw new Error(`${name}: ${found.length} elements, expected ${expected.length}`);
  }
  for (let i = 0; i < expected.length; i++) {
    const [f, e] = [found[i]!, expected[i]!];
    if (Object.is(f, e) || f === e) continue;
    if (!(Math.abs(f - e) <= tolerance * Math.max(1, Math.abs(e)))) {
      throw new Error(`${name}: element ${i} is ${f}, expected ${e} (tolerance ${tolerance})`);
    }
  }
}
