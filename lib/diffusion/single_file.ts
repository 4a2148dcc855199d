/**
 * Single-file checkpoints: Stable Diffusion 1.5 and XL as the original program (latent diffusion,
 * LDM) names their tensors, all parts in one safetensors file, without configurations. What it is
 * follows from the names, the configurations from the tensors' shapes and what all models of the kind
 * share.
 *
 * @module
 */
import { checkParameters, fileShape, type Parameter } from "../nn/init.ts";
import { ldmNames } from "../nn/ldm_names.ts";
import { openSafetensors, type SafetensorsEntry } from "../nn/safetensors.ts";
import { absent, type StoredTensor, type StoredWeights } from "../nn/weights.ts";
import { clipTextParameters } from "./clip_text.ts";
import {
  type ClipTextConfig,
  clipTextConfig,
  type Json,
  type UNetConfig,
  unetConfig,
  vaeConfig,
} from "./config.ts";
import { NoiseSchedule } from "./noise_schedule.ts";
import type { ModelFiles, PipelineFiles } from "./pipeline_files.ts";
import { unetParameters } from "./unet.ts";
import { vaeParameters } from "./vae.ts";

type Kind = "SD1.5" | "SDXL";

const UNET = "model.diffusion_model.";
const VAE = "first_stage_model.";
const CLIP = {
  "SD1.5": "cond_stage_model.transformer.",
  SDXL: "conditioner.embedders.0.transformer.",
};
/** SDXL's second text encoder, with OpenCLIP's names. */
const OPEN_CLIP = "conditioner.embedders.1.model.";

/** What is not run, by a name that only it has. */
const REFUSED: readonly (readonly [RegExp, string])[] = [
  [
    /^cond_stage_model\.model\./,
    "a Stable Diffusion 2 checkpoint, which does not tell whether it predicts the noise or v: " +
    "convert it to a folder in diffusers' layout, whose scheduler says so",
  ],
  [
    /^(v_pred|ztsnr)$/,
    "of a model that predicts v: convert it to a folder in diffusers' layout, whose scheduler says so",
  ],
  [/^conditioner\.embedders\.0\.model\./, "SDXL's refiner, which has no text encoder of its own"],
  [/^edm_(mean|std)$/, "a Playground checkpoint, whose noise levels are other ones"],
  [/^control_model\./, "a ControlNet"],
  [/joint_blocks\.|double_blocks\./, "of a diffusion transformer, such as SD3 or FLUX"],
  [/lora_(A|B|down|up)|\.lora\./, "a LoRA, which lies over a base model: give it as --lora"],
  [
    /^(down_blocks|encoder\.down_blocks|text_model)\./,
    "one part of a model in diffusers' names: give the folder that holds model_index.json",
  ],
];

/** Tensors that checkpoints carry and nothing here needs. */
const IGNORED = new RegExp(
  "^(" + [
    // The moving average of the weights, and what the training loss needed.
    String.raw`model_ema\..*`,
    String.raw`first_stage_model\.(loss|model_ema)\..*`,
    // The noise schedule as tables, which follow from its two ends.
    "betas|alphas_cumprod|alphas_cumprod_prev|log_one_minus_alphas_cumprod",
    "sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod|sqrt_recipm1_alphas_cumprod",
    "posterior_variance|posterior_log_variance_clipped|posterior_mean_coef[12]",
    String.raw`logvar|lvlb_weights|scale_factor|global_step|denoiser\.(log_)?sigmas`,
    // Of the text encoders' training, and a table of 0, 1, 2, ...
    String.raw`(cond_stage_model|conditioner)\.(.*\.)?(logit_scale|position_ids)`,
    String.raw`(cond_stage_model|conditioner)\.(.*\.)?text_projection(\.weight)?`,
  ].join("|") + ")$",
);

/**
 * Opens a single-file checkpoint: what it is, its configurations, and where every tensor of its parts
 * lies in the file. Reads the header only.
 *
 * @param path A safetensors file.
 * @throws {Error} Naming the file and the tensor that is missing, wrong or not known.
 */
export async function openSingleFile(path: string): Promise<PipelineFiles> {
  return readSingleFile(path, (await openSafetensors(path)).entries);
}

/**
 * As {@linkcode openSingleFile}, of a header that was read already.
 *
 * @param path The file's name.
 * @param entries What its header says.
 */
export function readSingleFile(
  path: string,
  entries: ReadonlyMap<string, SafetensorsEntry>,
): PipelineFiles {
  const names = [...entries.keys()];
  const kind = kindOf(path, names);
  const header = new Header(path, entries);

  const textEncoders = [clipPart(header, kind)];
  if (kind === "SDXL") textEncoders.push(openClipPart(header));
  const unet = unetPart(header, kind, textEncoders.at(-1)!.config);
  const vae = vaePart(header, kind);

  const unread = names.filter((name) => !header.used.has(name));
  const unknown = unread.filter((name) => !IGNORED.test(name));
  if (unknown.length > 0) {
    const others = unknown.length > 1 ? ` (and ${unknown.length - 1} more)` : "";
    throw new Error(
      `${path}: tensor "${unknown[0]}"${others} belongs to no part of ${KINDS[kind]}: ` +
        `save the checkpoint again without it`,
    );
  }
  return {
    path,
    layout: "ldm",
    unet,
    vae,
    textEncoders,
    schedule: NoiseSchedule.fromConfig(SCHEDULERS[kind], path),
    index: INDICES[kind],
    unread,
  };
}

const KINDS: Readonly<Record<Kind, string>> = {
  "SD1.5": "a Stable Diffusion 1.5 checkpoint",
  SDXL: "a Stable Diffusion XL checkpoint",
};

function kindOf(path: string, names: readonly string[]): Kind {
  for (const [mark, what] of REFUSED) {
    const name = names.find((name) => mark.test(name));
    if (name !== undefined) throw new Error(`${path} is ${what} (it has the tensor "${name}")`);
  }
  const has = (prefix: string) => names.some((name) => name.startsWith(prefix));
  if (has(OPEN_CLIP)) return "SDXL";
  if (has(CLIP["SD1.5"])) return "SD1.5";
  throw new Error(
    `${path} is neither a Stable Diffusion 1.5 nor an XL checkpoint: it has no tensors ` +
      `"${CLIP["SD1.5"]}..." or "${OPEN_CLIP}..."; it begins with "${names[0] ?? ""}"`,
  );
}

/** Where a tensor of a part is: its name in the file, and what of it. */
interface Place {
  readonly name: string;
  /** One of three matrices that lie one below the other. */
  readonly third?: number;
  /** Whether the file has [in, out] for the model's [out, in]. */
  readonly transposed?: boolean;
}

/** The header of a file, and which of its tensors were found to be of use. */
class Header {
  readonly used = new Set<string>();

  constructor(
    readonly path: string,
    readonly entries: ReadonlyMap<string, SafetensorsEntry>,
  ) {}

  has(name: string): boolean {
    return this.entries.has(name);
  }

  /** One dimension of a tensor's shape, as the file has it. */
  size(name: string, axis: number): number {
    const entry = this.entries.get(name);
    if (!entry) throw this.#missing([name]);
    const size = entry.shape[axis];
    if (size === undefined) {
      throw new Error(
        `${this.path}: tensor "${name}" has the shape [${entry.shape.join(", ")}]; ` +
          `expected ${axis + 1} dimensions or more`,
      );
    }
    return size;
  }

  /** How many names there are, counted from 0. */
  count(name: (i: number) => string): number {
    let n = 0;
    while (this.has(name(n))) n++;
    return n;
  }

  /** The tensors of a part under the model's own names. */
  part(
    prefix: string,
    parameters: readonly Parameter[],
    place: (name: string) => Place,
  ): StoredWeights {
    const places = parameters.map((parameter) => ({ parameter, ...place(parameter.name) }));
    const missing = places.map(({ name }) => prefix + name).filter((name) => !this.has(name));
    if (missing.length > 0) throw this.#missing(missing);
    const tensors = new Map<string, StoredTensor>();
    for (const { parameter, name, third, transposed } of places) {
      const full = prefix + name;
      this.used.add(full);
      const whole = { ...this.entries.get(full)!, file: this.path, name: full };
      const [rows = 0, columns = 0, ...pixels] = whole.shape;
      const expected = fileShape(parameter.shape);
      tensors.set(
        parameter.name,
        third !== undefined && rows % 3 === 0
          ? thirdOf(whole, third)
          : transposed
          ? { ...whole, shape: [columns, rows], transposed }
          // The VAE's attention has 1x1 convolutions for its linear layers.
          : expected.length === 2 && pixels.length > 0 && pixels.every((n) => n === 1)
          ? { ...whole, shape: [rows, columns] }
          : whole,
      );
    }
    const stored = { source: this.path, tensors };
    checkParameters(stored, parameters);
    return stored;
  }

  #missing([first, ...others]: readonly string[]): Error {
    return new Error(
      absent(first!, this.path, this.entries.keys()) +
        (others.length > 0 ? ` (${others.length} more are missing)` : "") +
        `: the checkpoint is incomplete`,
    );
  }
}

/** The upper, middle or lower third of a matrix or vector. */
function thirdOf(whole: StoredTensor, third: number): StoredTensor {
  const [rows, ...rest] = whole.shape;
  const byteLength = whole.byteLength / 3;
  return {
    ...whole,
    shape: [rows! / 3, ...rest],
    byteOffset: whole.byteOffset + third * byteLength,
    byteLength,
  };
}

function unetPart(header: Header, kind: Kind, pooled: ClipTextConfig): ModelFiles<UNetConfig> {
  const size = (name: string, axis: number) => header.size(UNET + name, axis);
  const has = (name: string) => header.has(UNET + name);
  const depthOf = (attention: string) =>
    header.count((i) => `${UNET}${attention}.transformer_blocks.${i}.norm1.weight`);

  const levels: { channels: number; layers: number; depth: number }[] = [];
  let level = { channels: 0, layers: 0, depth: 0 };
  for (let i = 1;; i++) {
    const block = `input_blocks.${i}`;
    const resnet = `${block}.0.in_layers.2.weight`;
    if (has(resnet)) {
      level = { channels: size(resnet, 0), layers: level.layers + 1, depth: depthOf(`${block}.1`) };
      continue;
    }
    if (level.layers > 0) levels.push(level);
    level = { channels: 0, layers: 0, depth: 0 };
    if (!has(`${block}.0.op.weight`)) break;
  }
  const middle = "middle_block.1";
  const attends = levels.map(({ depth }) => depth > 0);
  const channels = levels.map((l) => l.channels);
  const depths = levels.map(({ depth }, i) =>
    depth || (i === levels.length - 1 ? depthOf(middle) : 1)
  );
  const addition = kind === "SDXL" ? size("label_emb.0.0.weight", 1) : null;
  const config = unetConfig({
    sample_size: kind === "SDXL" ? 128 : 64,
    in_channels: size("input_blocks.0.0.weight", 1),
    out_channels: size("out.2.weight", 0),
    down_block_types: attends.map((a) => a ? "CrossAttnDownBlock2D" : "DownBlock2D"),
    mid_block_type: "UNetMidBlock2DCrossAttn",
    up_block_types: attends.toReversed().map((a) => a ? "CrossAttnUpBlock2D" : "UpBlock2D"),
    block_out_channels: channels,
    layers_per_block: oneOrAll(levels.map(({ layers }) => layers)),
    cross_attention_dim: size(`${middle}.transformer_blocks.0.attn2.to_k.weight`, 1),
    transformer_layers_per_block: oneOrAll(depths),
    // SD1.5 has 8 heads everywhere, SDXL heads of 64 channels.
    attention_head_dim: kind === "SDXL" ? channels.map((c) => c / 64) : 8,
    use_linear_projection: kind === "SDXL",
    addition_embed_type: addition === null ? null : "text_time",
    // Six numbers besides the pooled prompt: the image's size, its crop and its target size.
    addition_time_embed_dim: addition === null ? null : (addition - pooled.projection_dim) / 6,
    projection_class_embeddings_input_dim: addition,
  }, `${header.path}, as its U-Net's shapes have it`);
  const parameters = unetParameters(config);
  const moduleOf = (name: string) => name.slice(0, name.lastIndexOf("."));
  const original = ldmNames(parameters.map(({ name }) => moduleOf(name)));
  const place = (name: string) => ({
    name: original(moduleOf(name)) + name.slice(name.lastIndexOf(".")),
  });
  return { config, stored: header.part(UNET, parameters, place) };
}

const oneOrAll = (values: readonly number[]) =>
  values.every((v) => v === values[0]) ? values[0] : values;

function vaePart(header: Header, kind: Kind): PipelineFiles["vae"] {
  const levels = header.count((i) => `${VAE}encoder.down.${i}.block.0.conv1.weight`);
  const config = vaeConfig({
    in_channels: header.size(`${VAE}encoder.conv_in.weight`, 1),
    out_channels: header.size(`${VAE}decoder.conv_out.weight`, 0),
    down_block_types: Array(levels).fill("DownEncoderBlock2D"),
    up_block_types: Array(levels).fill("UpDecoderBlock2D"),
    block_out_channels: Array.from(
      { length: levels },
      (_, i) => header.size(`${VAE}encoder.down.${i}.block.0.conv1.weight`, 0),
    ),
    layers_per_block: header.count((j) => `${VAE}encoder.down.0.block.${j}.conv1.weight`),
    latent_channels: header.size(`${VAE}decoder.conv_in.weight`, 1),
    sample_size: kind === "SDXL" ? 1024 : 512,
    scaling_factor: kind === "SDXL" ? 0.13025 : 0.18215,
  }, `${header.path}, as its VAE's shapes have it`);
  const place = (name: string) => ({ name: vaeName(name, levels) });
  return { config, stored: header.part(VAE, vaeParameters(config), place) };
}

const VAE_NAMES: readonly (readonly [RegExp, string])[] = [
  [/down_blocks\.(\d+)\.resnets/, "down.$1.block"],
  [/down_blocks\.(\d+)\.downsamplers\.0/, "down.$1.downsample"],
  [/mid_block\.resnets\.0/, "mid.block_1"],
  [/mid_block\.resnets\.1/, "mid.block_2"],
  [/mid_block\.attentions\.0\.group_norm/, "mid.attn_1.norm"],
  [/mid_block\.attentions\.0\.to_([qkv])/, "mid.attn_1.$1"],
  [/mid_block\.attentions\.0\.to_out\.0/, "mid.attn_1.proj_out"],
  [/conv_shortcut/, "nin_shortcut"],
  [/conv_norm_out/, "norm_out"],
];

/** The original name of a VAE's tensor: its decoder counts the resolutions as its encoder does. */
function vaeName(name: string, levels: number): string {
  const up = name.replace(
    /up_blocks\.(\d+)\.(resnets|upsamplers\.0)/,
    (_, i, part) => `up.${levels - 1 - Number(i)}.${part === "resnets" ? "block" : "upsample"}`,
  );
  return VAE_NAMES.reduce((name, [pattern, original]) => name.replace(pattern, original), up);
}

/** OpenAI's CLIP, whose tensors have transformers' names. */
function clipPart(header: Header, kind: Kind): ModelFiles<ClipTextConfig> {
  const prefix = CLIP[kind];
  const config = textConfig(header, kind, {
    tokens: `${prefix}text_model.embeddings.token_embedding.weight`,
    positions: `${prefix}text_model.embeddings.position_embedding.weight`,
    layer: (i) => `${prefix}text_model.encoder.layers.${i}.mlp.fc1.weight`,
    json: { architectures: ["CLIPTextModel"], hidden_act: "quick_gelu", projection_dim: 768 },
  });
  const place = (name: string) => ({ name });
  return { config, stored: header.part(prefix, clipTextParameters(config), place) };
}

/** OpenCLIP, whose queries, keys and values are one matrix. */
function openClipPart(header: Header): ModelFiles<ClipTextConfig> {
  const config = textConfig(header, "SDXL", {
    tokens: `${OPEN_CLIP}token_embedding.weight`,
    positions: `${OPEN_CLIP}positional_embedding`,
    layer: (i) => `${OPEN_CLIP}transformer.resblocks.${i}.mlp.c_fc.weight`,
    json: {
      architectures: ["CLIPTextModelWithProjection"],
      hidden_act: "gelu",
      projection_dim: header.size(`${OPEN_CLIP}text_projection`, 1),
    },
  });
  return { config, stored: header.part(OPEN_CLIP, clipTextParameters(config), openClipPlace) };
}

function textConfig(header: Header, kind: Kind, { tokens, positions, layer, json }: {
  readonly tokens: string;
  readonly positions: string;
  readonly layer: (i: number) => string;
  readonly json: Json;
}): ClipTextConfig {
  const width = header.size(tokens, 1);
  return clipTextConfig({
    ...json,
    vocab_size: header.size(tokens, 0),
    hidden_size: width,
    intermediate_size: header.size(layer(0), 0),
    num_hidden_layers: header.count(layer),
    num_attention_heads: width / 64,
    max_position_embeddings: header.size(positions, 0),
    // The historic value, under which a prompt ends at its highest id.
    eos_token_id: 2,
  }, `${header.path}, as its ${kind} text encoder's shapes have it`);
}

const OPEN_CLIP_NAMES: readonly (readonly [RegExp, string])[] = [
  [/^text_model\.embeddings\.position_embedding\.weight$/, "positional_embedding"],
  [/^text_model\.embeddings\.token_embedding/, "token_embedding"],
  [/^text_model\.final_layer_norm/, "ln_final"],
  [/^text_model\.encoder\.layers/, "transformer.resblocks"],
  [/layer_norm([12])/, "ln_$1"],
  [/mlp\.fc1/, "mlp.c_fc"],
  [/mlp\.fc2/, "mlp.c_proj"],
  [/self_attn\.out_proj/, "attn.out_proj"],
  [/self_attn\.[qkv]_proj\./, "attn.in_proj_"],
];

function openClipPlace(name: string): Place {
  if (name === "text_projection.weight") return { name: "text_projection", transposed: true };
  const place = {
    name: OPEN_CLIP_NAMES.reduce(
      (name, [pattern, original]) => name.replace(pattern, original),
      name,
    ),
  };
  const [, projection] = /self_attn\.([qkv])_proj/.exec(name) ?? [];
  return projection ? { ...place, third: "qkv".indexOf(projection) } : place;
}

const NOISE: Json = {
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  num_train_timesteps: 1000,
  prediction_type: "epsilon",
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  timestep_spacing: "leading",
};

/** The schedulers that diffusers gives to these models. */
const SCHEDULERS: Readonly<Record<Kind, Json>> = {
  "SD1.5": { _class_name: "PNDMScheduler", ...NOISE, clip_sample: false },
  SDXL: { _class_name: "EulerDiscreteScheduler", ...NOISE, interpolation_type: "linear" },
};

const INDICES: Readonly<Record<Kind, Json>> = {
  "SD1.5": {
    _class_name: "StableDiffusionPipeline",
    feature_extractor: [null, null],
    requires_safety_checker: false,
    safety_checker: [null, null],
    scheduler: ["diffusers", "PNDMScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
  },
  SDXL: {
    _class_name: "StableDiffusionXLPipeline",
    force_zeros_for_empty_prompt: true,
    scheduler: ["diffusers", "EulerDiscreteScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    text_encoder_2: ["transformers", "CLIPTextModelWithProjection"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    tokenizer_2: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
  },
};
