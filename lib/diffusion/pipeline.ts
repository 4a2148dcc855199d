/**
 * A text-to-image pipeline: text encoders, U-Net, VAE and noise schedule together make images from
 * prompts. Stable Diffusion 1.5's layout and XL's (two text encoders, additional conditioning) are the
 * same code.
 *
 * @module
 */
import { jit, type Jitted, type Tensor, tensor, zeros } from "../tensor/mod.ts";
import type { LoraAdapter, Weights } from "../nn/weights.ts";
import { eosPositions } from "./clip_text.ts";
import { promptFeatures, type TextEncoder } from "./conditions.ts";
import type { ClipTextConfig, Json, UNetConfig, VaeConfig } from "./config.ts";
import type { NoiseSchedule } from "./noise_schedule.ts";
import { type Conditions, Sampler, startingNoise, stepNoise } from "./sample.ts";
import { samplingPlan, type SchedulerName } from "./schedulers.ts";
import type { ClipTokenizer, Overlong } from "./tokenizer.ts";
import { unscaleLatents, vaeDecode, vaeFactor } from "./vae.ts";

/** One text encoder with its tokenizer. */
export interface PromptEncoder extends TextEncoder {
  readonly tokenizer: ClipTokenizer;
}

/** The parts of a pipeline. */
export interface PipelineParts {
  readonly unet: { readonly weights: Weights; readonly config: UNetConfig };
  readonly vae: { readonly weights: Weights; readonly config: VaeConfig };
  /** One (SD1.5), or two (SDXL), of which the second gives the pooled embedding. */
  readonly textEncoders: readonly PromptEncoder[];
  readonly schedule: NoiseSchedule;
  /** `model_index.json`; default: one for these parts. */
  readonly index?: Json;
}

/** A batch of 8-bit RGB images, `data` in the order [count, height, width, 3]. */
export interface Images {
  readonly data: Uint8Array;
  readonly count: number;
  readonly height: number;
  readonly width: number;
}

/** How images are made. */
export interface GenerateOptions {
  /** Determines the starting noise, with each image's index. */
  readonly seed: number;
  /** Denoising steps. */
  readonly steps: number;
  /** 1 switches classifier-free guidance off, and halves the work. */
  readonly guidanceScale: number;
  /** What the images are sampled by; default: what the folder's `scheduler_config.json` says. */
  readonly scheduler?: SchedulerName;
  readonly lora?: LoraAdapter;
  /** Default: none, which for SD1.5 is the empty prompt. */
  readonly negativePrompt?: string;
  /** Index of the first image, so that a long list can be made in parts. Default 0. */
  readonly firstIndex?: number;
  /** Starting noise f32 [N, h, w, channels] instead of the seed's. */
  readonly noise?: Float32Array;
  /** Pixels; default: the model's own resolution. */
  readonly height?: number;
  readonly width?: number;
  /** Images made at once; default: 8 of 256 x 256 pixels, and fewer of larger ones. */
  readonly batchSize?: number;
  /** Whether prompts that are too long are refused (the default) or cut. */
  readonly overlong?: Overlong;
  /** Called after every step with the number of the U-Net's evaluations done and in all. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Pixels that are made at once: eight images of 256 x 256, or one of 1024 x 1024. */
const PIXELS = 2 ** 19;
/** Pixels that are decoded at once: the VAE's values take 2.4 KB for each. */
const DECODE_PIXELS = 2 ** 18;

/** How many images of a size are made at once where up to `most` would do. */
export function imagesAtOnce(height: number, width: number, most: number): number {
  return Math.min(most, Math.max(1, Math.floor(PIXELS / (height * width))));
}

/** A text-to-image model with its compiled parts. */
export class Pipeline {
  readonly unet: PipelineParts["unet"];
  readonly vae: PipelineParts["vae"];
  readonly textEncoders: readonly PromptEncoder[];
  readonly schedule: NoiseSchedule;
  /** `model_index.json` */
  readonly index: Json;
  readonly sampler: Sampler;
  readonly #compiled = new Map<string, Jitted<Inputs, Inputs, Inputs>>();

  constructor(parts: PipelineParts) {
    this.unet = parts.unet;
    this.vae = parts.vae;
    this.textEncoders = parts.textEncoders;
    this.schedule = parts.schedule;
    this.index = parts.index ?? defaultIndex(parts);
    this.sampler = new Sampler(this.unet.weights, this.unet.config);
  }

  /** The side of the images that the model was made for, in pixels. */
  get resolution(): number {
    return (this.unet.config.sample_size ?? 64) * vaeFactor(this.vae.config);
  }

  /**
   * What the U-Net is told about prompts.
   *
   * SD1.5: the text encoder's last hidden state. SDXL: the last but one of both encoders side by
   * side, and the second's projection with the image's size as additional conditions.
   *
   * @param size Height and width in pixels (SDXL).
   * @returns Realised tensors, which the caller disposes.
   */
  async encodePrompts(
    prompts: readonly string[],
    size: readonly [number, number],
    overlong: Overlong = "error",
  ): Promise<Conditions> {
    const inputs: Inputs = {};
    this.textEncoders.forEach(({ tokenizer, config }, i) => {
      const { ids, count, length } = tokenizer.encodeBatch(prompts, overlong);
      inputs[`ids${i}`] = tensor(ids, [count, length]);
      inputs[`eos${i}`] = tensor(eosPositions(config, ids, length), [count]);
    });
    const towers = this.textEncoders.map((encoder) => encoder.weights);
    const encoded = await this.#run(`text ${prompts.length}`, towers, inputs, (given) => {
      const prompts = towers.map((_, i) => ({ ids: given[`ids${i}`]!, eos: given[`eos${i}`]! }));
      return { ...promptFeatures(this.textEncoders, prompts) };
    });
    for (const t of Object.values(inputs)) t.dispose();
    const { textEmbeds } = encoded;
    const context = encoded.context!;
    if (!textEmbeds) return { context };
    const [height, width] = size;
    const ids = prompts.flatMap(() => [height, width, 0, 0, height, width]);
    return { context, added: { textEmbeds, timeIds: tensor(ids, [prompts.length, 6]) } };
  }

  /**
   * Decodes scaled latents (as the U-Net sees them) to images, a few at once where they are large.
   *
   * @param latents [N, h, w, channels], realised.
   */
  async decode(latents: Tensor): Promise<Images> {
    const factor = vaeFactor(this.vae.config);
    const [count, height, width] = [
      latents.shape[0],
      ...latents.shape.slice(1, 3).map((n) => n * factor),
    ] as [number, number, number];
    const together = Math.max(1, Math.floor(DECODE_PIXELS / (height * width)));
    const data = new Uint8Array(count * height * width * 3);
    if (together >= count) {
      data.set(await this.#decodeTogether(latents));
    } else {
      for (let i = 0; i < count; i += together) {
        using part = latents.slice(0, i, Math.min(i + together, count));
        data.set(await this.#decodeTogether(part), i * height * width * 3);
      }
    }
    return { data, count, height, width };
  }

  async #decodeTogether(latents: Tensor): Promise<Uint8ClampedArray> {
    const { weights, config } = this.vae;
    const { images } = await this.#run(
      `decode ${latents.shape}`,
      [weights],
      { latents },
      (given) => ({
        images: vaeDecode(weights, config, unscaleLatents(config, given.latents!))
          .mul(127.5).add(127.5),
      }),
    );
    // A clamped array rounds and saturates as it is filled.
    const bytes = Uint8ClampedArray.from(await images!.data());
    images!.dispose();
    return bytes;
  }

  /** Frees the compiled parts and what they hold, but not the weights: they are compiled again when needed. */
  release(): void {
    this.sampler.dispose();
    for (const f of this.#compiled.values()) f.dispose();
    this.#compiled.clear();
  }

  /** Frees the compiled parts and the weights. */
  dispose(): void {
    this.release();
    for (const { weights } of [this.unet, this.vae, ...this.textEncoders]) weights.dispose();
  }

  /** Runs a function of tensors and weights that is compiled at its first use under this key. */
  async #run(
    key: string,
    weights: readonly Weights[],
    inputs: Inputs,
    body: (inputs: Inputs) => Inputs,
  ): Promise<Inputs> {
    for (const w of weights) await w.realize();
    let compiled = this.#compiled.get(key);
    if (!compiled) {
      compiled = jit((state: Inputs, given: Inputs) => ({ state, result: body(given) }));
      this.#compiled.set(key, compiled);
    }
    return await compiled({}, inputs);
  }
}

type Inputs = { [key: string]: Tensor };

/**
 * Makes images from prompts.
 *
 * @param prompts One image each.
 * @returns The images in the prompts' order.
 * @throws {RangeError} For a prompt that is too long, or a size that the VAE's factor does not divide.
 * @throws {Error} For a scheduler that is not implemented, naming the file, the key and its value.
 * @example
 * ```ts ignore
 * const pipeline = await loadPipeline("data/nano");
 * const images = await generate(pipeline, ["a large red circle on a dark background"], {
 *   seed: 1,
 *   steps: 12,
 *   guidanceScale: 4,
 * });
 * ```
 */
export async function generate(
  pipeline: Pipeline,
  prompts: readonly string[],
  options: GenerateOptions,
): Promise<Images> {
  const factor = vaeFactor(pipeline.vae.config);
  const channels = pipeline.unet.config.in_channels;
  const { height = pipeline.resolution, width = pipeline.resolution } = options;
  if (height % factor !== 0 || width % factor !== 0) {
    throw new RangeError(
      `images of ${height}x${width} are not possible: height and width must be multiples of ${factor}`,
    );
  }
  // What cannot be sampled is refused before anything is computed.
  const plan = samplingPlan(pipeline.schedule, options.steps, options.scheduler);
  const latentShape = [height / factor, width / factor, channels];
  const latentSize = latentShape[0]! * latentShape[1]! * channels;
  if (options.noise && options.noise.length !== prompts.length * latentSize) {
    throw new RangeError(
      `the starting noise has ${options.noise.length} numbers; ${prompts.length} images of ` +
        `[${latentShape}] latents take ${prompts.length * latentSize}`,
    );
  }
  const first = options.firstIndex ?? 0;
  const noiseOf = (i: number) =>
    options.noise?.subarray(i * latentSize, (i + 1) * latentSize) ??
      startingNoise(options.seed, first + i, latentShape);

  const data = new Uint8Array(prompts.length * height * width * 3);
  const batch = Math.min(options.batchSize ?? imagesAtOnce(height, width, 8), prompts.length);
  const batches = Math.ceil(prompts.length / batch);
  const size = [height, width] as const;
  const overlong = options.overlong ?? "error";
  const negative = options.guidanceScale === 1
    ? undefined
    : await negativeConditions(pipeline, batch, size, options);
  for (let b = 0; b < batches; b++) {
    // The last batch is filled up with its last prompt, so that one compiled step serves all.
    const rows = Array.from(
      { length: batch },
      (_, j) => Math.min(b * batch + j, prompts.length - 1),
    );
    const stacked = (noiseOf: (row: number) => Float32Array) => {
      const noise = new Float32Array(batch * latentSize);
      rows.forEach((row, j) => noise.set(noiseOf(row), j * latentSize));
      return noise;
    };
    const conditional = await pipeline.encodePrompts(rows.map((r) => prompts[r]!), size, overlong);
    using latents = await pipeline.sampler.sample(
      { data: stacked(noiseOf), shape: [batch, ...latentShape] },
      conditional,
      negative,
      {
        plan,
        guidanceScale: options.guidanceScale,
        lora: options.lora,
        stepNoise: (evaluation) =>
          stacked((row) => stepNoise(options.seed, first + row, evaluation, latentShape)),
        onStep: (done, all) => options.onProgress?.(b * all + done, batches * all),
      },
    );
    disposeConditions(conditional);
    const images = await pipeline.decode(latents);
    const wanted = Math.min(batch, prompts.length - b * batch) * height * width * 3;
    data.set(images.data.subarray(0, wanted), b * batch * height * width * 3);
  }
  if (negative) disposeConditions(negative);
  return { data, count: prompts.length, height, width };
}

/**
 * The conditions to be guided away from: those of the negative prompt, or SDXL's zeros where there is
 * none (an empty one is a prompt like any other, as in diffusers).
 *
 * @param size Height and width in pixels (SDXL).
 * @returns Realised tensors, which the caller disposes.
 */
export async function negativeConditions(
  pipeline: Pipeline,
  batch: number,
  size: readonly [number, number],
  { negativePrompt, overlong }: Pick<GenerateOptions, "negativePrompt" | "overlong">,
): Promise<Conditions> {
  const prompts = new Array<string>(batch).fill(negativePrompt ?? "");
  const encoded = await pipeline.encodePrompts(prompts, size, overlong);
  // diffusers' own default, for folders that do not say.
  const zeroed = (pipeline.index.force_zeros_for_empty_prompt ?? true) &&
    negativePrompt === undefined;
  if (!zeroed || !encoded.added) return encoded;
  disposeConditions({ context: encoded.context });
  const { textEmbeds, timeIds } = encoded.added;
  textEmbeds.dispose();
  return {
    context: zeros(encoded.context.shape),
    added: { textEmbeds: zeros(textEmbeds.shape), timeIds },
  };
}

function disposeConditions({ context, added }: Conditions): void {
  context.dispose();
  added?.textEmbeds.dispose();
  added?.timeIds.dispose();
}

/** transformers' class of a text encoder. */
export const textClass = (config: ClipTextConfig) =>
  config.with_projection ? "CLIPTextModelWithProjection" : "CLIPTextModel";

function defaultIndex({ textEncoders, schedule }: PipelineParts): Json {
  const scheduler = schedule.config.className ?? "DDIMScheduler";
  const two = textEncoders.length === 2;
  return {
    _class_name: two ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline",
    scheduler: ["diffusers", scheduler],
    text_encoder: ["transformers", textClass(textEncoders[0]!.config)],
    ...two && { text_encoder_2: ["transformers", textClass(textEncoders[1]!.config)] },
    tokenizer: ["transformers", "CLIPTokenizer"],
    ...two && {
      tokenizer_2: ["transformers", "CLIPTokenizer"],
      // Whoever trains with the empty prompt's encoding samples with it.
      force_zeros_for_empty_prompt: false,
    },
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
    ...!two && {
      feature_extractor: [null, null],
      requires_safety_checker: false,
      safety_checker: [null, null],
    },
  };
}
