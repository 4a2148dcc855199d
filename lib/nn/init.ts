/**
 * A model's parameters as a declared list: every name, shape and initial distribution, derived from
 * the configuration. The list serves twice: to make a model from random numbers, and to check that a
 * checkpoint has what the model needs before it runs.
 *
 * @module
 */
import { randomNormal, randomUniform, stream } from "../tensor/random.ts";
import { type Shape, type Tensor, tensor } from "../tensor/mod.ts";
import { absent, type StoredWeights, type Weights } from "./weights.ts";

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
 * Checks that weights, loaded or still in their files, have every parameter of a model in its shape.
 * Tensors beyond the list are let be: see {@linkcode selectParameters}.
 *
 * @param weights What was loaded or found.
 * @param parameters The model's list.
 * @throws {Error} Naming the first missing tensor (and how many more), or the first wrong shape, in the file's layout.
 */
export function checkParameters(
  weights: Weights | StoredWeights,
  parameters: readonly Parameter[],
): void {
  const { source, tensors } = weights;
  const [missing, ...others] = parameters.filter(({ name }) => !tensors.has(name));
  if (missing) {
    throw new Error(
      absent(missing.name, source, tensors.keys()) +
        (others.length > 0 ? ` (${others.length} more are missing)` : "") +
        `: check that config.json belongs to these weights`,
    );
  }
  for (const { name, shape } of parameters) {
    const found = tensors.get(name)!;
    const stored = "file" in found;
    const inFile = stored ? found.shape : fileShape(found.shape);
    const expected = fileShape(shape);
    if (inFile.length !== expected.length || inFile.some((d, i) => d !== expected[i])) {
      throw new Error(
        `tensor "${stored ? found.name : name}" in ${source} has the shape [${
          inFile.join(", ")
        }]; ` +
          `the configuration gives [${expected.join(", ")}]: ` +
          `check that the configuration belongs to these weights`,
      );
    }
    if (!PARAMETER_TYPES.includes(found.dtype)) {
      throw new Error(
        `tensor "${stored ? found.name : name}" in ${source} holds ${found.dtype}; ` +
          `a parameter is F32, F16 or BF16: convert the file`,
      );
    }
  }
}

/** In files and in memory. */
const PARAMETER_TYPES: readonly string[] = ["F64", "F32", "F16", "BF16", "f32", "f16"];

/** The file's layout of an in-memory shape. */
export const fileShape = (shape: Shape): Shape =>
  shape.length === 4 ? [shape[3]!, shape[2]!, shape[0]!, shape[1]!] : shape;

/**
 * Of what a file holds, the tensors of a model, checked against its list. The order stays the file's.
 *
 * @param stored What was found.
 * @param parameters The model's list.
 * @param ignored Names that files carry and no model needs.
 * @throws {Error} As {@linkcode checkParameters}, and for a tensor that is neither of the model nor
 * ignored: it would be of a model that computes something else.
 */
export function selectParameters(
  stored: StoredWeights,
  parameters: readonly Parameter[],
  ignored: RegExp,
): StoredWeights {
  checkParameters(stored, parameters);
  const wanted = new Set(parameters.map(({ name }) => name));
  const unknown = [...stored.tensors].filter(([name]) => !wanted.has(name) && !ignored.test(name));
  if (unknown.length > 0) {
    throw new Error(
      `tensor "${unknown[0]![1].name}" in ${stored.source} is not one of this model's` +
        (unknown.length > 1 ? ` (nor are ${unknown.length - 1} more)` : "") +
        `: check that config.json belongs to these weights`,
    );
  }
  const tensors = [...stored.tensors].filter(([name]) => wanted.has(name));
  return { ...stored, tensors: new Map(tensors) };
}
