/**
 * From kernels to steps: every contraction becomes the packing of its B, the product, and its epilogue
 * over the rows just computed; everything gets an address.
 *
 * @module
 */
import type { Access, ConvKernel, Epilogue, Expr, Kernel, MatmulKernel, Slot } from "../kernel.ts";
import { BYTES } from "../kernel.ts";
import { collapse, contiguousStrides } from "../shape.ts";
import {
  type CompiledGemm,
  compileGemm,
  compilePack,
  type Gemm,
  type Packing,
  PANEL,
  panelsOf,
} from "./gemm.ts";
import { type Compiled, compileMap } from "./map.ts";
import type { Life } from "./memory.ts";
import { compileReduce } from "./reduce.ts";
import { compileScatter } from "./scatter.ts";
import { splitReduction } from "./split.ts";
import { forwardTable, inputTable } from "./tables.ts";

/** An operand of a step: a slot, a constant table, or a block of zeros. */
export type Operand =
  | { readonly slot: number }
  | { readonly table: string }
  | { readonly zeros: true };

/** A step before it has addresses. */
export interface Draft {
  readonly compiled: Compiled;
  readonly operands: readonly Operand[];
  readonly then?: {
    readonly compiled: Compiled;
    readonly operands: readonly Operand[];
    readonly firstRow: (unit: number) => number;
  };
  /** Units that keep what they write in cache. */
  readonly most: number;
}

/** Steps, the slots with scratch space added, and the tables that they use. */
export interface DraftProgram {
  readonly steps: readonly Draft[];
  readonly slots: readonly (Slot | (Life & { readonly kind: "arena" }))[];
  readonly tables: ReadonlyMap<string, () => Int32Array<ArrayBuffer>>;
  /** The longest run of zeros that a step reads, in bytes. */
  readonly zeroBytes: number;
}

/** Bytes of output after which a contraction's epilogue should follow, while they are in cache. */
const WARM = 192 * 1024;

/** Lays kernels out as steps. */
export function draft(kernels: readonly Kernel[], given: readonly Slot[]): DraftProgram {
  const slots = [...given];
  const steps: Draft[] = [];
  const tables = new Map<string, () => Int32Array<ArrayBuffer>>();
  let zeroBytes = 64;

  const scratch = (bytes: number, at: number): number =>
    slots.push({ kind: "arena", bytes, first: at, last: at }) - 1;

  const widened = (a: Access, size: number, at: number): Access => {
    if (a.dtype === "f32") return a;
    // A is read in place, so narrow storage is widened into scratch space first.
    const slot = scratch(size * 4, at);
    const strides = [1];
    steps.push({
      compiled: compileMap({
        kind: "map",
        name: "widen",
        shape: [size],
        inputs: [{ ...a, strides, offset: 0 }],
        output: { slot, dtype: "f32", strides, offset: 0 },
        expr: { kind: "load", type: "f32", input: 0 },
      }),
      operands: [{ slot: a.slot }, { slot }],
      most: Infinity,
    });
    return { ...a, dtype: "f32", slot };
  };

  const product = (
    gemm: Gemm,
    packing: Packing,
    epilogue: Epilogue | undefined,
    shape: readonly number[],
    at: number,
    table?: string,
  ) => {
    const distinct = gemm.batch.reduce((n, size, i) => gemm.b.strides[i] === 0 ? n : n * size, 1);
    const packed = scratch(distinct * panelsOf(gemm.n) * gemm.k * PANEL * 4, at);
    steps.push({
      compiled: compilePack(packing),
      operands: [{ slot: gemm.b.slot }, { slot: packed }],
      most: Infinity,
    });
    const compiled = compileGemm(gemm);
    const operands: Operand[] = [
      { slot: gemm.a.slot },
      { slot: packed },
      { slot: gemm.c.slot },
      table ? { table } : { zeros: true },
      { zeros: true },
    ];
    const most = Math.max(1, Math.floor(WARM / (Math.min(gemm.m, 6) * gemm.n * 4)));
    const then = epilogue && rowsOf(compiled, epilogue, gemm.c, shape);
    steps.push({ compiled, operands, most, ...then ? { then } : {} });
  };

  kernels.forEach((kernel, at) => {
    switch (kernel.kind) {
      case "map":
        steps.push({
          compiled: compileMap(kernel),
          operands: [...kernel.inputs, kernel.output].map(({ slot }) => ({ slot })),
          most: Infinity,
        });
        return;
      case "reduce":
        for (const part of splitReduction(kernel, (bytes) => scratch(bytes, at))) {
          const { inputs, output, epilogue } = part;
          steps.push({
            compiled: compileReduce(part),
            operands: [...inputs, output, ...epilogue?.inputs ?? []].map(({ slot }) => ({ slot })),
            most: Infinity,
          });
        }
        return;
      case "scatter":
        steps.push({
          compiled: compileScatter(kernel),
          operands: [kernel.index, kernel.values, kernel.output].map(({ slot }) => ({ slot })),
          most: Infinity,
        });
        return;
      case "matmul": {
        const slotSize = slots[kernel.a.slot]!.bytes / BYTES[kernel.a.dtype];
        const a = widened(kernel.a, slotSize, at);
        const { gemm, packing } = matmulGemm({ ...kernel, a });
        product(gemm, packing, kernel.epilogue, [...kernel.batch, kernel.m, kernel.n], at);
        return;
      }
      case "conv2d": {
        const slotSize = slots[kernel.a.slot]!.bytes / BYTES[kernel.a.dtype];
        const a = widened(kernel.a, slotSize, at);
        const { gemm, packing, shape, table } = convGemm({ ...kernel, a });
        if (table) tables.set(table.key, table.make);
        zeroBytes = Math.max(
          zeroBytes,
          4 * Math.max(kernel.conv.inChannels, kernel.conv.outChannels) + 64,
        );
        product(gemm, packing, kernel.epilogue, shape, at, table?.key);
        return;
      }
    }
  });
  return { steps, slots, tables, zeroBytes };
}

/** The epilogue as a map over the rows that a product has just written, in place. */
function rowsOf(
  compiled: CompiledGemm,
  epilogue: Epilogue,
  c: Access,
  shape: readonly number[],
): NonNullable<Draft["then"]> {
  const result: Access = {
    slot: c.slot,
    dtype: "f32",
    strides: contiguousStrides(shape),
    offset: c.offset,
  };
  const inputs = [...epilogue.inputs, result];
  const expr = replaceAcc(epilogue.expr, {
    kind: "load",
    type: "f32",
    input: inputs.length - 1,
  });
  // Rows of one element keep their axis, so that a row is still a row.
  const merged = shape.at(-1) === 1
    ? { shape: [...shape], walks: inputs.map((a) => [...a.strides]) }
    : collapse(shape, inputs.map((a) => a.strides), shape.length - 1);
  const walks = inputs.map((a, i) => ({ ...a, strides: merged.walks[i]! }));
  const map = compileMap({
    kind: "map",
    name: "epilogue",
    shape: merged.shape,
    inputs: walks,
    output: walks.at(-1)!,
    expr,
  }, true);
  return {
    compiled: map,
    operands: [...inputs, result].map(({ slot }) => ({ slot })),
    firstRow: compiled.firstRow,
  };
}

/** The same expression with the accumulator read from memory; shared nodes stay shared. */
function replaceAcc(root: Expr, by: Expr): Expr {
  const done = new Map<Expr, Expr>();
  const visit = (e: Expr): Expr => {
    const known = done.get(e);
    if (known) return known;
    const made = rebuild(e);
    done.set(e, made);
    return made;
  };
  const rebuild = (e: Expr): Expr => {
    switch (e.kind) {
      case "acc":
        return by;
      case "take":
        return { ...e, index: visit(e.index) };
      case "unary":
      case "cast":
        return { ...e, a: visit(e.a) };
      case "binary":
        return { ...e, a: visit(e.a), b: visit(e.b) };
      case "where":
        return { ...e, test: visit(e.test), a: visit(e.a), b: visit(e.b) };
      default:
        return e;
    }
  };
  return visit(root);
}

function matmulGemm(kernel: MatmulKernel): { gemm: Gemm; packing: Packing } {
  const { batch, m, n, k, a, b, output } = kernel;
  const rank = batch.length;
  const [rowStride, stepStride] = [a.strides[rank]!, a.strides[rank + 1]!];
  const over = (x: Access): Access => ({ ...x, strides: x.strides.slice(0, rank) });
  const gemm: Gemm = {
    batch,
    m,
    n,
    k,
    rows: { mode: "strided", rowBytes: rowStride * 4, stepBytes: stepStride * 4 },
    a: over(a),
    b: over(b),
    c: over(output),
  };
  // B is packed once for each distinct matrix.
  const distinct = batch.map((size, i) => b.strides[i] === 0 ? 1 : size);
  const packing: Packing = {
    batch: distinct,
    n,
    outer: 1,
    inner: k,
    outerStride: 0,
    innerStride: b.strides[rank]!,
    columnStride: b.strides[rank + 1]!,
    b: over(b),
  };
  return { gemm, packing };
}

interface ConvGemm {
  readonly gemm: Gemm;
  readonly packing: Packing;
  /** The output's shape, rows of channels last. */
  readonly shape: readonly number[];
  readonly table?: { readonly key: string; readonly make: () => Int32Array<ArrayBuffer> };
}

function convGemm({ variant, conv, a, b, output }: ConvKernel): ConvGemm {
  const { batch, inChannels, outChannels } = conv;
  const taps = conv.kernelHeight * conv.kernelWidth;
  const inPixels = conv.height * conv.width;
  const outPixels = conv.outHeight * conv.outWidth;
  const at = (x: Access, strides: readonly number[]): Access => ({ ...x, strides });
  const key = JSON.stringify(conv);
  const size = inChannels * outChannels;
  switch (variant) {
    case "forward":
      return {
        gemm: {
          batch: [batch],
          m: outPixels,
          n: outChannels,
          k: taps * inChannels,
          rows: { mode: "rows", taps, channels: inChannels },
          a: at(a, [inPixels * inChannels]),
          b: at(b, [0]),
          c: at(output, [outPixels * outChannels]),
        },
        packing: {
          batch: [1],
          n: outChannels,
          outer: taps,
          inner: inChannels,
          outerStride: size,
          innerStride: outChannels,
          columnStride: 1,
          b: at(b, [0]),
        },
        shape: [batch, conv.outHeight, conv.outWidth, outChannels],
        table: { key: `forward ${key}`, make: () => forwardTable(conv) },
      };
    case "input":
      return {
        gemm: {
          batch: [batch],
          m: inPixels,
          n: inChannels,
          k: taps * outChannels,
          rows: { mode: "rows", taps, channels: outChannels },
          a: at(a, [outPixels * outChannels]),
          b: at(b, [0]),
          c: at(output, [inPixels * inChannels]),
        },
        packing: {
          batch: [1],
          n: inChannels,
          outer: taps,
          inner: outChannels,
          outerStride: size,
          innerStride: 1,
          columnStride: outChannels,
          b: at(b, [0]),
        },
        shape: [batch, conv.height, conv.width, inChannels],
        table: { key: `input ${key}`, make: () => inputTable(conv) },
      };
    case "weight":
      return {
        gemm: {
          batch: [taps],
          m: inChannels,
          n: outChannels,
          k: batch * outPixels,
          rows: {
            mode: "columns",
            taps,
            images: batch,
            pixels: outPixels,
            imageBytes: inPixels * inChannels * 4,
          },
          a: at(a, [0]),
          b: at(b, [0]),
          c: at(output, [size]),
        },
        packing: {
          batch: [1],
          n: outChannels,
          outer: 1,
          inner: batch * outPixels,
          outerStride: 0,
          innerStride: outChannels,
          columnStride: 1,
          b: at(b, [0]),
        },
        shape: [taps, inChannels, outChannels],
        table: { key: `forward ${key}`, make: () => forwardTable(conv) },
      };
  }
}
