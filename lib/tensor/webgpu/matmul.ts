/**
 * Matrix products of strided operands: transposes and broadcasts are strides, never copies.
 *
 * Products with a vector, and tiny ones, are plain reductions: no tile would be filled.
 *
 * @module
 */
import type { MatmulKernel } from "../kernel.ts";
import { gemmDispatches, matrix } from "./gemm.ts";
import { reduceDispatches, type Scratch } from "./reduce.ts";
import type { Dispatch } from "./shader.ts";
import { sizeOf } from "./walk.ts";

/** Products of fewer multiplications are tiny. */
const TINY = 2 ** 16;

/** Products with so few rows or columns are products with vectors. */
const VECTORS = 4;

/** Generates a (batched) matrix product. */
export function matmulDispatches(kernel: MatmulKernel, scratch: Scratch): Dispatch[] {
  const { name, batch, m, n, k, a, b, output, epilogue } = kernel;
  const rank = batch.length;
  const rest = epilogue === undefined ? {} : { epilogue };
  if (Math.min(m, n) <= VECTORS || sizeOf([...batch, m, n, k]) < TINY) {
    // Both walk [..batch, m, n, k]; a stands still along n, b along m.
    const aStrides = a.strides.toSpliced(rank + 1, 0, 0);
    const bStrides = b.strides.toSpliced(rank, 2, 0, b.strides[rank + 1]!, b.strides[rank]!);
    return reduceDispatches({
      kind: "reduce",
      name,
      shape: [...batch, m, n, k],
      reduced: 1,
      combine: "sum",
      inputs: [{ ...a, strides: aStrides }, { ...b, strides: bStrides }],
      expr: {
        kind: "binary",
        type: "f32",
        op: "mul",
        a: { kind: "load", type: "f32", input: 0 },
        b: { kind: "load", type: "f32", input: 1 },
      },
      output,
      ...rest,
    }, scratch);
  }
  return gemmDispatches({
    name,
    batch,
    rows: m,
    columns: n,
    k,
    a: matrix(a, "a_batch", a.strides[rank]!, a.strides[rank + 1]!),
    b: matrix(b, "b_batch", b.strides[rank + 1]!, b.strides[rank]!),
    aBatch: a.strides.slice(0, rank),
    bBatch: b.strides.slice(0, rank),
    shape: [...batch, m, n],
    output,
    ...rest,
  }, scratch);
}
