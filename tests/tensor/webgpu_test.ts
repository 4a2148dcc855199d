/**
 * The WebGPU device, kernel by kernel, against plain loops over the same kernel data.
 *
 * The loops below interpret kernels literally, in double precision and without any cleverness, so
 * they double as the definition of what a kernel means.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  type Access,
  BYTES,
  type ConvKernel,
  type DType,
  type Expr,
  type Kernel,
  type MapKernel,
  type MatmulKernel,
  type ReduceKernel,
  type Slot,
} from "../../lib/tensor/kernel.ts";
import { openWebGpu, type WebGpuBackend } from "../../lib/tensor/webgpu/mod.ts";
import { planArena } from "../../lib/tensor/webgpu/program.ts";
import { contiguousStrides, sizeOf } from "../../lib/tensor/webgpu/walk.ts";

/** A coordinate of an image or a kernel. */
type Four = [number, number, number, number];

let backend: WebGpuBackend | undefined;
let absence = "";
try {
  backend = await openWebGpu({ allowSoftware: true });
} catch (error) {
  absence = (error as Error).message;
}

/** Registers a test that is ignored where there is no adapter. */
function gpuTest(name: string, fn: (gpu: WebGpuBackend) => Promise<void>): void {
  Deno.test({
    name: `webgpu: ${name}`,
    ignore: backend === undefined,
    // The device stays open from test to test.
    sanitizeResources: false,
    sanitizeOps: false,
    fn: () => fn(backend!),
  });
}

// Expressions

const load = (input: number, type: "f32" | "i32" = "f32"): Expr => ({ kind: "load", type, input });
const constant = (value: number, type: "f32" | "i32" = "f32"): Expr => ({
  kind: "const",
  type,
  value,
});
const acc: Expr = { kind: "acc", type: "f32" };
type Op = Extract<Expr, { kind: "binary" }>["op"];
type Function = Extract<Expr, { kind: "unary" }>["op"];
const binary = (op: Op, a: Expr, b: Expr): Expr => ({ kind: "binary", type: a.type, op, a, b });
const unary = (op: Function, a: Expr): Expr => ({ kind: "unary", type: a.type, op, a });
const cast = (type: "f32" | "i32", a: Expr): Expr => ({ kind: "cast", type, a });

function access(
  slot: number,
  shape: readonly number[],
  options: { dtype?: DType; strides?: readonly number[]; offset?: number } = {},
): Access {
  return {
    slot,
    dtype: options.dtype ?? "f32",
    strides: options.strides ?? contiguousStrides(shape),
    offset: options.offset ?? 0,
  };
}

// The reference interpreter. Memory holds numbers, one array per slot.

type Memory = number[][];

/** erf by its series of positive terms, in double precision. */
function erf(x: number): number {
  const t = Math.abs(x);
  if (t > 6) return Math.sign(x);
  let term = t * Math.exp(-t * t);
  let sum = term;
  for (let n = 1; n < 200; n++) {
    term *= 2 * t * t / (2 * n + 1);
    sum += term;
  }
  return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI);
}

const FUNCTIONS: Record<Function, (x: number) => number> = {
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

const OPERATIONS: Record<Op, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  lt: (a, b) => Number(a < b),
  eq: (a, b) => Number(a === b),
};

function address({ strides, offset }: Access, at: readonly number[]): number {
  return strides.reduce((sum, stride, axis) => sum + stride * at[axis]!, offset);
}

function evaluate(
  expr: Expr,
  memory: Memory,
  inputs: readonly Access[],
  at: readonly number[],
  result = NaN,
): number {
  const go = (e: Expr) => evaluate(e, memory, inputs, at, result);
  switch (expr.kind) {
    case "const":
      return expr.value;
    case "load":
      return memory[inputs[expr.input]!.slot]![address(inputs[expr.input]!, at)]!;
    case "take":
      return memory[inputs[expr.input]!.slot]![inputs[expr.input]!.offset + go(expr.index)]!;
    case "acc":
      return result;
    case "unary":
      return FUNCTIONS[expr.op](go(expr.a));
    case "binary": {
      const value = OPERATIONS[expr.op](go(expr.a), go(expr.b));
      return expr.type === "i32" ? Math.trunc(value) | 0 : value;
    }
    case "where":
      return go(expr.test) !== 0 ? go(expr.a) : go(expr.b);
    case "cast":
      return expr.type === "i32" ? Math.trunc(go(expr.a)) : go(expr.a);
  }
}

function* coordinates(shape: readonly number[]): Generator<number[]> {
  const size = sizeOf(shape);
  for (let i = 0; i < size; i++) {
    const at: number[] = [];
    let rest = i;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at[axis] = rest % shape[axis]!;
      rest = Math.floor(rest / shape[axis]!);
    }
    yield at;
  }
}

function reference(kernel: Kernel, memory: Memory): void {
  const store = (at: readonly number[], value: number) => {
    const { dtype, slot } = kernel.output;
    memory[slot]![address(kernel.output, at)] = dtype === "u8" ? value & 255 : value;
  };
  const finish = (at: readonly number[], value: number) => {
    const epilogue = "epilogue" in kernel ? kernel.epilogue : undefined;
    store(
      at,
      epilogue === undefined ? value : evaluate(epilogue.expr, memory, epilogue.inputs, at, value),
    );
  };
  switch (kernel.kind) {
    case "map":
      for (const at of coordinates(kernel.shape)) {
        store(at, evaluate(kernel.expr, memory, kernel.inputs, at));
      }
      break;
    case "reduce": {
      const kept = kernel.shape.slice(0, kernel.shape.length - kernel.reduced);
      for (const at of coordinates(kept)) {
        let value = kernel.combine === "sum" ? 0 : -Infinity;
        for (const rest of coordinates(kernel.shape.slice(kept.length))) {
          const next = evaluate(kernel.expr, memory, kernel.inputs, [...at, ...rest]);
          value = kernel.combine === "sum" ? value + next : Math.max(value, next);
        }
        finish(at, value);
      }
      break;
    }
    case "matmul": {
      const { a, b, batch, m, n, k } = kernel;
      for (const at of coordinates([...batch, m, n])) {
        const z = at.slice(0, -2);
        const [row, column] = at.slice(-2) as [number, number];
        let sum = 0;
        for (let i = 0; i < k; i++) {
          sum += memory[a.slot]![address(a, [...z, row, i])]! *
            memory[b.slot]![address(b, [...z, i, column])]!;
        }
        finish(at, sum);
      }
      break;
    }
    case "conv2d": {
      const { a, b, conv: s, variant } = kernel;
      const x = [s.batch, s.height, s.width, s.inChannels];
      const y = [s.batch, s.outHeight, s.outWidth, s.outChannels];
      const w = [s.kernelHeight, s.kernelWidth, s.inChannels, s.outChannels];
      const [aShape, bShape, shape] = { forward: [x, w, y], input: [y, w, x], weight: [x, y, w] }[
        variant
      ] as [number[], number[], number[]];
      const sums = new Array<number>(sizeOf(shape)).fill(0);
      const at = (of: readonly number[], c: number[]) => address(access(0, of), c);
      for (const [n, oh, ow, co] of coordinates(y) as Iterable<Four>) {
        for (const [kh, kw, ci] of coordinates(w.slice(0, 3)) as Iterable<Four>) {
          const [ih, iw] = [oh * s.stride + kh - s.padTop, ow * s.stride + kw - s.padLeft];
          if (ih < 0 || ih >= s.height || iw < 0 || iw >= s.width) continue;
          const places = { x: [n, ih, iw, ci], y: [n, oh, ow, co], w: [kh, kw, ci, co] };
          const [pa, pb, po] = {
            forward: [places.x, places.w, places.y],
            input: [places.y, places.w, places.x],
            weight: [places.x, places.y, places.w],
          }[variant] as [Four, Four, Four];
          sums[at(shape, po)]! += memory[a.slot]![a.offset + at(aShape, pa)]! *
            memory[b.slot]![b.offset + at(bShape, pb)]!;
        }
      }
      let i = 0;
      for (const c of coordinates(shape)) finish(c, sums[i++]!);
      break;
    }
    case "scatter": {
      const { index, values, output, size, width, count } = kernel;
      for (let i = 0; i < size * width; i++) memory[output.slot]![output.offset + i] = 0;
      for (let j = 0; j < count; j++) {
        const row = memory[index.slot]![index.offset + j]!;
        for (let c = 0; c < width; c++) {
          memory[output.slot]![output.offset + row * width + c]! +=
            memory[values.slot]![values.offset + j * width + c]!;
        }
      }
      break;
    }
  }
}

// Host memory

function f16Bits(x: number): number {
  const buffer = new DataView(new ArrayBuffer(2));
  buffer.setFloat16(0, x);
  return buffer.getUint16(0);
}

function f16Value(bits: number): number {
  const buffer = new DataView(new ArrayBuffer(2));
  buffer.setUint16(0, bits);
  return buffer.getFloat16(0);
}

function encode(values: readonly number[], dtype: DType): Uint8Array {
  const typed = dtype === "f32"
    ? new Float32Array(values)
    : dtype === "i32"
    ? new Int32Array(values)
    : dtype === "u8"
    ? new Uint8Array(values)
    : new Uint16Array(values.map(f16Bits));
  return new Uint8Array(typed.buffer);
}

function decode(bytes: Uint8Array, dtype: DType): number[] {
  const { buffer } = bytes.slice();
  switch (dtype) {
    case "f32":
      return [...new Float32Array(buffer)];
    case "i32":
      return [...new Int32Array(buffer)];
    case "u8":
      return [...new Uint8Array(buffer)];
    case "f16":
      return [...new Uint16Array(buffer)].map(f16Value);
  }
}

/** Reproducible numbers in [-1, 1). */
function random(count: number, seed: number): number[] {
  let state = (seed * 2654435761 + 1) >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.fround(state / 2 ** 31 - 1);
  });
}

/** A slot's content before a kernel runs. */
interface Content {
  readonly dtype: DType;
  readonly values: readonly number[];
}

const floats = (count: number, seed: number, dtype: DType = "f32"): Content => ({
  dtype,
  values: random(count, seed).map((x) => dtype === "f16" ? f16Value(f16Bits(x)) : x),
});

/**
 * Runs kernels over the given slots and over the same slots in the reference, and compares the last
 * kernel's whole output slot, so that stray writes are found as well.
 */
async function check(
  gpu: WebGpuBackend,
  kernels: readonly Kernel[],
  contents: readonly Content[],
  tolerance = 1e-5,
): Promise<number[]> {
  const slots: Slot[] = contents.map(({ values, dtype }) => ({
    kind: "external",
    bytes: values.length * BYTES[dtype],
  }));
  const before = gpu.liveBytes;
  const buffers = contents.map(({ values, dtype }) => {
    const data = encode(values, dtype);
    const buffer = gpu.allocate(data.length);
    gpu.write(buffer, data);
    return buffer;
  });
  const program = gpu.compile(kernels, slots);
  program.run(buffers);
  const memory = contents.map(({ values }) => [...values]);
  for (const kernel of kernels) reference(kernel, memory);
  const { slot } = kernels.at(-1)!.output;
  const found = decode(await gpu.read(buffers[slot]!), contents[slot]!.dtype);
  program.dispose();
  buffers.forEach((buffer) => gpu.free(buffer));
  assertEquals(gpu.liveBytes, before, "memory is given back");
  assertEquals(found.length, memory[slot]!.length);
  memory[slot]!.forEach((expected, i) => {
    const same = Object.is(found[i], expected) || found[i] === expected ||
      Math.abs(found[i]! - expected) <= tolerance * Math.max(1, Math.abs(expected));
    assert(same, `${kernels.at(-1)!.name}: element ${i} is ${found[i]}, expected ${expected}`);
  });
  return found;
}

const map = (
  shape: readonly number[],
  inputs: readonly Access[],
  output: Access,
  expr: Expr,
): MapKernel => ({ kind: "map", name: "map", shape, inputs, output, expr });

gpuTest("maps walk strides, broadcasts, offsets and rank 0", async (gpu) => {
  const sum = binary("add", load(0), load(1));
  await check(gpu, [map([], [access(0, []), access(1, [])], access(2, []), sum)], [
    floats(1, 1),
    floats(1, 2),
    floats(1, 3),
  ]);
  await check(gpu, [map(
    [7, 5],
    [
      access(0, [5, 7], { strides: [1, 7] }),
      access(1, [5], { strides: [0, 1], offset: 2 }),
    ],
    access(2, [7, 5]),
    sum,
  )], [floats(35, 1), floats(7, 2), floats(35, 3)]);
  // A slice of a larger output: [2, 3, 4] into [2, 5, 4] from row 1.
  await check(gpu, [
    map(
      [2, 3, 4],
      [access(0, [2, 3, 4]), access(1, [], { strides: [0, 0, 0] })],
      access(2, [], { strides: [20, 4, 1], offset: 4 }),
      sum,
    ),
  ], [floats(24, 4), floats(1, 5), floats(40, 6)]);
  await check(gpu, [map([0, 3], [access(0, [0, 3])], access(1, [0, 3]), load(0))], [
    floats(0, 1),
    floats(0, 2),
  ]);
});

gpuTest("maps with more workgroups than a dispatch has in one dimension", async (gpu) => {
  const size = 65536 * 256 + 300;
  const buffer = gpu.allocate(size * 4);
  const program = gpu.compile([map([size], [], access(0, [size]), constant(3))], [
    { kind: "external", bytes: size * 4 },
  ]);
  program.run([buffer]);
  for (const element of [0, 65535 * 256, 65536 * 256, size - 1]) {
    assertEquals(decode(await gpu.read(buffer, element * 4, 4), "f32"), [3]);
  }
  program.dispose();
  gpu.free(buffer);
});

gpuTest("functions hold over their range, at infinities and NaN", async (gpu) => {
  const points = [-Infinity, -1e30, -200, -90, -20, 20, 90, 200, 1e30, Infinity, NaN, 0];
  const fine = Array.from({ length: 4001 }, (_, i) => Math.fround((i - 2000) / 250));
  const tolerances: Partial<Record<Function, number>> = { exp: 3e-6, sin: 3e-7, cos: 3e-7 };
  const large = Array.from({ length: 2000 }, (_, i) => Math.fround(i * 1.37 - 1000));
  for (const op of Object.keys(FUNCTIONS) as Function[]) {
    const positive = op === "log" || op === "sqrt" || op === "rsqrt" || op === "recip";
    const values = positive
      ? fine.filter((x) => x > 0)
      : op === "sin" || op === "cos"
      ? [...fine, ...large]
      : op === "exp"
      ? [...fine, -Infinity, -200, NaN]
      : [...fine, ...points];
    const n = values.length;
    const kernel = map([n], [access(0, [n])], access(1, [n]), unary(op, load(0)));
    await check(gpu, [{ ...kernel, name: op }], [
      { dtype: "f32", values },
      floats(n, 1),
    ], tolerances[op] ?? 6e-7);
  }
});

gpuTest("erf and tanh are exact to few units in the last place near 0", async (gpu) => {
  const values = Array.from({ length: 1000 }, (_, i) => Math.fround(1e-6 * 1.015 ** i));
  for (const op of ["erf", "tanh"] as const) {
    const kernel = map([1000], [access(0, [1000])], access(1, [1000]), unary(op, load(0)));
    const found = await check(gpu, [kernel], [{ dtype: "f32", values }, floats(1000, 1)]);
    found.forEach((y, i) => {
      const expected = FUNCTIONS[op](values[i]!);
      assert(Math.abs(y - expected) <= 4e-7 * expected, `${op}(${values[i]}) = ${y}`);
    });
  }
});

gpuTest("integers, comparisons, choices, casts and special constants", async (gpu) => {
  const ints: Content = { dtype: "i32", values: [-7, -1, 0, 3, 9, 2147483647, -2147483648] };
  const [a, b] = [load(0, "i32"), load(1, "i32")];
  const others: Content = { dtype: "i32", values: [2, -1, 5, 3, 4, 1, 7] };
  for (const op of ["add", "sub", "mul", "div", "max", "min", "lt", "eq"] as const) {
    const contents = op === "mul"
      ? [{ ...ints, values: [1, 2, 3, 4, 5, 6, -7] }, others]
      : [ints, others];
    await check(gpu, [
      map([7], [access(0, [7], { dtype: "i32" }), access(1, [7], { dtype: "i32" })], {
        ...access(2, [7]),
        dtype: "i32",
      }, binary(op, a, b)),
    ], [...contents, { dtype: "i32", values: [0, 0, 0, 0, 0, 0, 0] }]);
  }
  const values = [-2.75, -0.5, 0, 0.5, 2.75, 1e9];
  await check(gpu, [
    map([6], [access(0, [6])], access(1, [6], { dtype: "i32" }), cast("i32", load(0))),
  ], [{ dtype: "f32", values }, { dtype: "i32", values: values.map(() => 0) }]);
  const chosen: Expr = {
    kind: "where",
    type: "f32",
    test: binary("lt", load(0), constant(0)),
    a: constant(-Infinity),
    b: binary("max", constant(NaN), unary("neg", constant(-0))),
  };
  const found = await check(gpu, [
    map([6], [access(0, [6])], access(1, [6]), { ...chosen, b: constant(Infinity) }),
  ], [{ dtype: "f32", values }, floats(6, 1)]);
  assertEquals(found[0], -Infinity);
});

gpuTest("f16 and u8 are storage types, whole or packed into a larger buffer", async (gpu) => {
  for (const dtype of ["f16", "u8"] as const) {
    const content = (n: number, seed: number): Content =>
      dtype === "f16"
        ? floats(n, seed, "f16")
        : { dtype, values: random(n, seed).map((x) => Math.floor((x + 1) * 128)) };
    const type = dtype === "f16" ? "f32" : "i32";
    for (const n of [1, 2, 3, 6, 8, 513]) {
      await check(gpu, [
        map([n], [access(0, [n], { dtype })], access(1, [n], { dtype }), load(0, type)),
      ], [content(n, n), content(n, n + 1)]);
      await check(
        gpu,
        [
          map([n], [access(0, [n], { dtype, offset: 3 })], access(1, [n], { dtype, offset: 5 }), {
            kind: "binary",
            type,
            op: "add",
            a: load(0, type),
            b: constant(7, type),
          }),
        ],
        [content(n + 3, n), content(n + 8, n + 1)],
        1e-3,
      );
    }
    await check(gpu, [
      map([5, 3], [access(0, [], { dtype, strides: [1, 5] })], access(1, [5, 3], { dtype }), {
        ...load(0, type),
      }),
    ], [content(15, 1), content(15, 2)]);
  }
});

gpuTest("f16 stores round to nearest even, through subnormals and to infinity", async (gpu) => {
  const values = [65504, 65519, 65520, 1e9, -1e9, 6e-8, 2.9e-8, 3.1e-8, 6.1e-5, 1 + 2 ** -11]
    .concat([1 + 3 * 2 ** -11, 0.1, -0, Infinity, NaN, ...random(200, 5).map((x) => x * 1e-4)])
    .map(Math.fround);
  const n = values.length;
  const buffer = gpu.allocate(n * 4);
  const half = gpu.allocate(n * 2);
  gpu.write(buffer, encode(values, "f32"));
  const program = gpu.compile([
    map([n], [access(0, [n])], access(1, [n], { dtype: "f16" }), load(0)),
  ], [{ kind: "external", bytes: n * 4 }, { kind: "external", bytes: n * 2 }]);
  program.run([buffer, half]);
  assertEquals(decode(await gpu.read(half), "f16"), values.map((x) => f16Value(f16Bits(x))));
  program.dispose();
  gpu.free(buffer);
  gpu.free(half);
});

gpuTest("takes index a table", async (gpu) => {
  const expr: Expr = { kind: "take", type: "f32", input: 0, index: load(1, "i32") };
  for (const dtype of ["f32", "f16"] as const) {
    await check(gpu, [
      map(
        [6],
        [access(0, [], { dtype, strides: [0], offset: 2 }), access(1, [6], { dtype: "i32" })],
        access(2, [6]),
        expr,
      ),
    ], [floats(12, 1, dtype), { dtype: "i32", values: [9, 0, 3, 3, 1, 5] }, floats(6, 2)]);
  }
});

gpuTest("reductions over rows, columns and everything", async (gpu) => {
  const scaled = {
    inputs: [],
    expr: binary("mul", acc, constant(0.5)),
  };
  const shapes: [kept: number[], reduced: number[]][] = [
    [[], [1]],
    [[], [1000]],
    [[], [70001]],
    [[5], [1]],
    [[5], [3]],
    [[300], [7]],
    [[3, 5], [129]],
    [[2, 3], [4, 33]],
    [[9], [2049]],
    [[4], [0]],
    [[0], [4]],
    [[1500], [40]],
  ];
  for (const [kept, reduced] of shapes) {
    const shape = [...kept, ...reduced];
    const size = sizeOf(shape);
    for (const combine of ["sum", "max"] as const) {
      const kernel: ReduceKernel = {
        kind: "reduce",
        name: `${combine} of [${kept}; ${reduced}]`,
        shape,
        reduced: reduced.length,
        combine,
        inputs: [access(0, shape)],
        expr: load(0),
        output: access(1, kept),
        epilogue: scaled,
      };
      await check(gpu, [kernel], [floats(size, 3), floats(sizeOf(kept), 4)], 1e-4);
      // The same numbers with the reduced axes outermost in memory.
      const strides = contiguousStrides([...reduced, ...kept]);
      const turned = [...strides.slice(reduced.length), ...strides.slice(0, reduced.length)];
      await check(gpu, [{ ...kernel, inputs: [access(0, [], { strides: turned })] }], [
        floats(size, 3),
        floats(sizeOf(kept), 4),
      ], 1e-4);
    }
  }
});

gpuTest("reductions of products, of integers, with an epilogue that reads inputs", async (gpu) => {
  const [rows, columns] = [6, 130];
  await check(
    gpu,
    [{
      kind: "reduce",
      name: "scaled products",
      shape: [rows, columns],
      reduced: 1,
      combine: "sum",
      inputs: [
        access(0, [rows, columns]),
        access(1, [columns], { dtype: "f16", strides: [0, 1], offset: 1 }),
      ],
      expr: binary("mul", load(0), load(1)),
      output: access(2, [rows], { dtype: "f16" }),
      epilogue: {
        inputs: [access(3, [rows]), access(0, [rows], { strides: [columns] })],
        expr: binary("add", binary("mul", acc, load(0)), load(1)),
      },
    }],
    [floats(780, 1), floats(131, 2, "f16"), floats(6, 3, "f16"), floats(6, 4)],
    2e-3,
  );
  for (const combine of ["sum", "max"] as const) {
    await check(gpu, [{
      kind: "reduce",
      name: "integers",
      shape: [3, 50],
      reduced: 1,
      combine,
      inputs: [access(0, [3, 50], { dtype: "i32" })],
      expr: load(0, "i32"),
      output: access(1, [3], { dtype: "i32" }),
    }], [
      { dtype: "i32", values: random(150, 1).map((x) => Math.floor(x * 1000) - 2000) },
      { dtype: "i32", values: [0, 0, 0] },
    ]);
  }
});

gpuTest("matrix products of every tile, odd sizes and transposes", async (gpu) => {
  const sizes: [m: number, n: number, k: number][] = [
    [1, 1, 1],
    [3, 5, 7],
    [2, 300, 70],
    [17, 9, 33],
    [700, 8, 20],
    [8, 700, 20],
    [64, 64, 16],
    [65, 130, 31],
    [40, 33, 600],
    [5, 4, 0],
    [0, 4, 5],
    [330, 330, 17],
  ];
  for (const [m, n, k] of sizes) {
    for (const [aTurned, bTurned] of [[false, false], [true, false], [false, true], [true, true]]) {
      const kernel: MatmulKernel = {
        kind: "matmul",
        name: `matmul ${m}x${k}x${n} ${aTurned} ${bTurned}`,
        batch: [],
        m,
        n,
        k,
        a: access(0, [m, k], aTurned ? { strides: [1, m] } : {}),
        b: access(1, [k, n], bTurned ? { strides: [1, k] } : {}),
        output: access(2, [m, n]),
      };
      await check(gpu, [kernel], [floats(m * k, 1), floats(k * n, 2), floats(m * n, 3)], 3e-5);
      // The reference is slow: large sizes in one layout only.
      if (m * n * k > 300_000) break;
    }
  }
});

gpuTest("the large tile of matrix products", async (gpu) => {
  const [m, n, k] = [128 * 8, 128 * 32, 9];
  const kernel: MatmulKernel = {
    kind: "matmul",
    name: "large tile",
    batch: [],
    m,
    n,
    k,
    a: access(0, [m, k]),
    b: access(1, [k, n]),
    output: access(2, [m, n]),
  };
  const [a, b] = [random(m * k, 1), random(k * n, 2)];
  const buffers = [m * k, k * n, m * n].map((size) => gpu.allocate(size * 4));
  gpu.write(buffers[0]!, encode(a, "f32"));
  gpu.write(buffers[1]!, encode(b, "f32"));
  const program = gpu.compile([kernel], buffers.map(({ bytes }) => ({ kind: "external", bytes })));
  program.run(buffers);
  const found = decode(await gpu.read(buffers[2]!), "f32");
  for (let i = 0; i < m * n; i += 101) {
    const [row, column] = [Math.floor(i / n), i % n];
    let sum = 0;
    for (let j = 0; j < k; j++) sum += a[row * k + j]! * b[j * n + column]!;
    assert(Math.abs(found[i]! - sum) < 1e-5, `element ${row}, ${column}`);
  }
  program.dispose();
  buffers.forEach((buffer) => gpu.free(buffer));
});

gpuTest("batched matrix products with broadcasts, f16 weights and an epilogue", async (gpu) => {
  const [m, n, k] = [19, 21, 34];
  await check(gpu, [{
    kind: "matmul",
    name: "batched",
    batch: [2, 3],
    m,
    n,
    k,
    a: access(0, [], { strides: [3 * m * k, m * k, k, 1] }),
    b: access(1, [], { dtype: "f16", strides: [0, n * k, 1, k], offset: 3 }),
    output: access(2, [2, 3, m, n]),
    epilogue: {
      inputs: [access(3, [], { strides: [0, 0, 0, 1] }), access(4, [2, 3, m, n])],
      expr: binary("add", unary("sigmoid", binary("add", acc, load(0))), load(1)),
    },
  }], [
    floats(6 * m * k, 1),
    floats(3 * n * k + 3, 2, "f16"),
    floats(6 * m * n, 3),
    floats(n, 4),
    floats(6 * m * n, 5),
  ], 3e-5);
  // Heads merged by the output's strides, contraction long enough to be cut in parts.
  await check(
    gpu,
    [{
      kind: "matmul",
      name: "parts",
      batch: [3],
      m: 5,
      n: 6,
      k: 1100,
      a: access(0, [3, 5, 1100]),
      b: access(1, [], { strides: [6, 18, 1] }),
      output: access(2, [], { strides: [6, 18, 1] }),
      epilogue: {
        inputs: [access(3, [], { strides: [0, 0, 1] })],
        expr: binary("add", acc, load(0)),
      },
    }],
    [floats(3 * 5 * 1100, 1), floats(1100 * 18, 2), floats(90, 3), floats(6, 4)],
    1e-4,
  );
});

gpuTest("convolutions and their gradients", async (gpu) => {
  const cases = [
    { size: [2, 5, 6], ci: 3, co: 4, kernel: [3, 3], stride: 1, pad: [1, 1, 1, 1] },
    { size: [1, 7, 5], ci: 5, co: 18, kernel: [3, 3], stride: 2, pad: [1, 1, 1, 1] },
    { size: [1, 8, 8], ci: 4, co: 3, kernel: [3, 3], stride: 2, pad: [0, 1, 0, 1] },
    { size: [3, 4, 4], ci: 20, co: 24, kernel: [1, 1], stride: 1, pad: [0, 0, 0, 0] },
    { size: [1, 6, 6], ci: 2, co: 2, kernel: [4, 2], stride: 2, pad: [2, 1, 0, 1] },
    { size: [2, 17, 17], ci: 3, co: 5, kernel: [3, 3], stride: 1, pad: [1, 1, 1, 1] },
    { size: [1, 8, 6], ci: 3, co: 8, kernel: [2, 2], stride: 2, pad: [0, 0, 0, 0] },
  ];
  for (const { size, ci, co, kernel, stride, pad } of cases) {
    const [batch, height, width] = size as [number, number, number];
    const [kh, kw] = kernel as [number, number];
    const outHeight = Math.floor((height + pad[0]! + pad[1]! - kh) / stride) + 1;
    const outWidth = Math.floor((width + pad[2]! + pad[3]! - kw) / stride) + 1;
    const conv = {
      batch,
      height,
      width,
      inChannels: ci,
      outHeight,
      outWidth,
      outChannels: co,
      kernelHeight: kh,
      kernelWidth: kw,
      stride,
      padTop: pad[0]!,
      padLeft: pad[2]!,
    };
    const x = [batch, height, width, ci];
    const y = [batch, outHeight, outWidth, co];
    const w = [kh, kw, ci, co];
    const operands = { forward: [x, w, y], input: [y, w, x], weight: [x, y, w] };
    for (const variant of ["forward", "input", "weight"] as const) {
      const [a, b, output] = operands[variant] as [Four, Four, Four];
      const dtype = variant === "weight" ? "f32" : "f16";
      const kernel: ConvKernel = {
        kind: "conv2d",
        name: `${variant} ${JSON.stringify(conv)}`,
        variant,
        conv,
        a: access(0, a, { offset: 2 }),
        b: access(1, b, { dtype, offset: 1 }),
        output: access(2, output, { offset: 3 }),
      };
      const contents = [
        floats(sizeOf(a) + 2, 1),
        floats(sizeOf(b) + 1, 2, dtype),
        floats(sizeOf(output) + 4, 3),
      ];
      await check(gpu, [kernel], contents, 3e-5);
      await check(
        gpu,
        [{
          ...kernel,
          epilogue: {
            inputs: [access(3, [], { strides: [0, 0, 0, 1] })],
            expr: binary("max", binary("add", acc, load(0)), constant(0)),
          },
        }],
        [...contents, floats(output[3]!, 4)],
        3e-5,
      );
    }
  }
});

gpuTest("scatters add in order, whatever the indices", async (gpu) => {
  for (
    const [size, width, count] of [[5, 3, 20], [300, 130, 7], [4, 1, 0], [1, 1, 9]] as const
  ) {
    await check(gpu, [{
      kind: "scatter",
      name: "scatter",
      size,
      width,
      count,
      index: access(0, [count], { dtype: "i32", offset: 1 }),
      values: access(1, [count, width], { offset: 2 }),
      output: access(2, [size, width], { offset: 1 }),
    }], [
      { dtype: "i32", values: random(count + 1, 3).map((x) => Math.floor((x + 1) / 2 * size)) },
      floats(count * width + 2, 1),
      floats(size * width + 1, 2),
    ]);
  }
});

gpuTest("programs share arena memory, run again and take other buffers", async (gpu) => {
  const n = 100;
  const step = (from: number, to: number, name: string): Kernel => ({
    ...map([n], [access(from, [n])], access(to, [n]), binary("add", load(0), constant(1))),
    name,
  });
  const bytes = n * 4;
  const slots: Slot[] = [
    { kind: "external", bytes },
    { kind: "arena", bytes, first: 0, last: 1 },
    { kind: "arena", bytes, first: 1, last: 2 },
    { kind: "arena", bytes, first: 2, last: 3 },
    { kind: "external", bytes },
  ];
  const kernels = [step(0, 1, "a"), step(1, 2, "b"), step(2, 3, "c"), step(3, 4, "d")];
  const program = gpu.compile(kernels, slots);
  assertEquals(program.arenaBytes, 1024);
  const buffers = Array.from({ length: 3 }, () => gpu.allocate(bytes));
  gpu.write(buffers[0]!, encode(new Array(n).fill(1), "f32"));
  program.run([buffers[0]!, buffers[1]!]);
  program.run([buffers[1]!, buffers[2]!]);
  program.run([buffers[2]!, buffers[0]!]);
  const found = await Promise.all(buffers.map((buffer) => gpu.read(buffer, 0, 8)));
  assertEquals(found.map((data) => decode(data, "f32")), [[13, 13], [5, 5], [9, 9]]);

  assertThrows(() => program.run([buffers[0]!]), RangeError, "2 external slots");
  program.dispose();
  assertThrows(() => program.run([buffers[0]!, buffers[1]!]), Error, "disposed");

  // In place: one slot read and written.
  const inPlace = gpu.compile([step(0, 0, "in place")], [{ kind: "external", bytes }]);
  inPlace.run([buffers[0]!]);
  assertEquals(decode(await gpu.read(buffers[0]!, 0, 4), "f32"), [14]);
  inPlace.dispose();

  const aliased = gpu.compile([step(0, 1, "aliased")], [slots[0]!, slots[0]!]);
  assertThrows(() => aliased.run([buffers[0]!, buffers[0]!]), Error, 'Kernel "aliased"');
  aliased.dispose();
  buffers.forEach((buffer) => gpu.free(buffer));
});

Deno.test("webgpu: arena slots whose lives overlap get distinct memory", () => {
  const { sizes, place } = planArena([
    { slot: 0, bytes: 100, first: 0, last: 2 },
    { slot: 1, bytes: 400, first: 1, last: 3 },
    { slot: 2, bytes: 50, first: 2, last: 2 },
    { slot: 3, bytes: 90, first: 3, last: 4 },
    { slot: 4, bytes: 300, first: 4, last: 5 },
  ]);
  assertEquals(sizes, [400, 100, 50]);
  assertEquals([...place].sort((a, b) => a[0] - b[0]).map(([, buffer]) => buffer), [1, 0, 2, 1, 0]);
});

gpuTest("host copies of odd lengths and ranges", async (gpu) => {
  const buffer = gpu.allocate(7);
  gpu.write(buffer, new Uint8Array([1, 2, 3, 4, 5, 6, 7]));
  assertEquals([...await gpu.read(buffer)], [1, 2, 3, 4, 5, 6, 7]);
  assertEquals([...await gpu.read(buffer, 2, 3)], [3, 4, 5]);
  gpu.write(buffer, new Uint8Array([9, 8, 7]), 4);
  assertEquals([...await gpu.read(buffer, 3)], [4, 9, 8, 7]);
  assertThrows(() => gpu.write(buffer, new Uint8Array(3)), RangeError, "multiples of 4");
  assertThrows(() => gpu.write(buffer, new Uint8Array(8)), RangeError, "7 bytes");
  await assertRejects(() => gpu.read(buffer, 4, 4), RangeError, "7 bytes");
  gpu.free(buffer);
  assertThrows(() => gpu.free(buffer), Error, "after it was freed");
  const empty = gpu.allocate(0);
  gpu.write(empty, new Uint8Array(0));
  assertEquals((await gpu.read(empty)).length, 0);
  gpu.free(empty);
});

gpuTest("limits and faults name what is at fault", async (gpu) => {
  assertThrows(() => gpu.allocate(2 ** 42), RangeError, `needs ${2 ** 42} bytes`);
  const many = gpu.maxInputs + 1;
  const slots: Slot[] = Array.from({ length: many + 1 }, () => ({ kind: "external", bytes: 4 }));
  const inputs = slots.slice(1).map((_, i) => access(i + 1, []));
  const sum = inputs.map((_, i) => load(i)).reduce((a, b) => binary("add", a, b));
  assertThrows(
    () => gpu.compile([{ ...map([], inputs, access(0, []), sum), name: "wide" }], slots),
    RangeError,
    'Kernel "wide"',
  );
  gpu.compile([{
    ...map([], [access(1, [], { dtype: "i32" })], access(0, []), load(0)),
    name: "ill-typed",
  }], slots);
  await assertRejects(() => gpu.finish(), Error, 'Kernel "ill-typed" does not compile');
  await gpu.finish();
});

Deno.test("webgpu: a platform without an adapter is told what to do", async () => {
  const gpu = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;
  await assertRejects(() => openWebGpu({ gpu }), Error, "`cpu`");
  if (backend === undefined) assert(absence.includes("`cpu`"), absence);
});
