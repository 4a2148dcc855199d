/**
 * Convolutions as matrix products whose left operand is gathered on the fly (implicit GEMM): the
 * matrix of patches is never stored.
 *
 * | variant   | rows       | columns | contracted   |
 * | --------- | ---------- | ------- | ------------ |
 * | `forward` | n, oh, ow  | co      | kh, kw, ci   |
 * | `input`   | n, h, w    | ci      | kh, kw, co   |
 * | `weight`  | kh, kw, ci | co      | n, oh, ow    |
 *
 * With channels innermost, neighbouring rows or neighbouring contracted indices are neighbours in
 * memory in every case.
 *
 * @module
 */
import type { Access, ConvKernel, ConvShape } from "../kernel.ts";
import { type Gemm, gemmDispatches, matrix, type Operand } from "./gemm.ts";
import type { Scratch } from "./reduce.ts";
import { block, type Dispatch, type Shader } from "./shader.ts";

/** Generates a convolution or one of its gradients. */
export function convDispatches(kernel: ConvKernel, scratch: Scratch): Dispatch[] {
  const { conv: s, a, b, output, epilogue } = kernel;
  const window = s.kernelHeight * s.kernelWidth;
  const pointwise = window === 1 && s.stride === 1 && s.padTop === 0 && s.padLeft === 0 &&
    s.outHeight === s.height && s.outWidth === s.width;
  const pixels = s.batch * s.height * s.width;
  const outPixels = s.batch * s.outHeight * s.outWidth;
  const common = {
    name: kernel.name,
    batch: [],
    aBatch: [],
    bBatch: [],
    output,
    ...(epilogue === undefined ? {} : { epilogue }),
  };
  const gemm = ((): Gemm => {
    switch (kernel.variant) {
      case "forward":
        return {
          ...common,
          rows: outPixels,
          columns: s.outChannels,
          k: window * s.inChannels,
          a: pointwise ? matrix(a, "a_batch", s.inChannels, 1) : patches(a, s),
          b: matrix(b, "b_batch", 1, s.outChannels),
          shape: [s.batch, s.outHeight, s.outWidth, s.outChannels],
        };
      case "input":
        return {
          ...common,
          rows: pixels,
          columns: s.inChannels,
          k: window * s.outChannels,
          a: pointwise ? matrix(a, "a_batch", s.outChannels, 1) : contributions(a, s),
          b: transposedWeights(b, s),
          shape: [s.batch, s.height, s.width, s.inChannels],
        };
      case "weight":
        return {
          ...common,
          rows: window * s.inChannels,
          columns: s.outChannels,
          k: outPixels,
          a: pointwise ? matrix(a, "a_batch", 1, s.inChannels) : transposed(patches(a, s)),
          b: matrix(b, "b_batch", 1, s.outChannels),
          shape: [s.kernelHeight, s.kernelWidth, s.inChannels, s.outChannels],
        };
    }
  })();
  return gemmDispatches(gemm, scratch);
}

/** Declares kh, kw and the channel of an index over [kernelHeight, kernelWidth, channels]. */
function windowIndex(index: string, s: ConvShape, channels: number, tag: string): string[] {
  return [
    `let channel_${tag} = i32(${index} % ${channels}u);`,
    `let kw_${tag} = i32(${index} / ${channels}u % ${s.kernelWidth}u);`,
    `let kh_${tag} = i32(${index} / ${channels * s.kernelWidth}u);`,
  ];
}

/** Declares image, y and x of an index over [batch, height, width]. */
function pixelIndex(index: string, height: number, width: number, tag: string): string[] {
  return [
    `let x_${tag} = i32(${index} % ${width}u);`,
    `let y_${tag} = i32(${index} / ${width}u % ${height}u);`,
    `let n_${tag} = i32(${index} / ${width * height}u);`,
  ];
}

/**
 * The images' patches: rows are output pixels, k is (kh, kw, ci); zero where the window sticks out.
 * An address is the sum of a part that belongs to the row and a part that belongs to k.
 */
function patches(image: Access, s: ConvShape): Operand {
  return {
    contiguous: "k",
    row: (row, tag) => [
      ...pixelIndex(row, s.outHeight, s.outWidth, tag),
      `let top_${tag} = y_${tag} * ${s.stride} - ${s.padTop};`,
      `let left_${tag} = x_${tag} * ${s.stride} - ${s.padLeft};`,
      `let at_${tag} = ((n_${tag} * ${s.height} + top_${tag}) * ${s.width} + left_${tag}) * ` +
      `${s.inChannels};`,
    ],
    column: (k, tag) => [
      ...windowIndex(k, s, s.inChannels, tag),
      `let step_${tag} = (kh_${tag} * ${s.width} + kw_${tag}) * ${s.inChannels} + channel_${tag};`,
    ],
    element: (_, row, k) =>
      `pixel_at(top_${row} + kh_${k}, left_${row} + kw_${k}, at_${row} + step_${k})`,
    functions: (shader) => pixelFunction(shader, image, s.height, s.width),
  };
}

/** Exchanges rows and k. */
function transposed(operand: Operand): Operand {
  return {
    ...operand,
    contiguous: operand.contiguous === "k" ? "row" : "k",
    row: operand.column,
    column: operand.row,
    element: (shader, row, column) => operand.element(shader, column, row),
  };
}

/**
 * The output's gradient as input pixels see it: rows are input pixels, k is (kh, kw, co); zero where
 * no output pixel lies under that place of the window.
 */
function contributions(gradient: Access, s: ConvShape): Operand {
  const address = (image: string, y: string, x: string) =>
    `((${image} * ${s.outHeight} + ${y}) * ${s.outWidth} + ${x}) * ${s.outChannels}`;
  const common = {
    contiguous: "k",
    row: (row: string, tag: string) => [
      ...pixelIndex(row, s.height, s.width, tag),
      `let bottom_${tag} = y_${tag} + ${s.padTop};`,
      `let right_${tag} = x_${tag} + ${s.padLeft};`,
      `let at_${tag} = ${address(`n_${tag}`, `bottom_${tag}`, `right_${tag}`)};`,
    ],
    column: (k: string, tag: string) => [
      ...windowIndex(k, s, s.outChannels, tag),
      `let step_${tag} = channel_${tag} - (kh_${tag} * ${s.outWidth} + kw_${tag}) * ` +
      `${s.outChannels};`,
    ],
  } as const;
  const pixels = (shader: Shader) => pixelFunction(shader, gradient, s.outHeight, s.outWidth);
  if (s.stride === 1) {
    return {
      ...common,
      element: (_, row, k) =>
        `pixel_at(bottom_${row} - kh_${k}, right_${row} - kw_${k}, at_${row} + step_${k})`,
      functions: pixels,
    };
  }
  return {
    ...common,
    element: (_, row, k) =>
      `strided_at(n_${row}, bottom_${row} - kh_${k}, right_${row} - kw_${k}, channel_${k})`,
    functions: (shader) =>
      `${pixels(shader)}fn strided_at(n: i32, y: i32, x: i32, channel: i32) -> f32 {
  if (y < 0 || x < 0 || y % ${s.stride} != 0 || x % ${s.stride} != 0) { return 0.0f; }
  return pixel_at(y / ${s.stride}, x / ${s.stride}, ${
        address("n", `y / ${s.stride}`, `x / ${s.stride}`)
      } + channel);
}
`,
  };
}

/** Weights seen from the output: rows are ci, k is (kh, kw, co). */
function transposedWeights(weights: Access, s: ConvShape): Operand {
  const area = s.inChannels * s.outChannels;
  return {
    contiguous: "k",
    row: (row, tag) => [`let at_${tag} = ${weights.offset}u + ${row} * ${s.outChannels}u;`],
    column: (k, tag) => [
      `let step_${tag} = ${k} / ${s.outChannels}u * ${area}u + ${k} % ${s.outChannels}u;`,
    ],
    element: (shader, row, column) => shader.load(weights, `at_${row} + step_${column}`),
  };
}

/** `pixel_at(y, x, i)`: element `i`, or zero where y or x lies outside the image. */
function pixelFunction(shader: Shader, image: Access, height: number, width: number): string {
  return `fn pixel_at(y: i32, x: i32, i: i32) -> f32 {
${
    block([
      `if (u32(y) >= ${height}u || u32(x) >= ${width}u) { return 0.0f; }`,
      `let at = u32(i) + ${image.offset}u;`,
      `return ${shader.load(image, "at")};`,
    ])
  }}
`;
}
