/**
 * Reductions. Where the inputs run along the reduced axis, each output is a row to sum (`row`); where
 * they run along the kept axis, four or sixteen outputs are summed side by side (`column`).
 *
 * The order of the additions is fixed, whatever the number of threads.
 *
 * @module
 */
import type { Access, ReduceKernel } from "../kernel.ts";
import { BYTES } from "../kernel.ts";
import { emitExpr, emitStore, spell } from "./expression.ts";
import {
  type Compiled,
  emitElement,
  emitRowPointers,
  emitTake,
  loadBase,
  strideKind,
} from "./map.ts";
import { assemble, Code, I32, type Local, V128 } from "./wasm.ts";

/** Outputs that one unit of a column reduction computes. */
const COLUMNS = 16;

/** Compiles a reduction. */
export function compileReduce(kernel: ReduceKernel): Compiled {
  const split = kernel.shape.length - kernel.reduced;
  let kept = kernel.shape.slice(0, split);
  let axes = kernel.shape.slice(split);
  let outer: readonly Access[] = [kernel.output, ...kernel.epilogue?.inputs ?? []];
  let ins: readonly Access[] = kernel.inputs;
  if (axes.length === 0) {
    axes = [1];
    ins = ins.map((a) => ({ ...a, strides: [...a.strides, 0] }));
  }
  const alongReduced = ins.filter((a) => a.strides.at(-1) === 1).length;
  const alongKept = ins.filter((a) => kept.length > 0 && a.strides[kept.length - 1] === 1).length;
  const column = kept.length > 0 && kept.at(-1)! >= 4 && alongKept > alongReduced;
  if (kept.length === 0) {
    kept = [1];
    ins = ins.map((a) => ({ ...a, strides: [0, ...a.strides] }));
    outer = outer.map((a) => ({ ...a, strides: [0, ...a.strides] }));
  }
  const plain = ({ dtype, strides, offset }: Access) => ({ dtype, strides, offset });
  const text = spell(kernel.expr);
  const key = JSON.stringify([
    "reduce",
    kept,
    axes,
    kernel.combine,
    ins.map(plain),
    outer.map(plain),
    text,
    kernel.epilogue && spell(kernel.epilogue.expr),
  ]);
  const width = kept.at(-1)!;
  const rows = kept.reduce((a, b) => a * b, 1);
  const blocks = Math.ceil(width / COLUMNS);
  const units = column ? rows / width * blocks : rows;
  const work = kernel.shape.reduce((a, b) => a * b, 1);
  const cost = work * (ins.length + 0.5 + text.length / 10) * 0.4;
  const spec = { kernel, kept, axes, ins, outer };
  return { key, bytes: () => column ? emitColumns(spec, blocks) : emitRows(spec), units, cost };
}

interface Spec {
  readonly kernel: ReduceKernel;
  readonly kept: readonly number[];
  readonly axes: readonly number[];
  /** Strides over kept, then reduced axes. */
  readonly ins: readonly Access[];
  /** The output, then the epilogue's inputs; strides over the kept axes. */
  readonly outer: readonly Access[];
}

const isInteger = (kernel: ReduceKernel) => kernel.expr.type === "i32";

function combine(code: Code, kernel: ReduceKernel): void {
  const name = kernel.combine === "sum" ? "add" : "max";
  if (isInteger(kernel)) code.op(name === "add" ? "i32x4.add" : "i32x4.max_s");
  else code.op(`f32x4.${name}`);
}

function identity(code: Code, kernel: ReduceKernel): void {
  if (isInteger(kernel)) code.i32x4(kernel.combine === "sum" ? 0 : -0x80000000);
  else code.f32x4(kernel.combine === "sum" ? 0 : -Infinity);
}

/** Runs `body` for every combination of the axes, moving the pointers along. */
function emitLoops(
  code: Code,
  axes: readonly number[],
  accesses: readonly Access[],
  strideOf: (a: Access, axis: number) => number,
  pointers: readonly Local[],
  body: () => void,
): void {
  const level = (axis: number): void => {
    if (axis === axes.length) {
      body();
      return;
    }
    const i = code.local(I32);
    const n = axes[axis]!;
    code.i32(0).set(i);
    code.for(i, n, 1, () => {
      level(axis + 1);
      accesses.forEach((a, k) => code.bump(pointers[k]!, strideOf(a, axis) * BYTES[a.dtype]));
    });
    accesses.forEach((a, k) => code.bump(pointers[k]!, -n * strideOf(a, axis) * BYTES[a.dtype]));
  };
  level(0);
}

function emitRows({ kernel, kept, axes, ins, outer }: Spec): Uint8Array<ArrayBuffer> {
  const code = new Code(3);
  const [args, begin, end] = [0, 1, 2];
  const accesses = [...ins, ...outer];
  const bases = accesses.map((_, i) => loadBase(code, args, i));
  const pointers = accesses.map(() => code.local(I32));
  const unit = code.local(I32);
  const x = code.local(I32);
  const acc = code.local(V128);
  const inner = axes.at(-1)!;
  const value = (lanes: 1 | 4) =>
    emitExpr(code, kernel.expr, {
      load: (i) => {
        const kind = strideKind(ins[i]!.strides.at(-1)!);
        emitElement(code, ins[i]!.dtype, kind, lanes, pointers[i]!, x);
      },
      take: (i, index) => emitTake(code, ins[i]!, bases[i]!, index, lanes),
      acc: () => {
        throw new Error("reduce: the accumulator belongs to the epilogue");
      },
    });

  code.get(begin).set(unit);
  code.for(unit, { local: end }, 1, () => {
    emitRowPointers(code, accesses, kept, bases, pointers, unit);
    identity(code, kernel);
    code.set(acc);
    emitLoops(code, axes.slice(0, -1), ins, (a, i) => a.strides[kept.length + i]!, pointers, () => {
      code.i32(0).set(x);
      code.for(x, inner - 3, 4, () => {
        code.get(acc);
        value(4);
        combine(code, kernel);
        code.set(acc);
      });
      if (inner % 4 !== 0) {
        // The other lanes of a single element hold nothing meaningful.
        code.for(x, inner, 1, () => {
          code.get(acc);
          value(1);
          identity(code, kernel);
          code.lanes(-1, 0, 0, 0).op("v128.bitselect");
          combine(code, kernel);
          code.set(acc);
        });
      }
    });
    code.get(acc).get(acc).get(acc).shuffle32(2, 3, 0, 1);
    combine(code, kernel);
    code.set(acc);
    code.get(acc).get(acc).get(acc).shuffle32(1, 0, 3, 2);
    combine(code, kernel);
    code.set(acc);
    finish(code, kernel, outer, bases, pointers, ins.length, 1, acc, undefined);
  });
  return assemble([{ params: 3, code }]);
}

/** Applies the epilogue to `acc` and stores it at the output's pointer (plus element `x`). */
function finish(
  code: Code,
  kernel: ReduceKernel,
  outer: readonly Access[],
  bases: readonly Local[],
  pointers: readonly Local[],
  first: number,
  lanes: 1 | 4,
  acc: Local,
  x: Local | undefined,
  ahead = 0,
): void {
  const zero = x ?? code.local(I32);
  if (x === undefined) code.i32(0).set(zero);
  const strideAt = (a: Access) => x === undefined ? 1 : a.strides.at(-1)!;
  if (kernel.epilogue) {
    emitExpr(code, kernel.epilogue.expr, {
      load: (i) => {
        const a = outer[i + 1]!;
        const pointer = pointers[first + i + 1]!;
        emitElement(code, a.dtype, strideKind(strideAt(a)), lanes, pointer, zero, ahead);
      },
      take: (i, index) => emitTake(code, outer[i + 1]!, bases[first + i + 1]!, index, lanes),
      acc: () => void code.get(acc),
    });
    code.set(acc);
  }
  const out = outer[0]!;
  const stride = strideAt(out);
  const address = () => {
    code.get(pointers[first]!).get(zero).i32(stride * BYTES[out.dtype]).op("i32.mul");
    code.op("i32.add");
  };
  emitStore(code, out.dtype, lanes, address, acc, stride, ahead * stride * BYTES[out.dtype]);
}

function emitColumns(
  { kernel, kept, axes, ins, outer }: Spec,
  blocks: number,
): Uint8Array<ArrayBuffer> {
  const code = new Code(3);
  const [args, begin, end] = [0, 1, 2];
  const accesses = [...ins, ...outer];
  const bases = accesses.map((_, i) => loadBase(code, args, i));
  const pointers = accesses.map(() => code.local(I32));
  const unit = code.local(I32);
  const row = code.local(I32);
  const x = code.local(I32);
  const stop = code.local(I32);
  const limit = code.local(I32);
  const width = kept.at(-1)!;
  const last = kept.length - 1;
  const accs = Array.from({ length: COLUMNS / 4 }, () => code.local(V128));

  /** Sums `vectors` neighbouring vectors (or one element) of outputs from column `x` on. */
  const block = (vectors: number, lanes: 1 | 4) => {
    for (let v = 0; v < vectors; v++) {
      identity(code, kernel);
      code.set(accs[v]!);
    }
    emitLoops(code, axes, ins, (a, i) => a.strides[kept.length + i]!, pointers, () => {
      for (let v = 0; v < vectors; v++) {
        code.get(accs[v]!);
        emitExpr(code, kernel.expr, {
          load: (i) => {
            const kind = strideKind(ins[i]!.strides[last]!);
            emitElement(code, ins[i]!.dtype, kind, lanes, pointers[i]!, x, 4 * v);
          },
          take: (i, index) => emitTake(code, ins[i]!, bases[i]!, index, lanes),
          acc: () => {
            throw new Error("reduce: the accumulator belongs to the epilogue");
          },
        });
        combine(code, kernel);
        code.set(accs[v]!);
      }
    });
    for (let v = 0; v < vectors; v++) {
      finish(
        code,
        kernel,
        outer,
        bases,
        pointers,
        ins.length,
        lanes,
        accs[v]!,
        x,
        4 * v,
      );
    }
  };

  code.get(begin).set(unit);
  code.for(unit, { local: end }, 1, () => {
    code.get(unit).i32(blocks).op("i32.div_u").set(row);
    emitRowPointers(code, accesses, kept.slice(0, -1), bases, pointers, row);
    code.get(unit).i32(blocks).op("i32.rem_u").i32(COLUMNS).op("i32.mul").tee(x);
    code.i32(COLUMNS).op("i32.add").set(stop);
    code.get(stop).i32(width).op("i32.gt_s").if(() => code.i32(width).set(stop));
    if (width >= COLUMNS) {
      code.get(stop).i32(COLUMNS - 1).op("i32.sub").set(limit);
      code.for(x, { local: limit }, COLUMNS, () => block(COLUMNS / 4, 4));
    }
    if (width % COLUMNS >= 4) {
      code.get(stop).i32(3).op("i32.sub").set(limit);
      code.for(x, { local: limit }, 4, () => block(1, 4));
    }
    if (width % 4 !== 0) code.for(x, { local: stop }, 1, () => block(1, 1));
  });
  return assemble([{ params: 3, code }]);
}
