/**
 * LoRA files: loads what diffusers, peft and kohya's scripts write, and saves in each of their layouts.
 *
 * Which program reads what: diffusers reads its own layout and kohya's, peft its own. ComfyUI and
 * A1111's web UI read kohya's; of diffusers' layout ComfyUI finds no attention layers and A1111
 * nothing. (comfy/lora.py, `model_lora_keys_unet`; extensions-builtin/Lora/networks.py,
 * `convert_diffusers_name_to_compvis`.)
 *
 * An adapter adds `scale up down` to a weight, with `scale = alpha / rank`. Where alpha and rank are
 * kept differs: kohya has an alpha for every layer, peft a configuration beside the file, diffusers
 * that configuration in the file's metadata, and none of it where alpha equals the rank.
 *
 * @module
 */
import { realize, type Tensor, tensor } from "../tensor/mod.ts";
import { layerShapes, loraTargets } from "./lora.ts";
import { loraLayers, type LoraTensorName, parseLoraName } from "./lora_names.ts";
import {
  openSafetensors,
  type SafetensorsEntry,
  type SafetensorsFile,
  writeAtomically,
} from "./safetensors.ts";
import { loadWeights, type LoraAdapter, saveWeights, type Weights } from "./weights.ts";

/** The layouts that can be written. */
export const loraFormats = ["diffusers", "peft", "kohya"] as const;
/** A layout of LoRA files. */
export type LoraFormat = typeof loraFormats[number];

/** Where diffusers keeps a configuration in a file's metadata. */
const METADATA = "lora_adapter_metadata";
/** Where peft keeps it: beside the file. */
const PEFT_CONFIG = "adapter_config.json";

/** The numbers of a LoRA by module path. */
interface LayerScale {
  readonly rank: number;
  readonly alpha: number;
}

/**
 * Saves a U-Net's adapter, atomically.
 *
 * diffusers' layout has `.lora.down.weight` for adapters of attention layers only, and
 * `.lora_A.weight` for all others, since diffusers cannot load a file that mixes them.
 *
 * @param path The file. diffusers looks for `pytorch_lora_weights.safetensors` in a folder, peft for
 * `adapter_model.safetensors`; peft's layout has `adapter_config.json` beside it, which is written too.
 * @example
 * ```ts ignore
 * await saveLora("lora/for_comfyui.safetensors", await loadLora(path, unet.weights), {
 *   format: "kohya",
 * });
 * ```
 */
export async function saveLora(
  path: string,
  lora: LoraAdapter,
  { format = "diffusers" }: { readonly format?: LoraFormat } = {},
): Promise<void> {
  const paths = [...lora.layers.keys()];
  const attention = paths.every((p) => loraTargets.attention.some((end) => p.endsWith(`.${end}`)));
  const name = {
    diffusers: (layer: string, half: string) =>
      `unet.${layer}.${attention ? `lora.${half}` : half === "down" ? "lora_A" : "lora_B"}.weight`,
    peft: (layer: string, half: string) =>
      `base_model.model.${layer}.${half === "down" ? "lora_A" : "lora_B"}.weight`,
    kohya: (layer: string, half: string) => `${kohyaStem(layer)}.lora_${half}.weight`,
  }[format];
  const scales = new Map<string, LayerScale>();
  const tensors = new Map<string, Tensor>();
  for (const [layer, { down, up }] of lora.layers) {
    const rank = down.rank === 2 ? down.shape[0]! : down.shape[3]!;
    const alpha = lora.scale * rank;
    scales.set(layer, { rank, alpha });
    tensors.set(name(layer, "down"), down);
    tensors.set(name(layer, "up"), up);
    if (format === "kohya") tensors.set(`${kohyaStem(layer)}.alpha`, tensor([alpha], []));
  }
  const ranks = new Set(scales.values().map(({ rank }) => rank));
  const metadata: Record<string, string> = {};
  if (format === "diffusers" && (lora.scale !== 1 || ranks.size > 1)) {
    const config = Object.entries(configuration(scales));
    metadata[METADATA] = JSON.stringify(
      Object.fromEntries(config.map(([key, value]) => [`unet.${key}`, value])),
    );
  }
  await saveWeights(path, tensors, { metadata });
  if (format === "peft") {
    const json = JSON.stringify({ peft_type: "LORA", ...configuration(scales) }, null, 2);
    const bytes = new TextEncoder().encode(json + "\n");
    await writeAtomically(besides(path), bytes.length, (write) => write(bytes));
  }
}

const kohyaStem = (layer: string) => `lora_unet_${layer.replaceAll(".", "_")}`;

const besides = (path: string) =>
  path.slice(0, Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1) + PEFT_CONFIG;

/** peft's `LoraConfig`: the first layer's rank and alpha, and those of layers that differ. */
function configuration(scales: ReadonlyMap<string, LayerScale>) {
  const [{ rank: r, alpha }] = scales.values() as unknown as [LayerScale];
  const other = [...scales].filter(([, { rank }]) => rank !== r);
  return {
    r,
    lora_alpha: alpha,
    target_modules: [...scales.keys()],
    rank_pattern: Object.fromEntries(other.map(([layer, { rank }]) => [`^${layer}`, rank])),
    alpha_pattern: Object.fromEntries(other.map(([layer, { alpha }]) => [`^${layer}`, alpha])),
  };
}

/** An adapter from a file. */
export interface LoadedLora extends LoraAdapter {
  /** How many layers of the text encoders the file adapts as well; they are not in the adapter. */
  readonly textEncoderLayers: number;
}

/** The tensors of one layer in the file. */
type StoredLayer = {
  [role in LoraTensorName["role"]]?: { name: string; shape: readonly number[] };
};

/**
 * Loads a U-Net's adapter in any of the layouts of `lora_names.ts`. Numbers become f32. Layers that
 * have different scales get theirs multiplied into `up`.
 *
 * @param path The file.
 * @param base The U-Net's weights that it will lie over.
 * @throws {Error} With the file and the tensor: for a name that no LoRA has, for an adapter of another
 * kind (DoRA, LoHa, LoKr, ...), for a missing half or alpha, for a layer that the base does not have,
 * for shapes that do not fit it, and where there are layers of text encoders only.
 */
export async function loadLora(path: string, base: Weights): Promise<LoadedLora> {
  const file = await openSafetensors(path);
  const { layers, textEncoderLayers, peft } = storedLayers(path, file, base);
  if (layers.size === 0) {
    throw new Error(
      textEncoderLayers > 0
        ? `${path} adapts the text encoders only (${textEncoderLayers} layers), not the U-Net`
        : `${path} has no tensors: it holds no LoRA`,
    );
  }
  const ranks = new Map([...layers].map(([module, s]) => [module, rankOf(path, module, s, base)]));
  const configured = await readConfiguration(path, file, peft);

  const names = new Map(
    [...layers].flatMap(([module, stored]) =>
      Object.entries(stored).map(([role, { name }]) => [name, `${module}.${role}`])
    ),
  );
  const { tensors } = await loadWeights(path, { dtype: "f32", rename: (name) => names.get(name) });
  const scales = new Map<string, number>();
  for (const [module, rank] of ranks) {
    const alpha = tensors.get(`${module}.alpha`);
    if (!alpha) {
      scales.set(module, configured ? configured(module, rank) : 1);
      continue;
    }
    const [value] = await alpha.data();
    alpha.dispose();
    if (!Number.isFinite(value)) {
      throw new Error(`${path}: the alpha of layer "${module}" is ${value}; expected a number`);
    }
    scales.set(module, value! / rank);
  }
  const [first] = scales.values();
  const uniform = scales.values().every((scale) => scale === first);
  const loaded = new Map<string, { down: Tensor; up: Tensor }>();
  for (const [module, scale] of scales) {
    const down = tensors.get(`${module}.down`)!;
    let up = tensors.get(`${module}.up`)!;
    if (!uniform) {
      const scaled = up.mul(scale);
      await realize(scaled);
      up.dispose();
      up = scaled;
    }
    loaded.set(module, { down, up });
  }
  return { scale: uniform ? first! : 1, layers: loaded, textEncoderLayers };
}

/** Sorts a file's tensors by the layers of the base. */
function storedLayers(path: string, file: SafetensorsFile, base: Weights) {
  const moduleOf = loraLayers(base.names());
  const layers = new Map<string, StoredLayer>();
  const textEncoder = new Set<string>();
  let peft = false;
  for (const [name, { shape, dtype }] of file.entries) {
    const parsed = parseLoraName(name, path);
    if (parsed.of === "text encoder") {
      textEncoder.add(parsed.layer);
      continue;
    }
    const module = moduleOf(parsed.layer);
    if (module === undefined) {
      throw new Error(
        `${path} adapts layer "${parsed.layer}", which ${base.source} does not have: ` +
          `the LoRA was trained on another model`,
      );
    }
    if (parsed.role !== "alpha") checkFloat(path, name, dtype);
    peft ||= parsed.peft;
    const layer = layers.get(module) ?? {};
    layers.set(module, layer);
    const other = layer[parsed.role];
    if (other) {
      throw new Error(
        `${path}: tensors "${other.name}" and "${name}" are of one layer, "${module}": ` +
          `the file holds two LoRAs`,
      );
    }
    layer[parsed.role] = { name, shape };
  }
  return { layers, textEncoderLayers: textEncoder.size, peft };
}

function checkFloat(path: string, name: string, dtype: SafetensorsEntry["dtype"]): void {
  if (["F32", "F16", "BF16", "F64"].includes(dtype)) return;
  throw new Error(
    `${path}: tensor "${name}" is ${dtype}; expected F32, F16 or BF16: save it again as one of them`,
  );
}

/** The rank of a layer whose two halves fit each other and the base. */
function rankOf(path: string, module: string, { down, up, alpha }: StoredLayer, base: Weights) {
  if (!down || !up) {
    const there = down ?? up ?? alpha!;
    throw new Error(
      `${path}: layer "${module}" has no ${down ? "up" : "down"} half beside "${there.name}": ` +
        `the file is incomplete`,
    );
  }
  const rank = down.shape[0] ?? 0;
  if (rank === 0 || rank !== up.shape[1]) {
    throw new Error(
      `${path}: the halves of layer "${module}" do not fit each other: down [${down.shape}] has ` +
        `rank ${rank}, up [${up.shape}] has rank ${up.shape[1] ?? 0}`,
    );
  }
  if (alpha && alpha.shape.some((n) => n !== 1)) {
    throw new Error(`${path}: tensor "${alpha.name}" is [${alpha.shape}]; expected one number`);
  }
  // As the file has them: [out, in] and [out, in, kh, kw].
  const weight = base.get(`${module}.weight`).shape;
  const needed = layerShapes(weight, rank);
  const turned = (shape?: readonly number[]) =>
    shape?.length === 4 ? [3, 2, 0, 1].map((axis) => shape[axis]) : shape;
  const [downShape, upShape] = [turned(needed?.down), turned(needed?.up)];
  if (`${downShape}` !== `${down.shape}` || `${upShape}` !== `${up.shape}`) {
    throw new Error(
      `${path}: layer "${module}" has down [${down.shape}] and up [${up.shape}], but the base ` +
        `weight [${turned(weight)}] needs ` +
        (needed ? `[${downShape}] and [${upShape}]` : "no LoRA") +
        `: the LoRA was trained on another model`,
    );
  }
  return rank;
}

type ScaleOf = (module: string, rank: number) => number;

/** What a file's metadata or the file beside it say of the layers' scales. */
async function readConfiguration(
  path: string,
  file: SafetensorsFile,
  peft: boolean,
): Promise<ScaleOf | undefined> {
  if (peft) {
    const beside = besides(path);
    let text: string;
    try {
      text = await Deno.readTextFile(beside);
    } catch (cause) {
      if (!(cause instanceof Deno.errors.NotFound)) throw cause;
      throw new Error(
        `${path} is in peft's layout, whose alpha and rank are in ${PEFT_CONFIG}: ` +
          `put it beside the file`,
        { cause },
      );
    }
    return configuredScales(beside, text, "");
  }
  const text = file.metadata[METADATA];
  if (text === undefined) return undefined;
  return configuredScales(`${path}: the metadata "${METADATA}"`, text, "unet.");
}

function configuredScales(source: string, text: string, prefix: string): ScaleOf {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${source} is not JSON`, { cause });
  }
  if (typeof json !== "object" || json === null) throw new Error(`${source} is no JSON object`);
  const values = json as Readonly<Record<string, unknown>>;
  const value = (key: string) => values[prefix + key];
  const type = value("peft_type") ?? "LORA";
  if (type !== "LORA" || value("use_dora") === true) {
    throw new Error(`${source} is of a ${type === "LORA" ? "DoRA" : type}, not of a plain LoRA`);
  }
  const numberIn = (key: string, found: unknown, fallback: number) => {
    if (found === undefined || found === null) return fallback;
    if (typeof found === "number" && Number.isFinite(found)) return found;
    throw new Error(`${source}: "${prefix}${key}" is ${JSON.stringify(found)}; expected a number`);
  };
  const patterns = (key: string) => {
    const found = value(key) ?? {};
    if (typeof found !== "object") {
      throw new Error(
        `${source}: "${prefix}${key}" is ${JSON.stringify(found)}; expected an object`,
      );
    }
    return Object.entries(found as object).map(([pattern, number]) => ({
      end: layerOfPattern(`${source}: "${prefix}${key}"`, pattern),
      number: numberIn(`${key}.${pattern}`, number, NaN),
    }));
  };
  const [rankPatterns, alphaPatterns] = [patterns("rank_pattern"), patterns("alpha_pattern")];
  const matching = (list: ReturnType<typeof patterns>, module: string) =>
    list.find(({ end }) => `.${module}`.endsWith(`.${end}`))?.number;
  return (module, rank) => {
    const given = matching(rankPatterns, module) ?? numberIn("r", value("r"), rank);
    if (given !== rank) {
      throw new Error(
        `${source} gives layer "${module}" the rank ${given}, but its tensors have rank ${rank}`,
      );
    }
    const alpha = matching(alphaPatterns, module) ??
      numberIn("lora_alpha", value("lora_alpha"), rank);
    return alpha / (value("use_rslora") === true ? Math.sqrt(rank) : rank);
  };
}

/** peft's patterns are regular expressions; those that LoRA files hold are ends of module paths. */
function layerOfPattern(source: string, pattern: string): string {
  const plain = pattern.replace(/^\^/, "").replace(/\$$/, "").replaceAll("\\.", ".");
  if (/^[\w.]+$/.test(plain)) return plain;
  throw new Error(
    `${source} has the pattern ${JSON.stringify(pattern)}; only ends of module paths are supported`,
  );
}
