/**
 * Low-rank adapters (Hu et al. 2021): which layers of a model get one, and how it starts.
 *
 * @module
 */
import { randomNormal, type Shape, stream, type Tensor, tensor } from "../tensor/mod.ts";
import type { LoraAdapter, Weights } from "./weights.ts";

const ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"] as const;

/** Named choices of layers, as the ends of their module paths. */
export const loraTargets = {
  /** The four maps of every self- and cross-attention. */
  attention: ATTENTION,
  /** Those, the feed-forward and projection layers of the transformers and the ResNets' convolutions. */
  all: [...ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"],
} as const satisfies Record<string, readonly string[]>;

/** A named choice of layers, or the ends of module paths. */
export type LoraTargets = keyof typeof loraTargets | readonly string[];

/** The shapes of each adapted layer's two halves, by module path. */
export type LoraShapes = ReadonlyMap<string, { readonly down: Shape; readonly up: Shape }>;

/**
 * The layers of a model that an adapter covers.
 *
 * @param base The model's weights.
 * @param rank At least 1.
 * @throws {RangeError} If the rank is no positive integer.
 * @throws {Error} If a target names no linear or convolution layer of the model.
 */
export function loraShapes(base: Weights, rank: number, targets: LoraTargets): LoraShapes {
  if (!Number.isInteger(rank) || rank < 1) {
    throw new RangeError(`the rank of a LoRA must be a positive integer, not ${rank}`);
  }
  const ends = typeof targets === "string" ? loraTargets[targets] : targets;
  const unused = new Set<string>(ends);
  const shapes = new Map<string, { down: Shape; up: Shape }>();
  for (const name of base.names()) {
    if (!name.endsWith(".weight")) continue;
    const path = name.slice(0, -".weight".length);
    const end = ends.find((e) => path === e || path.endsWith(`.${e}`));
    if (end === undefined) continue;
    const layer = layerShapes(base.get(name).shape, rank);
    if (!layer) continue;
    shapes.set(path, layer);
    unused.delete(end);
  }
  if (unused.size > 0) {
    const missing = [...unused].map((e) => `"${e}"`).join(", ");
    throw new Error(
      `LoRA targets ${missing} name no linear or convolution layer of ${base.source}: ` +
        `give the ends of module paths, such as ${ATTENTION.map((e) => `"${e}"`).join(", ")}`,
    );
  }
  return shapes;
}

/** The two halves for a base weight in the in-memory layout; none for norms and embeddings. */
export function layerShapes(
  weight: Shape,
  rank: number,
): { down: Shape; up: Shape } | undefined {
  if (weight.length === 2) return { down: [rank, weight[1]!], up: [weight[0]!, rank] };
  if (weight.length !== 4) return undefined;
  const [kh, kw, inputs, outputs] = weight as [number, number, number, number];
  return { down: [kh, kw, inputs, rank], up: [1, 1, rank, outputs] };
}

/**
 * Starting values: normal numbers below (standard deviation 1 / rank for linear layers as peft's
 * `gaussian`, 1 / sqrt(fan-in) for convolutions) and zeros above, so that the adapted model starts
 * as the base model.
 *
 * @returns Arrays named `<module path>.down` and `<module path>.up`.
 */
export function initLora(shapes: LoraShapes, seed: number): Map<string, Float32Array> {
  const arrays = new Map<string, Float32Array>();
  for (const [path, { down, up }] of shapes) {
    const std = down.length === 2 ? 1 / down[0]! : 1 / Math.sqrt(down[0]! * down[1]! * down[2]!);
    const values = randomNormal({ seed, stream: stream(`lora.${path}`), step: 0 }, down);
    arrays.set(`${path}.down`, values.map((x) => x * std));
    arrays.set(`${path}.up`, new Float32Array(up.reduce((a, b) => a * b, 1)));
  }
  return arrays;
}

/** Name and shape of every tensor of an adapter: `<module path>.down`, `<module path>.up`. */
export function loraParameters(shapes: LoraShapes): [string, Shape][] {
  return [...shapes].flatMap(([path, { down, up }]): [string, Shape][] => [
    [`${path}.down`, down],
    [`${path}.up`, up],
  ]);
}

/**
 * An adapter of tensors named as in {@linkcode loraParameters}.
 *
 * @param scale What the low-rank update is multiplied by: alpha / rank.
 */
export function loraOf(tensors: ReadonlyMap<string, Tensor>, scale = 1): LoraAdapter {
  const layers = new Map<string, { down: Tensor; up: Tensor }>();
  for (const [name, down] of tensors) {
    if (!name.endsWith(".down")) continue;
    const path = name.slice(0, -".down".length);
    layers.set(path, { down, up: tensors.get(`${path}.up`)! });
  }
  return { scale, layers };
}

/** What to adapt, and the seed of the starting values. */
export interface LoraOptions {
  readonly rank: number;
  /** Default `all`. */
  readonly targets?: LoraTargets;
  /** Default 0. */
  readonly seed?: number;
}

/**
 * A fresh adapter, under which the model computes what it did before.
 *
 * @param base The model's weights.
 */
export function createLora(base: Weights, options: LoraOptions): LoraAdapter {
  const shapes = loraShapes(base, options.rank, options.targets ?? "all");
  const arrays = initLora(shapes, options.seed ?? 0);
  return loraOf(
    new Map(
      loraParameters(shapes).map(([name, shape]) => [
        name,
        tensor(arrays.get(name)!, shape),
      ]),
    ),
  );
}
