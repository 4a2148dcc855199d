/**
 * Low-rank adapters (Hu et al. 2021): which layers of a model get one, how it starts, and the file
 * `pytorch_lora_weights.safetensors` that diffusers, ComfyUI and A1111 read.
 *
 * diffusers writes `.lora.down.weight` / `.lora.up.weight` for adapters of attention layers only, and
 * peft's `.lora_A.weight` / `.lora_B.weight` for all others; it cannot load a file that mixes them.
 *
 * @module
 */
import { randomNormal, type Shape, stream, type Tensor, tensor } from "../tensor/mod.ts";
import { openSafetensors, type SafetensorsTensor, writeSafetensors } from "./safetensors.ts";
import type { LoraAdapter, Weights } from "./weights.ts";
import { decodeF16 } from "../tensor/f16.ts";

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
function layerShapes(weight: Shape, rank: number): { down: Shape; up: Shape } | undefined {
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

/** The metadata key under which diffusers keeps an adapter's alpha and rank. */
const METADATA = "lora_adapter_metadata";

/**
 * Saves a U-Net's adapter as diffusers does, atomically.
 *
 * @param path Usually `<folder>/pytorch_lora_weights.safetensors`: diffusers looks for this name.
 */
export async function saveLora(path: string, lora: LoraAdapter): Promise<void> {
  const paths = [...lora.layers.keys()];
  const attention = paths.every((p) => ATTENTION.some((end) => p.endsWith(`.${end}`)));
  const [downName, upName] = attention ? ["lora.down", "lora.up"] : ["lora_A", "lora_B"];
  const entries = new Map<string, SafetensorsTensor>();
  for (const [module, { down, up }] of lora.layers) {
    for (const [name, half] of [[downName, down], [upName, up]] as const) {
      const shape = half.rank === 4 ? [3, 2, 0, 1].map((axis) => half.shape[axis]!) : half.shape;
      entries.set(`unet.${module}.${name}.weight`, {
        dtype: "F32",
        shape,
        data: async () => {
          const data = await half.data() as Float32Array;
          return half.rank === 4 ? swap(data, half.shape, [3, 2, 0, 1]) : data;
        },
      });
    }
  }
  const metadata: Record<string, string> = { format: "pt" };
  if (lora.scale !== 1) {
    const rank = loraRank(lora);
    metadata[METADATA] = JSON.stringify({
      "unet.r": rank,
      "unet.lora_alpha": lora.scale * rank,
      "unet.target_modules": attention ? ATTENTION : paths,
    });
  }
  await writeSafetensors(path, entries, metadata);
}

function loraRank(lora: LoraAdapter): number {
  const { down } = lora.layers.values().next().value!;
  return down.rank === 2 ? down.shape[0]! : down.shape[3]!;
}

/**
 * Loads a U-Net's adapter from a file with diffusers' or peft's names.
 *
 * @param path The file.
 * @param base The weights it will lie over, to be checked against.
 * @throws {Error} With the file and the tensor: for a name that is neither, for a missing half, for a
 * layer that the base does not have, and for shapes that do not fit.
 */
export async function loadLora(path: string, base?: Weights): Promise<LoraAdapter> {
  const file = await openSafetensors(path);
  const halves = new Map<string, { down?: Tensor; up?: Tensor }>();
  for (const [name, { shape, dtype }] of file.entries) {
    const match = /^unet\.(.+)\.(lora\.down|lora\.up|lora_A|lora_B)\.weight$/.exec(name);
    if (!match) {
      throw new Error(
        `${path}: tensor "${name}" is not of a U-Net's LoRA: expected ` +
          `unet.<module>.lora.down.weight and .lora.up.weight, or .lora_A.weight and .lora_B.weight`,
      );
    }
    if (dtype !== "F32" && dtype !== "F16") {
      throw new Error(
        `${path}: tensor "${name}" is ${dtype}; expected F32 or F16: save it again as one of them`,
      );
    }
    const raw = await file.read(name);
    const wide = dtype === "F16" ? decodeF16(raw as Uint16Array) : raw as Float32Array;
    const half = shape.length === 4
      ? tensor(swap(wide, shape, [2, 3, 1, 0]), [2, 3, 1, 0].map((axis) => shape[axis]!))
      : tensor(wide, shape);
    const layer = halves.get(match[1]!) ?? {};
    halves.set(match[1]!, layer);
    layer[match[2] === "lora.down" || match[2] === "lora_A" ? "down" : "up"] = half;
  }
  if (halves.size === 0) throw new Error(`${path} has no tensors: it holds no LoRA`);

  const layers = new Map<string, { down: Tensor; up: Tensor }>();
  for (const [module, { down, up }] of halves) {
    if (!down || !up) {
      throw new Error(
        `${path}: layer "${module}" has only its ${
          down ? "down" : "up"
        } half: the file is incomplete`,
      );
    }
    checkLayer(path, module, down.shape, up.shape, base);
    layers.set(module, { down, up });
  }
  const lora = { scale: 1, layers };
  return { ...lora, scale: fileScale(path, file.metadata, loraRank(lora)) };
}

function checkLayer(path: string, module: string, down: Shape, up: Shape, base?: Weights): void {
  const rank = down.length === 4 ? down[3]! : down[0]!;
  const upRank = up.length === 4 ? up[2] : up[1];
  if (down.length !== up.length || rank !== upRank) {
    throw new Error(
      `${path}: the halves of layer "${module}" do not fit each other: ` +
        `down [${down}] has rank ${rank}, up [${up}] has rank ${upRank}`,
    );
  }
  if (!base) return;
  if (!base.has(`${module}.weight`)) {
    throw new Error(
      `${path} adapts layer "${module}", which ${base.source} does not have: ` +
        `the LoRA was trained on another model`,
    );
  }
  const weight = base.get(`${module}.weight`).shape;
  const expected = layerShapes(weight, rank);
  if (`${expected?.down}` !== `${down}` || `${expected?.up}` !== `${up}`) {
    throw new Error(
      `${path}: layer "${module}" has down [${down}] and up [${up}], but the base weight [${weight}] ` +
        `needs [${expected?.down}] and [${expected?.up}]: the LoRA was trained on another model`,
    );
  }
}

/** alpha / rank as diffusers keeps it in the metadata; 1 where it says nothing. */
function fileScale(path: string, metadata: Readonly<Record<string, string>>, rank: number): number {
  if (metadata[METADATA] === undefined) return 1;
  let values: Record<string, unknown>;
  try {
    values = JSON.parse(metadata[METADATA]);
  } catch (cause) {
    throw new Error(`${path}: the metadata "${METADATA}" is not JSON`, { cause });
  }
  for (const key of ["unet.alpha_pattern", "unet.rank_pattern"]) {
    if (Object.keys(values[key] ?? {}).length > 0) {
      throw new Error(
        `${path}: "${key}" gives layers ranks or scales of their own, which is not supported: ` +
          `save the LoRA with one rank and one alpha`,
      );
    }
  }
  const alpha = values["unet.lora_alpha"] ?? rank;
  const fileRank = values["unet.r"] ?? rank;
  if (typeof alpha !== "number" || fileRank !== rank) {
    throw new Error(
      `${path}: "${METADATA}" gives alpha ${alpha} and rank ${fileRank}, but the tensors have rank ${rank}`,
    );
  }
  return values["unet.use_rslora"] === true ? alpha / Math.sqrt(rank) : alpha / rank;
}

/** The elements of a rank-4 array with its axes in another order. */
function swap(data: Float32Array, shape: Shape, axes: readonly number[]): Float32Array {
  const strides = [shape[1]! * shape[2]! * shape[3]!, shape[2]! * shape[3]!, shape[3], 1];
  const [n0, n1, n2, n3] = axes.map((axis) => shape[axis]) as [number, number, number, number];
  const [s0, s1, s2, s3] = axes.map((axis) => strides[axis]) as [number, number, number, number];
  const out = new Float32Array(data.length);
  let at = 0;
  for (let a = 0; a < n0; a++) {
    for (let b = 0; b < n1; b++) {
      for (let c = 0; c < n2; c++) {
        for (let d = 0; d < n3; d++) out[at++] = data[a * s0 + b * s1 + c * s2 + d * s3]!;
      }
    }
  }
  return out;
}
