/**
 * A pipeline's files: a folder in diffusers' format, in which `model_index.json` names the parts and
 * each has a folder with its configuration and weights, or a single file in the original format.
 * Whatever can be wrong is found in the headers, before any weights are read.
 *
 * @module
 */
import { type Parameter, selectParameters } from "../nn/init.ts";
import { writeAtomically } from "../nn/safetensors.ts";
import {
  heldBytes,
  loadWeights,
  openWeights,
  saveWeights,
  storedBytes,
  type StoredWeights,
  type Weights,
  type WeightsDType,
} from "../nn/weights.ts";
import { byteSize, getDevice } from "../tensor/mod.ts";
import { clipTextParameters } from "./clip_text.ts";
import {
  type ClipTextConfig,
  clipTextConfig,
  type Json,
  ofBlock,
  readJson,
  type UNetConfig,
  unetConfig,
  type VaeConfig,
  vaeConfig,
} from "./config.ts";
import { NoiseSchedule } from "./noise_schedule.ts";
import { Pipeline, textClass } from "./pipeline.ts";
import { openSingleFile } from "./single_file.ts";
import { ClipTokenizer, type TokenizerClass } from "./tokenizer.ts";
import { unetParameters } from "./unet.ts";
import { vaeParameters, vaeTensorName } from "./vae.ts";

/** A network in its files: every tensor is there, in the shape that the configuration gives it. */
export interface ModelFiles<Config> {
  readonly config: Config;
  readonly stored: StoredWeights;
}

/** A pipeline in its files, checked, with no weights read. */
export interface PipelineFiles {
  readonly path: string;
  /** A folder in diffusers' layout, or one file in the original program's. */
  readonly layout: "diffusers" | "ldm";
  readonly unet: ModelFiles<UNetConfig>;
  readonly vae: ModelFiles<VaeConfig>;
  /** One (SD1.5), or two (SDXL). */
  readonly textEncoders: readonly ModelFiles<ClipTextConfig>[];
  readonly schedule: NoiseSchedule;
  /** `model_index.json`, without the parts that are not used here. */
  readonly index: Json;
  /** Tensors of a single file that are of no part. */
  readonly unread: readonly string[];
}

/** The pipeline classes of diffusers whose folders can be read: they have the same parts. */
const CLASSES = [
  "StableDiffusionPipeline",
  "StableDiffusionImg2ImgPipeline",
  "StableDiffusionXLPipeline",
  "StableDiffusionXLImg2ImgPipeline",
];

/** Parts that checkpoints carry and that are left alone. */
const UNUSED_PARTS = ["safety_checker", "feature_extractor", "image_encoder"];

/**
 * Opens a pipeline, whichever format it has, and checks every part's tensors against its configuration.
 * Reads configurations and headers only, so that it takes no longer for a large model.
 *
 * @param path A folder that holds `model_index.json`, or a safetensors file.
 * @throws {Error} Naming the file, the key or the tensor that is missing or wrong.
 */
export async function openPipeline(path: string): Promise<PipelineFiles> {
  if (/\.(ckpt|bin|pt|pth)$/.test(path)) {
    throw new Error(`${path} is a pickle: save it again as safetensors`);
  }
  const single = await isFile(path);
  if (single === undefined) {
    throw new Deno.errors.NotFound(`no model at ${path}: there is no such file or folder`);
  }
  const files = single ? await openSingleFile(path) : await openFolder(path);
  checkTogether(files);
  return files;
}

/** Whether a path is a file; nothing where there is neither file nor folder. */
async function isFile(path: string): Promise<boolean | undefined> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

async function openFolder(folder: string): Promise<PipelineFiles> {
  const file = `${folder}/model_index.json`;
  const index = await readJson(file);
  if (!CLASSES.includes(index._class_name as string)) {
    throw new Error(
      `${file}: "_class_name" is ${JSON.stringify(index._class_name)}; ` +
        `known are ${CLASSES.join(", ")}`,
    );
  }
  if (!hasPart(index, "text_encoder")) {
    throw new Error(
      `${file}: "text_encoder" is ${JSON.stringify(index.text_encoder)}: ` +
        `models without it, such as SDXL's refiner, are not supported`,
    );
  }
  const suffixes = hasPart(index, "text_encoder_2") ? ["", "_2"] : [""];
  const textEncoders = [];
  for (const suffix of suffixes) {
    textEncoders.push(await openTextEncoder(`${folder}/text_encoder${suffix}`));
  }
  const unused = UNUSED_PARTS.filter((part) => part in index);
  return {
    path: folder,
    layout: "diffusers",
    unet: await openUNet(`${folder}/unet`),
    vae: await openVae(`${folder}/vae`),
    textEncoders,
    schedule: await openSchedule(`${folder}/scheduler`, index),
    index: {
      ...index,
      ...Object.fromEntries(unused.map((part) => [part, [null, null]])),
      ...unused.includes("safety_checker") && { requires_safety_checker: false },
    },
    unread: [],
  };
}

/** Parts that a pipeline could have and has not are [null, null]. */
function hasPart(index: Json, part: string): boolean {
  const value = index[part];
  return Array.isArray(value) && value[1] != null;
}

/** Checks that the parts can work with each other. */
function checkTogether({ path, unet: { config }, vae, textEncoders }: PipelineFiles): void {
  const latents = vae.config.latent_channels;
  if (config.in_channels !== latents) {
    throw new Error(
      `${path}: the U-Net takes ${config.in_channels} channels, the VAE's latents have ${latents}: ` +
        `models for inpainting or with an image as a condition are not supported`,
    );
  }
  const widths = textEncoders.map((encoder) => encoder.config.hidden_size);
  const width = widths.reduce((a, b) => a + b);
  config.block_out_channels.forEach((_, i) => {
    const expected = ofBlock(config.cross_attention_dim, i);
    if (expected === width) return;
    throw new Error(
      `${path}: the U-Net attends to prompts of width ${expected} ("cross_attention_dim"), ` +
        `the text encoders give ${widths.join(" + ")}: they are not of one model`,
    );
  });
}

async function openModel<Config>(
  folder: string,
  read: (json: Json, source: string) => Config,
  parameters: (config: Config) => readonly Parameter[],
  ignored: RegExp,
  rename?: (name: string) => string,
): Promise<ModelFiles<Config>> {
  const config = read(await readJson(`${folder}/config.json`), `${folder}/config.json`);
  const stored = await openWeights(folder, rename ? { rename } : {});
  return { config, stored: selectParameters(stored, parameters(config), ignored) };
}

/** Matches no name. */
const NONE = /^(?!)/;

const openUNet = (folder: string) => openModel(folder, unetConfig, unetParameters, NONE);
const openVae = (folder: string) =>
  openModel(folder, vaeConfig, vaeParameters, NONE, vaeTensorName);
/** Some carry a table of 0, 1, 2, ..., or a projection that the class has no use for. */
const openTextEncoder = (folder: string) =>
  openModel(
    folder,
    clipTextConfig,
    clipTextParameters,
    /^(text_model\.embeddings\.position_ids|text_projection\.weight|logit_scale)$/,
  );

/** In diffusers the class that `model_index.json` names reads the file, whatever class wrote it. */
async function openSchedule(folder: string, { scheduler }: Json): Promise<NoiseSchedule> {
  const file = `${folder}/scheduler_config.json`;
  const json = await readJson(file);
  const name = Array.isArray(scheduler) ? scheduler[1] : undefined;
  return NoiseSchedule.fromConfig(
    typeof name === "string" ? { ...json, _class_name: name } : json,
    file,
  );
}

/** Options of {@linkcode loadPipeline}. */
export interface LoadPipelineOptions {
  /** How weights are held; default: as in the files. */
  readonly dtype?: WeightsDType;
  /** Called after every tensor with the bytes of weights read so far and in all. */
  readonly onProgress?: (done: number, total: number) => void;
}

/**
 * Loads a pipeline.
 *
 * @param path A folder in diffusers' layout, or a single file with the vocabulary in a folder
 * `tokenizer` beside it.
 * @throws {Error} Naming the file, the key or the tensor that is missing or wrong.
 */
export async function loadPipeline(
  path: string,
  options: LoadPipelineOptions = {},
): Promise<Pipeline> {
  const files = await openPipeline(path);
  const tokenizers = await loadTokenizers(files);
  const { unet, vae, textEncoders, schedule, index } = files;
  const parts = [...textEncoders, unet, vae];
  checkCapacity(path, parts, options.dtype);
  const total = parts.reduce((sum, { stored }) => sum + storedBytes(stored), 0);
  const loaded: Weights[] = [];
  let before = 0;
  try {
    for (const { stored } of parts) {
      loaded.push(
        await loadWeights(stored, {
          dtype: options.dtype ?? "stored",
          onProgress: (done) => options.onProgress?.(before + done, total),
        }),
      );
      before += storedBytes(stored);
    }
  } catch (error) {
    for (const weights of loaded) weights.dispose();
    throw error;
  }
  const [unetWeights, vaeWeights] = loaded.slice(-2) as [Weights, Weights];
  return new Pipeline({
    unet: { config: unet.config, weights: unetWeights },
    vae: { config: vae.config, weights: vaeWeights },
    textEncoders: textEncoders.map(({ config }, i) => ({
      config,
      weights: loaded[i]!,
      tokenizer: tokenizers[i]!,
    })),
    schedule,
    index,
  });
}

/** Says at once what a device would say after minutes of reading. */
function checkCapacity(
  path: string,
  parts: readonly ModelFiles<unknown>[],
  dtype: WeightsDType | undefined,
): void {
  const { name, capacity, liveBytes } = getDevice();
  let needed = 0;
  for (const { stored } of parts) {
    for (const tensor of stored.tensors.values()) needed += heldBytes(tensor, dtype);
  }
  if (capacity === undefined || liveBytes + needed <= capacity) return;
  throw new RangeError(
    `the weights of ${path} take ${byteSize(needed)}, but the ${name} device holds at most ` +
      `${byteSize(capacity)} (${byteSize(liveBytes)} are held already): ` +
      (dtype === "f16" ? "use another device" : "hold them in 16 bits, or use another device"),
  );
}

/**
 * Loads the tokenizer of each text encoder: from its folder, or, for a single file, from the folders
 * `tokenizer` and, where there is one, `tokenizer_2` beside it.
 *
 * @throws {Error} Naming what is missing and where to put it.
 */
export async function loadTokenizers(files: PipelineFiles): Promise<ClipTokenizer[]> {
  const { path, layout, textEncoders, index } = files;
  const folder = layout === "diffusers" ? path : folderOf(path);
  const tokenizers: ClipTokenizer[] = [];
  for (const [i, { config }] of textEncoders.entries()) {
    const part = `tokenizer${i === 0 ? "" : `_${i + 1}`}`;
    const place = `${folder}/${part}`;
    const kind = tokenizerClass(index, part, path);
    const found = layout === "diffusers"
      ? await ClipTokenizer.load(place, kind)
      : await looseTokenizer(path, place, kind, tokenizers[0]);
    // Where no file says it, prompts are as long as the text encoder takes them.
    const length = found.files.config.model_max_length ?? config.max_position_embeddings;
    const tokenizer = new ClipTokenizer(
      { ...found.files, config: { ...found.files.config, model_max_length: length } },
      ...[place, kind] as const,
    );
    // An id beyond the table of embeddings would read what is not there.
    if (tokenizer.size > config.vocab_size) {
      throw new Error(
        `${place} has ids up to ${tokenizer.size - 1}, but the text encoder knows ids from 0 to ` +
          `${config.vocab_size - 1} ("vocab_size"): they are not of one model`,
      );
    }
    tokenizers.push(tokenizer);
  }
  return tokenizers;
}

/** The class that a part of `model_index.json` names; diffusers' own where it names none. */
function tokenizerClass(index: Json, key: string, path: string): TokenizerClass {
  if (index[key] == null) return "CLIPTokenizer";
  const name = Array.isArray(index[key]) ? index[key][1] : undefined;
  if (name === "CLIPTokenizer" || name === "CLIPTokenizerFast") return name;
  throw new Error(
    `${path}/model_index.json: "${key}" is ${JSON.stringify(index[key])}; ` +
      `expected the class CLIPTokenizer or CLIPTokenizerFast of "transformers"`,
  );
}

function folderOf(path: string): string {
  const end = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return end < 0 ? "." : path.slice(0, end) || "/";
}

/** The tokenizer for a single file, which itself has none. */
async function looseTokenizer(
  path: string,
  place: string,
  kind: TokenizerClass,
  first: ClipTokenizer | undefined,
): Promise<ClipTokenizer> {
  if (await isFile(`${place}/vocab.json`) || await isFile(`${place}/tokenizer.json`)) {
    return await ClipTokenizer.load(place, kind);
  }
  if (!first) {
    throw new Error(
      `${path} needs CLIP's vocabulary, which single files do not hold: put vocab.json and ` +
        `merges.txt, or tokenizer.json, in the folder ${place}; every Stable Diffusion 1.5 or XL in ` +
        `diffusers' layout has them in its own folder "tokenizer"`,
    );
  }
  // SDXL's second encoder has the same vocabulary, and was trained with "!" as padding.
  const { files } = first;
  const config = { ...files.config, pad_token: "!" };
  return new ClipTokenizer({ ...files, config }, place, kind);
}

/** Loads the folder of a U-Net. */
export async function loadUNet(folder: string, options: LoadPipelineOptions = {}) {
  const { config, stored } = await openUNet(folder);
  return { config, weights: await loadWeights(stored, options) };
}

/** Loads the folder of a VAE. */
export async function loadVae(folder: string, options: LoadPipelineOptions = {}) {
  const { config, stored } = await openVae(folder);
  return { config, weights: await loadWeights(stored, options) };
}

/** Loads the folder of a CLIP text encoder. */
export async function loadTextEncoder(folder: string, options: LoadPipelineOptions = {}) {
  const { config, stored } = await openTextEncoder(folder);
  return { config, weights: await loadWeights(stored, options) };
}

/**
 * Saves a pipeline in the format that {@linkcode loadPipeline} and diffusers read. Every file is
 * written whole or not at all, `model_index.json` last.
 *
 * @param folder Made if it does not exist.
 */
export async function savePipeline(
  folder: string,
  pipeline: Pipeline,
  options: { readonly dtype?: WeightsDType } = {},
): Promise<void> {
  const { unet, vae, textEncoders, schedule } = pipeline;
  await saveModel(
    `${folder}/unet`,
    "diffusion_pytorch_model",
    "UNet2DConditionModel",
    unet,
    options,
  );
  await saveModel(`${folder}/vae`, "diffusion_pytorch_model", "AutoencoderKL", vae, options);
  for (const [i, { tokenizer, ...model }] of textEncoders.entries()) {
    const suffix = i === 0 ? "" : `_${i + 1}`;
    await saveModel(
      `${folder}/text_encoder${suffix}`,
      "model",
      textClass(model.config),
      model,
      options,
    );
    const { vocab, merges, config } = tokenizer.files;
    const to = `${folder}/tokenizer${suffix}`;
    await Deno.mkdir(to, { recursive: true });
    await writeJson(`${to}/vocab.json`, vocab);
    await writeText(`${to}/merges.txt`, merges);
    await writeJson(`${to}/tokenizer_config.json`, config);
  }
  await Deno.mkdir(`${folder}/scheduler`, { recursive: true });
  await writeJson(`${folder}/scheduler/scheduler_config.json`, {
    _class_name: "DDIMScheduler",
    ...schedule.json,
  });
  await writeJson(`${folder}/model_index.json`, pipeline.index);
}

async function saveModel(
  folder: string,
  stem: string,
  className: string,
  { weights, config }: { readonly weights: Weights; readonly config: object },
  options: { readonly dtype?: WeightsDType },
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const transformers = className.startsWith("CLIP");
  const label = transformers
    ? { architectures: [className], model_type: "clip_text_model" }
    : { _class_name: className };
  const { with_projection: _, ...saved } = config as Partial<ClipTextConfig>;
  await saveWeights(`${folder}/${stem}.safetensors`, weights.tensors, options);
  await writeJson(`${folder}/config.json`, { ...label, ...saved });
}

const writeJson = (path: string, value: unknown) =>
  writeText(path, JSON.stringify(value, null, 2) + "\n");

async function writeText(path: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  await writeAtomically(path, bytes.length, (write) => write(bytes));
}
