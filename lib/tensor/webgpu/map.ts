/**
 * Maps: a thread per element, or per 32-bit word where the output packs several elements in one.
 *
 * @module
 */
import { BYTES, type MapKernel } from "../kernel.ts";
import { emit } from "./expression.ts";
import { block, type Dispatch, Shader, THREADS } from "./shader.ts";
import { sizeOf, stridesOf, Walk } from "./walk.ts";

/**
 * Generates a map.
 *
 * @param outputBytes Bytes of the output's slot: a last, half-filled word may be overwritten only
 * where it is padding.
 */
export function mapDispatch(kernel: MapKernel, outputBytes: number): Dispatch {
  const { output, inputs } = kernel;
  const size = sizeOf(kernel.shape);
  const walk = new Walk(kernel.shape, stridesOf([output, ...inputs]));
  const perWord = 4 / BYTES[output.dtype];
  const end = (output.offset + size) * BYTES[output.dtype];
  const words = perWord > 1 && walk.contiguous(0) && output.offset % perWord === 0 &&
    (size % perWord === 0 || end + 3 >= outputBytes);
  const shader = new Shader(output, perWord === 1 ? "element" : words ? "word" : "bits");

  const { type } = kernel.expr;
  const { lines, result } = emit(kernel.expr, {
    load: (input) =>
      shader.load(inputs[input]!, walk.address(input + 1, "c", inputs[input]!.offset)),
    take: (input, index) =>
      shader.load(inputs[input]!, `u32(${inputs[input]!.offset}i + ${index})`),
  });
  const value = `fn value(i: u32) -> ${type} {
${block([...walk.coordinates("i", "c"), ...lines, `return ${result};`])}}
`;
  if (words) {
    const count = Math.ceil(size / perWord);
    const values = Array.from({ length: perWord }, (_, j) => `value(i * ${perWord}u + ${j}u)`);
    const index = output.offset === 0 ? "i" : `i + ${output.offset / perWord}u`;
    return shader.finish(kernel.name, Math.ceil(count / THREADS), THREADS, [
      `let i = group * ${THREADS}u + lane;`,
      `if (i >= ${count}u) { return; }`,
      shader.storeWord(index, values, type),
    ], value);
  }
  return shader.finish(kernel.name, Math.ceil(size / THREADS), THREADS, [
    `let i = group * ${THREADS}u + lane;`,
    `if (i >= ${size}u) { return; }`,
    ...walk.coordinates("i", "c"),
    shader.store(walk.address(0, "c", output.offset), "value(i)", type),
  ], value);
}
