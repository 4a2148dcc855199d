/**
 * Elementwise kernels: rows of the innermost axis, four elements at a time.
 *
 * A compiled kernel is a function `run(args, begin, end)`: `args` points at the addresses of its
 * operands, and `[begin, end)` is the range of units (rows, or blocks of a lone row) to compute.
 *
 * @module
 */
import type { Access, DType, MapKernel } from "../kernel.ts";
import { BYTES } from "../kernel.ts";
import {
  emitExpr,
  emitGather,
  emitLanes,
  emitLoad,
  emitSplat,
  emitStore,
  spell,
} from "./expression.ts";
import { assemble, Code, I32, type Local, V128 } from "./wasm.ts";

/** A kernel's code with what the runner must know to split it among threads. */
export interface Compiled {
  /** Equal keys have equal code. */
  readonly key: string;
  readonly bytes: () => Uint8Array<ArrayBuffer>;
  /** How many units there are. */
  readonly units: number;
  /** A rough cost in nanoseconds of one thread. */
  readonly cost: number;
}

/** Elements of a lone row that make one unit. */
const BLOCK = 1024;

/** How the innermost axis of an input is walked. */
export type Stride = "splat" | "vector" | { readonly gather: number };

/** The walk of a stride. */
export function strideKind(stride: number): Stride {
  return stride === 0 ? "splat" : stride === 1 ? "vector" : { gather: stride };
}

/**
 * Compiles an elementwise kernel.
 *
 * @param byRow Units are rows of the last axis even if there is only one, so that a contraction can
 * run it over the rows that it has just computed.
 */
export function compileMap(kernel: MapKernel, byRow = false): Compiled {
  const { shape, inputs, output, expr } = kernel;
  const rank = Math.max(shape.length, 1);
  const full = shape.length === 0 ? [1] : [...shape];
  const walk = (a: Access) => shape.length === 0 ? { ...a, strides: [0] } : a;
  const outs = walk(output);
  const ins = inputs.map(walk);
  const inner = full[rank - 1]!;
  const rows = full.slice(0, -1).reduce((a, b) => a * b, 1);
  const blocks = rank === 1 && !byRow ? Math.ceil(inner / BLOCK) : 1;
  const plain = ({ dtype, strides, offset }: Access) => ({ dtype, strides, offset });
  const text = spell(expr);
  const key = JSON.stringify(["map", full, byRow, ins.map(plain), plain(outs), text]);

  const bytes = () => {
    const code = new Code(3);
    const [args, begin, end] = [0, 1, 2];
    const accesses = [...ins, outs];
    const bases = accesses.map((_, i) => loadBase(code, args, i));
    const pointers = accesses.map(() => code.local(I32));
    const unit = code.local(I32);
    const x = code.local(I32);
    const stop = code.local(I32);
    const lastVector = code.local(I32);
    const value = code.local(V128);
    const splats = ins.map((a) => a.strides[rank - 1] === 0 ? code.local(V128) : undefined);

    /** One vector (or one element) of the output at element `x` of the row. */
    const piece = (lanes: 1 | 4) => {
      emitExpr(code, expr, {
        load: (i) => {
          const splat = splats[i];
          const a = ins[i]!;
          if (splat !== undefined) code.get(splat);
          else {
            emitElement(code, a.dtype, strideKind(a.strides[rank - 1]!), lanes, pointers[i]!, x);
          }
        },
        take: (i, index) => emitTake(code, ins[i]!, bases[i]!, index, lanes),
        acc: () => {
          throw new Error("map: has no accumulator");
        },
      });
      code.set(value);
      const stride = outs.strides[rank - 1]!;
      const address = addressOf(code, outs.dtype, stride, pointers[ins.length]!, x);
      emitStore(code, outs.dtype, lanes, address, value, stride, 0);
    };

    code.get(begin).set(unit);
    code.for(unit, { local: end }, 1, () => {
      emitRowPointers(code, accesses, full.slice(0, -1), bases, pointers, blocks > 1 ? null : unit);
      splats.forEach((local, i) => {
        if (local === undefined) return;
        code.get(pointers[i]!);
        emitSplat(code, ins[i]!.dtype, 0);
        code.set(local);
      });
      if (blocks > 1) {
        code.get(unit).i32(BLOCK).op("i32.mul").set(x);
        code.get(x).i32(BLOCK).op("i32.add").set(stop);
        code.get(stop).i32(inner).op("i32.gt_s").if(() => code.i32(inner).set(stop));
      } else {
        code.i32(0).set(x).i32(inner).set(stop);
      }
      code.get(stop).i32(3).op("i32.sub").set(lastVector);
      if (inner >= 4) code.for(x, { local: lastVector }, 4, () => piece(4));
      if (inner % 4 !== 0) code.for(x, { local: stop }, 1, () => piece(1));
    });
    return assemble([{ params: 3, code }]);
  };
  // Memory moves at about 8 bytes a nanosecond; arithmetic adds to it.
  const cost = rows * inner * (ins.length + 1.5 + text.length / 8) * 0.4;
  return { key, bytes, units: rows * blocks, cost };
}

/** The address of operand `i`, read from the arguments. */
export function loadBase(code: Code, args: Local, i: number): Local {
  const base = code.local(I32);
  code.get(args).memory("i32.load", 4 * i).set(base);
  return base;
}

/**
 * Sets each pointer to the start of a row: `base + offset + sum(coordinate * stride)` in bytes, the
 * coordinates being those of the flat index `row` over `axes`. `null` means the only row.
 */
export function emitRowPointers(
  code: Code,
  accesses: readonly Access[],
  axes: readonly number[],
  bases: readonly Local[],
  pointers: readonly Local[],
  row: Local | null,
): void {
  accesses.forEach((a, i) => {
    code.get(bases[i]!).i32(a.offset * BYTES[a.dtype]).op("i32.add").set(pointers[i]!);
  });
  if (row === null || axes.length === 0) return;
  const rest = code.local(I32);
  const c = code.local(I32);
  code.get(row).set(rest);
  for (let axis = axes.length - 1; axis >= 0; axis--) {
    const n = axes[axis]!;
    if (axis === 0) code.get(rest).set(c);
    else {
      code.get(rest).i32(n).op("i32.rem_u").set(c);
      code.get(rest).i32(n).op("i32.div_u").set(rest);
    }
    accesses.forEach((a, i) => {
      const step = a.strides[axis]! * BYTES[a.dtype];
      if (step === 0) return;
      code.get(pointers[i]!).get(c).i32(step).op("i32.mul").op("i32.add").set(pointers[i]!);
    });
  }
}

/** Leaves the address of element `x` of a row. */
export function addressOf(
  code: Code,
  dtype: DType,
  stride: number,
  pointer: Local,
  x: Local,
): () => void {
  const scale = stride * BYTES[dtype];
  return () => {
    code.get(pointer).get(x);
    if ((scale & (scale - 1)) === 0 && scale > 0) code.i32(Math.log2(scale)).op("i32.shl");
    else code.i32(scale).op("i32.mul");
    code.op("i32.add");
  };
}

/** Leaves elements `x..x+lanes` of a row. */
export function emitElement(
  code: Code,
  dtype: DType,
  kind: Stride,
  lanes: 1 | 4,
  pointer: Local,
  x: Local,
  ahead = 0,
): void {
  if (kind === "splat") {
    code.get(pointer);
    emitSplat(code, dtype, 0);
  } else if (kind === "vector") {
    addressOf(code, dtype, 1, pointer, x)();
    emitLoad(code, dtype, lanes, ahead * BYTES[dtype]);
  } else {
    const at = code.local(I32);
    addressOf(code, dtype, kind.gather, pointer, x)();
    code.set(at);
    const address = () => void code.get(at);
    emitGather(code, dtype, lanes, address, kind.gather, ahead * kind.gather * BYTES[dtype]);
  }
}

/** Leaves the elements of a table at four indices; with `lanes` 1 the other indices mean nothing. */
export function emitTake(
  code: Code,
  table: Access,
  base: Local,
  index: Local,
  lanes: 1 | 4,
): void {
  const width = BYTES[table.dtype];
  const address = (lane: number) =>
    void code.get(base).get(index).extractI32(lane).i32(width).op("i32.mul").op("i32.add");
  if (lanes === 1) {
    address(0);
    emitLoad(code, table.dtype, 1, table.offset * width);
    return;
  }
  emitLanes(code, table.dtype, (lane) => {
    address(lane);
    return table.offset * width;
  });
}
