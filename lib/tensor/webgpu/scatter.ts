/**
 * Scatter-add in fixed order: a thread owns one column of a range of output rows, walks all indices
 * in order and adds the values that fall into its range. No atomics, so results are reproducible.
 *
 * @module
 */
import type { ScatterKernel } from "../kernel.ts";
import { convert, type Dispatch, Shader, THREADS, valueType } from "./shader.ts";

/** Threads that keep a large GPU busy. */
const BUSY_THREADS = 32768;

/** Generates a scatter-add. */
export function scatterDispatch(kernel: ScatterKernel): Dispatch {
  const { size, width, count, index, values, output } = kernel;
  const ranges = Math.max(1, Math.min(size, Math.floor(BUSY_THREADS / width)));
  const rows = Math.ceil(size / ranges);
  const shader = new Shader(output);
  const total = ranges * width;
  const type = valueType(output.dtype);
  const at = `${output.offset}u + row * ${width}u + column`;
  const element = shader.load({ ...output, strides: [] }, "place");
  return shader.finish(kernel.name, Math.ceil(total / THREADS), THREADS, [
    `let i = group * ${THREADS}u + lane;`,
    `if (i >= ${total}u) { return; }`,
    `let column = i % ${width}u;`,
    `let first = i / ${width}u * ${rows}u;`,
    `let last = min(first + ${rows}u, ${size}u);`,
    "for (var row = first; row < last; row++) {",
    `  let place = ${at};`,
    `  ${shader.store("place", type === "f32" ? "0.0f" : "0i", type)}`,
    "}",
    `for (var j = 0u; j < ${count}u; j++) {`,
    `  let target_row = ${shader.load(index, `j + ${index.offset}u`)};`,
    "  let row = u32(target_row);",
    "  if (target_row >= 0 && row >= first && row < last) {",
    `    let place = ${at};`,
    `    let value = ${
      convert(
        shader.load(values, `j * ${width}u + column + ${values.offset}u`),
        valueType(values.dtype),
        type,
      )
    };`,
    `    ${shader.store("place", `${element} + value`, type)}`,
    "  }",
    "}",
  ]);
}
