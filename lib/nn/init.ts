/**
 * A model's parameters as a declared list: every name, shape and initial distribution, derived from
 * the configuration. The list serves twice: to make a model from random numbers, and to check that a
 * checkpoint has what the model needs before it runs.
 *
 * @module
 */
import { randomNormal, randomUniform, stream } from "../tensor/random.ts";
import { type Shape, type Tensor, tensor } from "../tensor/mod.ts";
import type { Weights } from "./weights.ts";

/** An initial distribution: uniform on (-bound, bound), normal with mean 0, or one value. */
export type Init =
  | { readonly kind: "uniform"; readonly bound: number }
  | { readonly kind: "normal"; readonly std: number }
  | { readonly kind: "constant"; readonly value: number };

/** One tensor of a model. `shape` is the in-memory one: [kh, kw, in, out] for convolutions. */
export interface Parameter {
  readonly name: string;
  readonly shape: Shape;
  readonly init: Init;
}

/** A constant initial value. */
export const constant = (value: number): Init => ({ kind: "constant", value });
/** A normal distribution around 0. */
export const normal = (std: number): Init => ({ kind: "normal", std });

/** How a layer starts, where PyTorch's default is not wanted. */
export interface LayerInit {
  /** Default true. */
  readonly bias?: boolean;
  /** Default: uniform with bound 1 / sqrt(fan-in), which is Kaiming's with a = sqrt(5). */
  readonly weightInit?: Init;
  /** Default: uniform with bound 1 / sqrt(fan-in). */
  readonly biasInit?: Init;
}

/** The parameters of a linear layer: `weight` [out, in] and `bias` [out]. */
export function linearParameters(
  name: string,
  inputs: number,
  outputs: number,
  options: LayerInit = {},
): Parameter[] {
  return layerParameters(name, [outputs, inputs], inputs, outputs, options);
}

/** The parameters of a square convolution: `weight` [k, k, in, out] and `bias` [out]. */
export function convParameters(
  name: string,
  inputs: number,
  outputs: number,
  kernel: number,
  options: LayerInit = {},
): Parameter[] {
  const shape = [kernel, kernel, inputs, outputs];
  return layerParameters(name, shape, inputs * kernel * kernel, outputs, options);
}

function layerParameters(
  name: string,
  shape: Shape,
  fanIn: number,
  outputs: number,
  { bias = true, weightInit, biasInit }: LayerInit,
): Parameter[] {
  const fallback: Init = { kind: "uniform", bound: 1 / Math.sqrt(fanIn) };
  const weight = { name: `${name}.weight`, shape, init: weightInit ?? fallback };
  return bias
    ? [weight, { name: `${name}.bias`, shape: [outputs], init: biasInit ?? fallback }]
    : [weight];
}

/** The parameters of a normalisation: `weight` 1 and `bias` 0, both [C]. */
export function normParameters(name: string, channels: number): Parameter[] {
  return [
    { name: `${name}.weight`, shape: [channels], init: constant(1) },
    { name: `${name}.bias`, shape: [channels], init: constant(0) },
  ];
}

/** The parameter of a table: `weight` [count, width]. */
export function embeddingParameters(
  name: string,
  count: number,
  width: number,
  std = 1,
): Parameter[] {
  return [{ name: `${name}.weight`, shape: [count, width], init: normal(std) }];
}

/**
 * Draws every parameter. A tensor's random stream is named after it, so it starts the same in any
 * model that has it under the same seed.
 *
 * @param parameters The model's list.
 * @param seed Philox's key.
 */
export function initialise(parameters: readonly Parameter[], seed: number): Map<string, Tensor> {
  return new Map(parameters.map(({ name, shape, init }) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const key = { seed, stream: stream(name), step: 0 };
    switch (init.kind) {
      case "constant":
        return [name, tensor(new Float32Array(size).fill(init.value), shape)];
      case "normal":
        return [name, tensor(randomNormal(key, shape).map((z) => z * init.std), shape)];
      case "uniform":
        return [
          name,
          tensor(randomUniform(key, shape).map((u) => (2 * u - 1) * init.bound), shape),
        ];
    }
  }));
}

/**
 * Checks that weights have every parameter of a model in its shape. Tensors beyond the list are let
 * be: checkpoints carry buffers such as `position_ids`.
 *
 * @param weights What was loaded.
 * @param parameters The model's list.
 * @throws {Error} Naming the first missing tensor (and how many more), or the first wrong shape, in the file's layout.
 */
export function checkParameters(weights: Weights, parameters: readonly Parameter[]): void {
  const missing = parameters.filter(({ name }) => !weights.has(name));
  if (missing.length > 0) {
    try {
      weights.get(missing[0]!.name);
    } catch (error) {
      const others = missing.length - 1;
      if (others > 0) {
        throw new Error(`${(error as Error).message} (${others} more are missing)`, {
          cause: error,
        });
      }
      throw error;
    }
  }
  for (const { name, shape } of parameters) {
    const found = weights.get(name);
    if (found.shape.length !== shape.length || found.shape.some((d, i) => d !== shape[i])) {
      throw new Error(
        `tensor "${name}" in ${weights.source} has the shape [${fileShape(found.shape)}]; ` +
          `the configuration gives [${fileShape(shape)}]: ` +
          `check that config.json belongs to these weights`,
      );
    }
    if (found.dtype !== "f32" && found.dtype !== "f16") {
      throw new Error(
        `tensor "${name}" in ${weights.source} holds ${found.dtype}; ` +
          `a parameter is F32, F16 or BF16: convert the file`,
      );
    }
  }
}

const fileShape = (shape: Shape): string =>
  (shape.length === 4 ? [shape[3], shape[2], shape[0], shape[1]] : shape).join(", ");
