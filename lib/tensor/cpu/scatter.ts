/**
 * Scatter-add: rows added to a table in order, so that the sum never depends on the threads.
 *
 * @module
 */
import type { ScatterKernel } from "../kernel.ts";
import type { Compiled } from "./map.ts";
import { loadBase } from "./map.ts";
import { assemble, Code, I32, V128 } from "./wasm.ts";

/** Compiles a scatter; its arguments are the addresses of index, values and output, and it is one unit. */
export function compileScatter(kernel: ScatterKernel): Compiled {
  const { size, width, count } = kernel;
  const offsets = [kernel.index.offset, kernel.values.offset, kernel.output.offset];
  const key = JSON.stringify(["scatter", size, width, count, offsets]);
  const bytes = () => {
    const code = new Code(3);
    const [index, values, output] = offsets.map((offset, i) => {
      const base = loadBase(code, 0, i);
      code.bump(base, offset * 4);
      return base;
    }) as [number, number, number];
    const i = code.local(I32);
    const x = code.local(I32);
    const row = code.local(I32);
    const value = code.local(V128);
    code.i32(0).set(i);
    code.for(i, size * width, 1, () => {
      code.get(output).get(i).i32(2).op("i32.shl").op("i32.add").i32(0).memory("i32.store");
    });
    code.i32(0).set(i);
    code.for(i, count, 1, () => {
      code.get(output).get(index).get(i).i32(2).op("i32.shl").op("i32.add").memory("i32.load");
      code.i32(width * 4).op("i32.mul").op("i32.add").set(row);
      code.i32(0).set(x);
      code.for(x, width, 1, () => {
        code.get(row).memory("v128.load32_zero");
        code.get(values).memory("v128.load32_zero");
        code.op("f32x4.add").set(value);
        code.get(row).get(value).storeLane32(0);
        code.bump(row, 4);
        code.bump(values, 4);
      });
    });
    return assemble([{ params: 3, code }]);
  };
  return { key, bytes, units: 1, cost: (count + size) * width * 2 };
}
