/**
 * Model configurations as diffusers and transformers write them: `config.json` with its snake_case
 * keys kept. Reading one checks what the model needs, fills in the libraries' own defaults, and
 * refuses settings that this implementation does not have rather than ignoring them.
 *
 * @module
 */

/** A parsed `config.json`. */
export type Json = Readonly<Record<string, unknown>>;

/** One value for all blocks, or one for each. */
export type PerBlock = number | readonly number[];

/** The value of block `index`. */
export function ofBlock(value: PerBlock, index: number): number {
  return typeof value === "number" ? value : value[index]!;
}

/** `UNet2DConditionModel`. */
export interface UNetConfig {
  readonly sample_size: number | null;
  readonly in_channels: number;
  readonly out_channels: number;
  readonly down_block_types: readonly string[];
  readonly mid_block_type: string;
  readonly up_block_types: readonly string[];
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: PerBlock;
  readonly cross_attention_dim: PerBlock;
  readonly transformer_layers_per_block: PerBlock;
  readonly reverse_transformer_layers_per_block: readonly number[] | null;
  /** By diffusers' naming slip this is the number of heads, not their width. */
  readonly attention_head_dim: PerBlock;
  readonly use_linear_projection: boolean;
  readonly flip_sin_to_cos: boolean;
  readonly freq_shift: number;
  readonly norm_num_groups: number;
  readonly norm_eps: number;
  readonly downsample_padding: number;
  readonly mid_block_scale_factor: number;
  readonly addition_embed_type: "text_time" | null;
  readonly addition_time_embed_dim: number | null;
  readonly projection_class_embeddings_input_dim: number | null;
}

/** `AutoencoderKL`. */
export interface VaeConfig {
  readonly in_channels: number;
  readonly out_channels: number;
  readonly down_block_types: readonly string[];
  readonly up_block_types: readonly string[];
  readonly block_out_channels: readonly number[];
  readonly layers_per_block: number;
  readonly latent_channels: number;
  readonly norm_num_groups: number;
  readonly scaling_factor: number;
  readonly shift_factor: number | null;
  readonly use_quant_conv: boolean;
  readonly use_post_quant_conv: boolean;
  readonly mid_block_add_attention: boolean;
}

/** What CLIP's two towers have in common. */
export interface ClipTowerConfig {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly hidden_act: string;
  readonly layer_norm_eps: number;
  readonly projection_dim: number;
}

/** `CLIPTextModel` and `CLIPTextModelWithProjection`. */
export interface ClipTextConfig extends ClipTowerConfig {
  readonly vocab_size: number;
  readonly max_position_embeddings: number;
  readonly eos_token_id: number;
  /** Whether the model ends in `text_projection`. */
  readonly with_projection: boolean;
}

/** `CLIPVisionModel` and `CLIPVisionModelWithProjection`. */
export interface ClipVisionConfig extends ClipTowerConfig {
  readonly image_size: number;
  readonly patch_size: number;
  readonly num_channels: number;
  /** Whether the model ends in `visual_projection`. */
  readonly with_projection: boolean;
}

/** `CLIPModel`: both towers with their projections into one space. */
export interface ClipConfig {
  readonly projection_dim: number;
  readonly logit_scale_init_value: number;
  readonly text_config: ClipTextConfig;
  readonly vision_config: ClipVisionConfig;
}

/** More than any real model has of anything, so that a wrong number cannot fill the memory. */
const MOST = 2 ** 20;
/** The same for what is built layer by layer, and for blocks. */
const MOST_LAYERS = 1024;
const MOST_BLOCKS = 16;

/** Reads typed values out of a configuration; errors name the file and the key. */
class Reader {
  constructor(readonly json: Json, readonly source: string) {}

  /** The value of a key, its fallback when it is absent (or null where no null is meant). */
  #value(key: string, fallback: unknown): unknown {
    const value = this.json[key] ?? fallback;
    if (value === undefined) {
      throw new Error(
        `${this.source} has no key "${key}": it is not this model's configuration, or it is incomplete`,
      );
    }
    return value;
  }

  #fail(key: string, expected: string): never {
    throw new Error(
      `${this.source}: "${key}" is ${JSON.stringify(this.json[key])}; expected ${expected}`,
    );
  }

  number(key: string, fallback?: number): number {
    const value = this.#value(key, fallback);
    return typeof value === "number" ? value : this.#fail(key, "a number");
  }

  optionalNumber(key: string): number | null {
    return this.json[key] == null ? null : this.number(key);
  }

  /** How many there are of something: a whole number from 1 on. */
  count(key: string, fallback?: number, most = MOST): number {
    const value = this.#value(key, fallback);
    return isCount(value, most) ? value : this.#fail(key, countUpTo(most));
  }

  /** A number that is 0 or more. */
  atLeastZero(key: string, fallback: number): number {
    const value = this.#value(key, fallback);
    return typeof value === "number" && value >= 0 ? value : this.#fail(key, "a number from 0 on");
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.#value(key, fallback);
    return typeof value === "boolean" ? value : this.#fail(key, "true or false");
  }

  string(key: string, fallback?: string): string {
    const value = this.#value(key, fallback);
    return typeof value === "string" ? value : this.#fail(key, "a string");
  }

  /** One count for each of some blocks. */
  counts(key: string, most = MOST): readonly number[] {
    const value = this.#value(key, undefined);
    return isCounts(value, most) && value.length > 0 && value.length <= MOST_BLOCKS
      ? value
      : this.#fail(key, `a list of 1 to ${MOST_BLOCKS} numbers, each ${countUpTo(most)}`);
  }

  /** One of some block types, for each of `blocks` blocks. */
  blockTypes(key: string, known: readonly string[], blocks: number): readonly string[] {
    const value = this.#value(key, undefined);
    if (!Array.isArray(value)) this.#fail(key, "a list of block types");
    for (const type of value) {
      if (!known.includes(type)) {
        throw new Error(
          `${this.source}: "${key}" has the unknown block type "${type}"; ` +
            `known are ${known.join(", ")}`,
        );
      }
    }
    if (value.length !== blocks) {
      throw new Error(
        `${this.source}: "${key}" has ${value.length} blocks, "block_out_channels" ${blocks}`,
      );
    }
    return value;
  }

  /** One count, or one for each of `blocks` blocks. */
  perBlock(key: string, blocks: number, fallback?: number, most = MOST): PerBlock {
    const value = this.#value(key, fallback);
    if (isCount(value, most)) return value;
    if (isCounts(value, most) && value.length === blocks) return value;
    return this.#fail(
      key,
      `a number, or a list of ${blocks} numbers (one for each block), each ${countUpTo(most)}`,
    );
  }

  /** Refuses a number of groups or heads into which channels cannot be divided. */
  divides(key: string, parts: number, channels: number): void {
    if (channels % parts === 0) return;
    throw new Error(`${this.source}: "${key}" ${parts} does not divide ${channels} channels`);
  }

  /** Refuses a setting that the model here does not have; `plain` lists the values that mean "off". */
  refuse(key: string, plain: readonly unknown[]): void {
    const value = this.json[key];
    const off = (v: unknown) => v === undefined || v === null || plain.includes(v);
    if (off(value) || (Array.isArray(value) && value.every(off))) return;
    throw new Error(
      `${this.source}: "${key}" is ${JSON.stringify(value)}, which this implementation does not ` +
        `have; it runs models where it is ${plain.length ? JSON.stringify(plain[0]) : "null"}`,
    );
  }
}

function isCount(value: unknown, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= most;
}

function isCounts(value: unknown, most: number): value is readonly number[] {
  return Array.isArray(value) && value.every((v) => isCount(v, most));
}

const countUpTo = (most: number) => `a whole number from 1 to ${most}`;

/** The down blocks that a U-Net may have. */
export const UNET_DOWN_BLOCKS = ["DownBlock2D", "CrossAttnDownBlock2D"] as const;
/** The up blocks that a U-Net may have. */
export const UNET_UP_BLOCKS = ["UpBlock2D", "CrossAttnUpBlock2D"] as const;
const UNET_MID_BLOCK = "UNetMidBlock2DCrossAttn";

/** Settings of `UNet2DConditionModel` beyond SD1.5 and SDXL, with the values that switch them off. */
const UNET_REFUSED: Readonly<Record<string, readonly unknown[]>> = {
  act_fn: ["silu", "swish"],
  attention_type: ["default"],
  center_input_sample: [false],
  class_embed_type: [],
  conv_in_kernel: [3],
  conv_out_kernel: [3],
  cross_attention_norm: [],
  dual_cross_attention: [false],
  encoder_hid_dim: [],
  encoder_hid_dim_type: [],
  mid_block_only_cross_attention: [false],
  num_attention_heads: [],
  num_class_embeds: [],
  only_cross_attention: [false],
  resnet_out_scale_factor: [1],
  resnet_skip_time_act: [false],
  resnet_time_scale_shift: ["default"],
  time_cond_proj_dim: [],
  time_embedding_act_fn: [],
  time_embedding_dim: [],
  time_embedding_type: ["positional"],
  timestep_post_act: [],
};

/**
 * Reads a U-Net's configuration.
 *
 * @param json The parsed file.
 * @param source The file's name, for messages.
 * @throws {Error} For a missing key, an unknown block type, or a setting that is not implemented.
 */
export function unetConfig(json: Json, source = "the U-Net's configuration"): UNetConfig {
  const read = new Reader(json, source);
  for (const [key, plain] of Object.entries(UNET_REFUSED)) read.refuse(key, plain);
  const channels = read.counts("block_out_channels");
  const blocks = channels.length;
  const down = read.blockTypes("down_block_types", UNET_DOWN_BLOCKS, blocks);
  const up = read.blockTypes("up_block_types", UNET_UP_BLOCKS, blocks);
  const mid = read.string("mid_block_type", UNET_MID_BLOCK);
  if (mid !== UNET_MID_BLOCK) {
    throw new Error(
      `${source}: "mid_block_type" is the unknown block type "${mid}"; known is ${UNET_MID_BLOCK}`,
    );
  }
  const addition = read.string("addition_embed_type", "none");
  if (addition !== "none" && addition !== "text_time") {
    throw new Error(
      `${source}: "addition_embed_type" is "${addition}"; known are "text_time" and null`,
    );
  }
  const reverse = json.reverse_transformer_layers_per_block;
  const heads = read.perBlock("attention_head_dim", blocks);
  const groups = read.count("norm_num_groups", 32);
  channels.forEach((width, i) => {
    read.divides("norm_num_groups", groups, width);
    const attends = i === blocks - 1 || down[i] === "CrossAttnDownBlock2D" ||
      up[blocks - 1 - i] === "CrossAttnUpBlock2D";
    if (attends) read.divides("attention_head_dim", ofBlock(heads, i), width);
  });
  return {
    ...json,
    sample_size: json.sample_size == null ? null : read.count("sample_size"),
    in_channels: read.count("in_channels"),
    out_channels: read.count("out_channels"),
    down_block_types: down,
    mid_block_type: mid,
    up_block_types: up,
    block_out_channels: channels,
    layers_per_block: read.perBlock("layers_per_block", blocks, undefined, MOST_LAYERS),
    cross_attention_dim: read.perBlock("cross_attention_dim", blocks),
    transformer_layers_per_block: read.perBlock(
      "transformer_layers_per_block",
      blocks,
      1,
      MOST_LAYERS,
    ),
    reverse_transformer_layers_per_block: reverse == null
      ? null
      : read.counts("reverse_transformer_layers_per_block", MOST_LAYERS),
    attention_head_dim: heads,
    use_linear_projection: read.boolean("use_linear_projection", false),
    flip_sin_to_cos: read.boolean("flip_sin_to_cos", true),
    freq_shift: read.number("freq_shift", 0),
    norm_num_groups: groups,
    norm_eps: read.atLeastZero("norm_eps", 1e-5),
    downsample_padding: read.atLeastZero("downsample_padding", 1),
    mid_block_scale_factor: read.number("mid_block_scale_factor", 1),
    addition_embed_type: addition === "none" ? null : addition,
    addition_time_embed_dim: addition === "none" ? null : read.count("addition_time_embed_dim"),
    projection_class_embeddings_input_dim: addition === "none"
      ? null
      : read.count("projection_class_embeddings_input_dim"),
  };
}

/**
 * Reads a VAE's configuration.
 *
 * @param json The parsed file.
 * @param source The file's name, for messages.
 * @throws {Error} For a missing key or an unknown block type.
 */
export function vaeConfig(json: Json, source = "the VAE's configuration"): VaeConfig {
  const read = new Reader(json, source);
  read.refuse("act_fn", ["silu", "swish"]);
  const channels = read.counts("block_out_channels");
  const groups = read.count("norm_num_groups", 32);
  for (const width of channels) read.divides("norm_num_groups", groups, width);
  return {
    ...json,
    in_channels: read.count("in_channels", 3),
    out_channels: read.count("out_channels", 3),
    down_block_types: read.blockTypes("down_block_types", ["DownEncoderBlock2D"], channels.length),
    up_block_types: read.blockTypes("up_block_types", ["UpDecoderBlock2D"], channels.length),
    block_out_channels: channels,
    layers_per_block: read.count("layers_per_block", undefined, MOST_LAYERS),
    latent_channels: read.count("latent_channels"),
    norm_num_groups: groups,
    scaling_factor: read.number("scaling_factor", 0.18215),
    shift_factor: read.optionalNumber("shift_factor"),
    use_quant_conv: read.boolean("use_quant_conv", true),
    use_post_quant_conv: read.boolean("use_post_quant_conv", true),
    mid_block_add_attention: read.boolean("mid_block_add_attention", true),
  };
}

function clipTower(read: Reader, projection: number | undefined): ClipTowerConfig {
  const width = read.count("hidden_size");
  const heads = read.count("num_attention_heads");
  read.divides("num_attention_heads", heads, width);
  return {
    hidden_size: width,
    intermediate_size: read.count("intermediate_size"),
    num_hidden_layers: read.count("num_hidden_layers", undefined, MOST_LAYERS),
    num_attention_heads: heads,
    hidden_act: read.string("hidden_act", "quick_gelu"),
    layer_norm_eps: read.atLeastZero("layer_norm_eps", 1e-5),
    projection_dim: projection ?? read.count("projection_dim", 512),
  };
}

/** Whether the architecture that the file names has a projection. */
function projects({ json, source }: Reader, fallback: boolean): boolean {
  if (typeof json.with_projection === "boolean") return json.with_projection;
  const names = json.architectures ?? [];
  if (!Array.isArray(names) || !names.every((name) => typeof name === "string")) {
    throw new Error(
      `${source}: "architectures" is ${JSON.stringify(names)}; expected a list of class names`,
    );
  }
  return names[0]?.endsWith("WithProjection") ?? fallback;
}

/**
 * Reads a CLIP text tower's configuration. Whether it ends in a projection is read from
 * `architectures`, as transformers does.
 *
 * @param json The parsed file.
 * @param source The file's name, for messages.
 * @throws {Error} For a missing key.
 */
export function clipTextConfig(
  json: Json,
  source = "the text model's configuration",
): ClipTextConfig {
  const read = new Reader(json, source);
  return textTower(read, undefined, projects(read, false));
}

function textTower(
  read: Reader,
  projection: number | undefined,
  withProjection: boolean,
): ClipTextConfig {
  return {
    ...read.json,
    ...clipTower(read, projection),
    vocab_size: read.count("vocab_size", 49408),
    max_position_embeddings: read.count("max_position_embeddings", 77),
    eos_token_id: read.atLeastZero("eos_token_id", 49407),
    with_projection: withProjection,
  };
}

/**
 * Reads a CLIP vision tower's configuration. Whether it ends in a projection is read from
 * `architectures`, as transformers does.
 *
 * @param json The parsed file.
 * @param source The file's name, for messages.
 * @throws {Error} For a missing key.
 */
export function clipVisionConfig(
  json: Json,
  source = "the vision model's configuration",
): ClipVisionConfig {
  const read = new Reader(json, source);
  return visionTower(read, undefined, projects(read, false));
}

function visionTower(
  read: Reader,
  projection: number | undefined,
  withProjection: boolean,
): ClipVisionConfig {
  return {
    ...read.json,
    ...clipTower(read, projection),
    image_size: read.count("image_size", 224),
    patch_size: read.count("patch_size", 32),
    num_channels: read.count("num_channels", 3),
    with_projection: withProjection,
  };
}

/** The towers' sizes in CLIP ViT-B/32, which `CLIPModel` configurations may leave out. */
const TEXT_DEFAULTS = {
  hidden_size: 512,
  intermediate_size: 2048,
  num_hidden_layers: 12,
  num_attention_heads: 8,
};
const VISION_DEFAULTS = {
  hidden_size: 768,
  intermediate_size: 3072,
  num_hidden_layers: 12,
  num_attention_heads: 12,
};

/**
 * Reads the configuration of a whole CLIP (`CLIPModel`).
 *
 * @param json The parsed file.
 * @param source The file's name, for messages.
 * @throws {Error} For a missing key.
 */
export function clipConfig(json: Json, source = "the CLIP model's configuration"): ClipConfig {
  const read = new Reader(json, source);
  const projection = read.count("projection_dim", 512);
  const part = (key: string, defaults: Json) => {
    const value = json[key];
    if (!isJson(value)) {
      throw new Error(`${source} has no key "${key}": it is not a CLIP model's configuration`);
    }
    return new Reader({ ...defaults, ...value }, `${source}: ${key}`);
  };
  return {
    ...json,
    projection_dim: projection,
    logit_scale_init_value: read.number("logit_scale_init_value", 2.6592),
    text_config: textTower(part("text_config", TEXT_DEFAULTS), projection, true),
    vision_config: visionTower(part("vision_config", VISION_DEFAULTS), projection, true),
  };
}

/** Strings, which are left alone, and the numbers that Python's `json` writes and JSON lacks. */
const PYTHON_NUMBERS = /"(?:[^"\\]|\\.)*"?|(-?)Infinity|NaN/g;

/** JSON, or what Python takes for it: diffusers writes `-Infinity` into schedulers' files. */
function parseJson(text: string): Json {
  return JSON.parse(text.replace(PYTHON_NUMBERS, (found, sign) => {
    if (found[0] === '"') return found;
    // Too large a number is read as infinite.
    return found === "NaN" ? "null" : `${sign}1e999`;
  }));
}

/**
 * Reads a JSON file that holds an object.
 *
 * @throws {Error} When it is missing, not JSON or not an object, with its name.
 */
export async function readJson(path: string): Promise<Json> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`no such file: ${path}`);
  }
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`, { cause: error });
  }
  if (!isJson(value)) throw new Error(`${path} is not a JSON object`);
  return value;
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
