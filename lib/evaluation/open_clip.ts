/**
 * CLIP as open_clip has it, such as HPSv2: the same model as transformers' `CLIPModel`, but checkpoints
 * (`.pt` files) have other names, the queries, keys and values of an attention in one tensor and both
 * projections transposed, and prompts are cleaned before and padded differently.
 *
 * @module
 */
import { clipParameters } from "../diffusion/clip.ts";
import type { ClipConfig, Json } from "../diffusion/config.ts";
import type { ClipTokenizer, TokenBatch } from "../diffusion/tokenizer.ts";
import { openTorchCheckpoint } from "../nn/torch_checkpoint.ts";
import { Weights, type WeightsDType } from "../nn/weights.ts";
import { decodeF16, encodeF16 } from "../tensor/f16.ts";
import { realize, type Shape, type Tensor, tensor } from "../tensor/mod.ts";

/** The sizes of ViT-H/14, which PickScore and HPSv2 have, as transformers writes them. */
export const VIT_H_14: Json = {
  projection_dim: 1024,
  logit_scale_init_value: 2.6592,
  text_config: {
    hidden_size: 1024,
    intermediate_size: 4096,
    num_hidden_layers: 24,
    num_attention_heads: 16,
    vocab_size: 49408,
    max_position_embeddings: 77,
    hidden_act: "gelu",
    // The end of a prompt is the highest id in it.
    eos_token_id: 2,
  },
  vision_config: {
    hidden_size: 1280,
    intermediate_size: 5120,
    num_hidden_layers: 32,
    num_attention_heads: 16,
    image_size: 224,
    patch_size: 14,
    hidden_act: "gelu",
  },
};

/** Where a tensor of transformers' `CLIPModel` lies in an open_clip checkpoint. */
export interface OpenClipSource {
  /** open_clip's name. */
  readonly name: string;
  /** Which third of the rows it is: queries, keys or values. */
  readonly third?: 0 | 1 | 2;
  readonly transposed?: boolean;
}

/** Whole names, but for the `weight` and `bias` of norms. */
const RENAMED: Readonly<Record<string, OpenClipSource>> = {
  "logit_scale": { name: "logit_scale" },
  "text_projection.weight": { name: "text_projection", transposed: true },
  "visual_projection.weight": { name: "visual.proj", transposed: true },
  "text_model.embeddings.token_embedding.weight": { name: "token_embedding.weight" },
  "text_model.embeddings.position_embedding.weight": { name: "positional_embedding" },
  "text_model.final_layer_norm.weight": { name: "ln_final.weight" },
  "text_model.final_layer_norm.bias": { name: "ln_final.bias" },
  "vision_model.embeddings.class_embedding": { name: "visual.class_embedding" },
  "vision_model.embeddings.patch_embedding.weight": { name: "visual.conv1.weight" },
  "vision_model.embeddings.position_embedding.weight": { name: "visual.positional_embedding" },
  "vision_model.pre_layrnorm.weight": { name: "visual.ln_pre.weight" },
  "vision_model.pre_layrnorm.bias": { name: "visual.ln_pre.bias" },
  "vision_model.post_layernorm.weight": { name: "visual.ln_post.weight" },
  "vision_model.post_layernorm.bias": { name: "visual.ln_post.bias" },
};

/** The parts of a layer. */
const LAYER_PARTS: Readonly<Record<string, { name: string; third?: 0 | 1 | 2 }>> = {
  "layer_norm1.": { name: "ln_1." },
  "layer_norm2.": { name: "ln_2." },
  "mlp.fc1.": { name: "mlp.c_fc." },
  "mlp.fc2.": { name: "mlp.c_proj." },
  "self_attn.q_proj.": { name: "attn.in_proj_", third: 0 },
  "self_attn.k_proj.": { name: "attn.in_proj_", third: 1 },
  "self_attn.v_proj.": { name: "attn.in_proj_", third: 2 },
  "self_attn.out_proj.": { name: "attn.out_proj." },
};

/**
 * Finds a parameter's place in an open_clip checkpoint.
 *
 * @param name A name of {@linkcode clipParameters}.
 * @throws {RangeError} For a name that is no CLIP's.
 */
export function openClipSource(name: string): OpenClipSource {
  if (Object.hasOwn(RENAMED, name)) return RENAMED[name]!;
  const layer = /^(text|vision)_model\.encoder\.layers\.(\d+)\.(.+\.)(weight|bias)$/.exec(name);
  const part = layer && LAYER_PARTS[layer[3]!];
  if (!layer || !part) throw new RangeError(`CLIP has no parameter "${name}"`);
  const tower = layer[1] === "vision" ? "visual." : "";
  return { ...part, name: `${tower}transformer.resblocks.${layer[2]}.${part.name}${layer[4]}` };
}

/**
 * Loads an open_clip checkpoint under transformers' names. Names and shapes are checked before a tensor
 * is read; tensors are read one at a time and go to the current device. What the model does not need
 * is let be.
 *
 * @param path A file of `torch.save`: HPSv2's, or any with open_clip's state dictionary.
 * @param config The model's sizes.
 * @param dtype How tensors are held; `logit_scale`, of which an exponential is taken, is always f32.
 * @throws {Error} If the file is not such a checkpoint or does not fit the configuration, with its name
 * and the tensor's.
 */
export async function loadOpenClip(
  path: string,
  config: ClipConfig,
  dtype: WeightsDType = "stored",
): Promise<Weights> {
  const file = await openTorchCheckpoint(path);
  const wanted = clipParameters(config).map(({ name, shape }) => {
    const source = openClipSource(name);
    const expected = sourceShape(shape, source);
    const found = file.entries.get(source.name)?.shape;
    if (!found) {
      throw new Error(
        `${path} has no tensor "${source.name}" (${name} in transformers), so it is no CLIP of open_clip ` +
          `with ${config.vision_config.num_hidden_layers} vision and ` +
          `${config.text_config.num_hidden_layers} text layers`,
      );
    }
    if (found.join() !== expected.join()) {
      throw new Error(
        `${path}: tensor "${source.name}" has the shape [${
          found.join(", ")
        }]; the configuration gives ` +
          `[${
            expected.join(", ")
          }]: put the config.json of this model (transformers' CLIPModel) beside it`,
      );
    }
    return { name, shape, source };
  });
  const tensors = new Map<string, Tensor>();
  for (const parts of Map.groupBy(wanted, ({ source }) => source.name).values()) {
    const whole = await file.read(parts[0]!.source.name);
    for (const { name, shape, source } of parts) {
      const data = placed(whole, shape, source);
      const loaded = held(data, shape, name === "logit_scale" ? "f32" : dtype);
      // On the device before the next one is read: the host never holds more than one tensor.
      await realize(loaded);
      tensors.set(name, loaded);
    }
  }
  return new Weights(tensors, { source: path });
}

type Elements = Float32Array | Uint16Array;

/** The shape in the file of a tensor that has this shape in memory. */
function sourceShape(shape: Shape, { third, transposed }: OpenClipSource): Shape {
  if (shape.length === 4) {
    const [h, w, i, o] = shape as [number, number, number, number];
    return [o, i, h, w];
  }
  if (third !== undefined) return [3 * shape[0]!, ...shape.slice(1)];
  return transposed ? shape.toReversed() : shape;
}

/** A parameter's elements in the in-memory layout. */
function placed(whole: Elements, shape: Shape, { third, transposed }: OpenClipSource): Elements {
  if (third !== undefined) {
    const length = whole.length / 3;
    return whole.slice(third * length, (third + 1) * length);
  }
  if (shape.length === 4) {
    // [out, in, kh kw] to [in, kh kw, out] to [kh kw, in, out].
    const [h, w, i, o] = shape as [number, number, number, number];
    return transpose(transpose(whole, o, i * h * w), i, h * w, o);
  }
  return transposed ? transpose(whole, shape[1]!, shape[0]!) : whole;
}

/** [rows, columns, block] to [columns, rows, block]. */
function transpose(data: Elements, rows: number, columns: number, block = 1): Elements {
  const out = data.slice();
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      const from = (r * columns + c) * block;
      out.set(data.subarray(from, from + block), (c * rows + r) * block);
    }
  }
  return out;
}

function held(data: Elements, shape: Shape, dtype: WeightsDType): Tensor {
  if (data instanceof Uint16Array) {
    return dtype === "f32" ? tensor(decodeF16(data), shape) : tensor(data, shape, "f16");
  }
  return dtype === "f16" ? tensor(encodeF16(data), shape, "f16") : tensor(data, shape);
}

/**
 * Prompts as open_clip's tokenizer gives them: cleaned by {@linkcode cleanPrompt}, cut to the model's
 * length with the end token last, and padded with zeros after it.
 */
export function openClipTokens(tokenizer: ClipTokenizer, prompts: readonly string[]): TokenBatch {
  const batch = tokenizer.encodeBatch(prompts.map(cleanPrompt), "truncate");
  const { ids, length } = batch;
  for (let start = 0; start < ids.length; start += length) {
    const row = ids.subarray(start, start + length);
    // The end token has the highest id.
    row.fill(0, row.indexOf(row.reduce((a, b) => Math.max(a, b))) + 1);
  }
  return batch;
}

const ENTITIES: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0",
};

/**
 * A prompt as open_clip cleans it before it is tokenised: entities of HTML are undone, twice, and curly
 * quotes become straight. open_clip leaves this to Python's `html` and to ftfy, which know all names of
 * entities and also mend texts that were decoded by a wrong table; those stay as they are here.
 */
export function cleanPrompt(prompt: string): string {
  let text = prompt;
  for (let pass = 0; pass < 2; pass++) {
    text = text.replace(
      /&(?:#(\d+)|#x([\da-f]+)|(amp|lt|gt|quot|apos|nbsp));/gi,
      (whole, decimal, hex, name) => {
        if (name) return ENTITIES[name.toLowerCase()]!;
        const code = decimal ? parseInt(decimal, 10) : parseInt(hex, 16);
        return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
      },
    );
  }
  return text.replace(/[\u02bc\u2018-\u201b]/g, "'").replace(/[\u201c-\u201f]/g, '"');
}
