/**
 * The tensor engine: lazy tensors, reverse-mode differentiation, a fusing scheduler, compiled steps,
 * and two devices (WebAssembly SIMD and WebGPU).
 *
 * @module
 */
export type { Backend } from "./backend.ts";
export { byteSize } from "./byte_size.ts";
export { type DeviceName, getDevice, openDevice, setDevice } from "./device.ts";
export { decodeF16, encodeF16 } from "./f16.ts";
export { grad } from "./grad.ts";
export { jit, type Jitted, leavesOf, mapTree, type Memory, type Plan, type Tree } from "./jit.ts";
export type { DType } from "./kernel.ts";
export {
  generator,
  randomIntegers,
  type RandomKey,
  randomNormal,
  randomUniform,
  stream,
} from "./random.ts";
export { realize, setDebug } from "./realize.ts";
export type { Shape } from "./shape.ts";
export {
  type Axes,
  byteLength,
  checkpoint,
  concat,
  conv2d,
  full,
  gather,
  type HostData,
  ones,
  type Operand,
  type Padding,
  scatterAdd,
  stopGradient,
  take,
  Tensor,
  tensor,
  where,
  zeros,
} from "./tensor.ts";
export { attention } from "./attention.ts";
