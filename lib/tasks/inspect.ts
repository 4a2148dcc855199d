/**
 * `deno task inspect`: what a checkpoint is, what is in it, and whether it fits this device. Reads
 * headers and configurations only, so that it answers at once whatever the size.
 *
 * @module
 */
import {
  clipConfig,
  clipParameters,
  type Json,
  loadTokenizers,
  openPipeline,
  type PerBlock,
  type PipelineFiles,
  readJson,
  textClass,
} from "../diffusion/mod.ts";
import {
  heldBytes,
  openSafetensors,
  openTorchCheckpoint,
  openWeights,
  type SafetensorsFile,
  selectParameters,
  type StoredTensor,
  type StoredWeights,
  type TorchCheckpoint,
} from "../nn/mod.ts";
import { plainTable } from "../notebook/plain_table.ts";
import { type Backend, byteSize } from "../tensor/mod.ts";
import { useDevice } from "./device.ts";
import { deviceOption } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "inspect",
  summary: "Show what a checkpoint is, its parts and sizes, and whether it fits this device.",
  positionals: [{
    name: "path",
    description:
      "a model (folder in diffusers' layout, or single .safetensors file), a LoRA, or a " +
      "scorer (CLIP folder, or .pt file)",
  }],
  options: { device: deviceOption },
  examples: [
    "deno task inspect data/nano/weak",
    "deno task inspect models/sd_xl_base_1.0.safetensors --device cpu",
  ],
};

/** What is to be known of a device. */
type Device = Pick<Backend, "name" | "description" | "capacity" | "largestBuffer">;

/** One row of the table: a part of what is inspected. */
interface Part {
  readonly name: string;
  readonly className: string;
  readonly stored: StoredWeights;
}

/**
 * Describes a checkpoint.
 *
 * @param path A pipeline's folder or file, a LoRA's file or folder, or a CLIP's folder.
 * @param device What its weights would be held on.
 * @returns Lines of text.
 * @throws {Error} Naming the file and what is wrong with it, or if it is none of these.
 */
export async function inspect(path: string, device: Device): Promise<string> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (cause) {
    throw new UserError(`${path}: ${(cause as Error).message}`, { cause });
  }
  if (info.isFile) {
    if (/\.(pt|pth)$/.test(path)) return describeTorch(await openTorchCheckpoint(path));
    if (!path.endsWith(".safetensors")) return await describePipeline(path, device);
    const file = await openSafetensors(path);
    return isLora(file) ? describeLora(file) : await describePipeline(path, device);
  }
  const names = new Set<string>();
  for await (const { name } of Deno.readDir(path)) names.add(name);
  if (names.has("model_index.json")) return await describePipeline(path, device);
  const lora = "pytorch_lora_weights.safetensors";
  if (names.has(lora)) return describeLora(await openSafetensors(`${path}/${lora}`));
  if (names.has("config.json")) {
    const json = await readJson(`${path}/config.json`);
    if ("text_config" in json && "vision_config" in json) {
      return await describeClip(path, json, device);
    }
  }
  throw new UserError(
    `${path} is no model: expected a folder with model_index.json (diffusers' layout), ` +
      `${lora}, or a CLIP's config.json; a single file is given by its own name`,
  );
}

async function describePipeline(path: string, device: Device): Promise<string> {
  const files = await openPipeline(path);
  const { unet, vae, textEncoders, layout, unread } = files;
  const parts: Part[] = [
    { name: "unet", className: "UNet2DConditionModel", stored: unet.stored },
    { name: "vae", className: "AutoencoderKL", stored: vae.stored },
    ...textEncoders.map(({ config, stored }, i) => ({
      name: i === 0 ? "text_encoder" : `text_encoder_${i + 1}`,
      className: textClass(config),
      stored,
    })),
  ];
  const kind = textEncoders.length === 2
    ? "Stable Diffusion XL"
    : unet.config.cross_attention_dim === 1024
    ? "Stable Diffusion 2"
    : "Stable Diffusion 1.5";
  const form = layout === "ldm"
    ? "as a single file in the original layout"
    : "as a folder in diffusers' layout";
  return [
    `${path}: a model of ${kind}'s architecture, ${form}`,
    partTable(parts),
    list([...configLines(files), ["tokenizer", await tokenizerLine(files)]]),
    ...(unread.length > 0
      ? [
        `${count(unread.length)} tensors of the file are of no part and left alone, such as ${
          unread[0]
        }`,
      ]
      : []),
    fit(parts, device),
  ].join("\n\n");
}

function configLines({ unet, vae, textEncoders, schedule }: PipelineFiles): [string, string][] {
  const { config } = unet;
  const { json } = schedule;
  return [
    [
      "unet",
      `channels ${each(config.block_out_channels)}, layers per block ` +
      `${each(config.layers_per_block)}, heads ${each(config.attention_head_dim)}, transformer ` +
      `depth ${each(config.transformer_layers_per_block)}, cross-attention width ` +
      `${each(config.cross_attention_dim)}, sample size ${config.sample_size ?? "not told"}`,
    ],
    [
      "vae",
      `channels ${each(vae.config.block_out_channels)}, latent channels ` +
      `${vae.config.latent_channels}, scaling factor ${vae.config.scaling_factor}`,
    ],
    ...textEncoders.map(({ config }, i): [string, string] => [
      i === 0 ? "text_encoder" : `text_encoder_${i + 1}`,
      `layers ${config.num_hidden_layers}, width ${config.hidden_size}, heads ` +
      `${config.num_attention_heads}, ${config.hidden_act}, positions ` +
      `${config.max_position_embeddings}, vocabulary ${count(config.vocab_size)}`,
    ]),
    [
      "scheduler",
      `${json._class_name ?? "class not told"}, prediction type ${schedule.predictionType}, ` +
      `timesteps ${schedule.trainTimesteps}, betas ${json.beta_schedule ?? "linear"} from ` +
      `${json.beta_start ?? 0.0001} to ${json.beta_end ?? 0.02}`,
    ],
  ];
}

async function tokenizerLine(files: PipelineFiles): Promise<string> {
  try {
    const [tokenizer] = await loadTokenizers(files);
    return `${count(Object.keys(tokenizer!.files.vocab).length)} tokens`;
  } catch (error) {
    return `missing: ${(error as Error).message}`;
  }
}

async function describeClip(path: string, json: Json, device: Device): Promise<string> {
  const config = clipConfig(json, `${path}/config.json`);
  const { text_config: text, vision_config: vision } = config;
  // Versions of transformers differ in which tables of 0, 1, 2, ... they save.
  const stored = selectParameters(await openWeights(path), clipParameters(config), /position_ids$/);
  const parts = [{ name: "model", className: "CLIPModel", stored }];
  return [
    `${path}: a CLIP, which scores images against prompts`,
    partTable(parts),
    list([
      ["text", `layers ${text.num_hidden_layers}, width ${text.hidden_size}`],
      [
        "vision",
        `layers ${vision.num_hidden_layers}, width ${vision.hidden_size}, image size ` +
        `${vision.image_size}, patch size ${vision.patch_size}`,
      ],
      ["both", `projection to ${config.projection_dim} dimensions`],
    ]),
    fit(parts, device),
  ].join("\n\n");
}

/** What a checkpoint of PyTorch holds, found out without running its pickle. */
function describeTorch({ path, entries }: TorchCheckpoint): string {
  const tensors = [...entries.values()];
  const openClip = entries.has("visual.conv1.weight") && entries.has("token_embedding.weight");
  return [
    `${path}: ` +
    (openClip
      ? "a checkpoint of open_clip, which scores images against prompts"
      : "a checkpoint of PyTorch; the scorers' would have open_clip's names, a model is to be " +
        "saved as safetensors"),
    list([
      ["tensors", count(tensors.length)],
      ["parameters", millions(sum(tensors, elements))],
      ["stored as", [...new Set(tensors.map(({ dtype }) => dtype))].sort().join(", ")],
    ]),
  ].join("\n\n");
}

/** The lower half of a layer's update, by naming scheme: what stands before it names the layer. */
const LORA_SCHEMES = [
  ["diffusers' (lora.down, lora.up)", ".lora.down.weight"],
  ["peft's (lora_A, lora_B)", ".lora_A.weight"],
  ["kohya's (lora_down, lora_up)", ".lora_down.weight"],
] as const;

const isLora = ({ entries }: SafetensorsFile) =>
  entries.keys().some((name) => LORA_SCHEMES.some(([, end]) => name.endsWith(end)));

function describeLora({ path, entries, metadata }: SafetensorsFile): string {
  const layers = [...entries].flatMap(([name, { shape }]) => {
    const scheme = LORA_SCHEMES.find(([, end]) => name.endsWith(end));
    if (!scheme) return [];
    return [{ scheme: scheme[0], module: name.slice(0, -scheme[1].length), rank: shape[0] ?? 0 }];
  });
  const different = <T>(values: T[]) => [...new Set(values)];
  const inText = layers.filter(({ module }) => /^(text_encoder|te\d?\.|lora_te)/.test(module));
  const ends = layers.filter(({ module }) => module.includes("."))
    .map(({ module }) => /[^.]+(\.\d+|\.\d+\.proj)?$/.exec(module)![0]);
  return [
    `${path}: a LoRA`,
    list([
      ["names", different(layers.map(({ scheme }) => scheme)).join(" and ")],
      ["rank", different(layers.map(({ rank }) => rank)).sort((a, b) => a - b).join(", ")],
      ["alpha", loraAlpha(metadata, entries.keys().some((name) => name.endsWith(".alpha")))],
      [
        "layers",
        `${layers.length - inText.length} of the U-Net` +
        (inText.length > 0 ? ` and ${inText.length} of the text encoders` : "") +
        (ends.length > 0 ? `: ${different(ends).join(", ")}` : ""),
      ],
      ["parameters", millions(entries.values().reduce((sum, e) => sum + elements(e), 0))],
      ["stored as", different([...entries.values()].map(({ dtype }) => dtype)).join(", ")],
      ["size", byteSize(entries.values().reduce((sum, { byteLength }) => sum + byteLength, 0))],
    ]),
  ].join("\n\n");
}

function loraAlpha(metadata: Readonly<Record<string, string>>, perLayer: boolean): string {
  if (perLayer) return "told for each layer by a tensor";
  const unsaid = "not told, so that the scale is 1";
  const adapter = metadata.lora_adapter_metadata;
  if (adapter === undefined) return unsaid;
  try {
    const { "unet.lora_alpha": alpha } = JSON.parse(adapter) ?? {};
    return alpha === undefined ? unsaid : JSON.stringify(alpha);
  } catch {
    return '"lora_adapter_metadata" is not JSON';
  }
}

/** A table of parts with their sum. */
function partTable(parts: readonly Part[]): string {
  const row = (name: string, className: string, tensors: readonly StoredTensor[]) => [
    name,
    className,
    millions(sum(tensors, elements)),
    count(tensors.length),
    [...new Set(tensors.map(({ dtype }) => dtype))].sort().join(", "),
    byteSize(sum(tensors, ({ byteLength }) => byteLength)),
    byteSize(sum(tensors, held)),
  ];
  const tensorsOf = ({ stored }: Part) => [...stored.tensors.values()];
  return plainTable([
    ["part", "class", "parameters", "tensors", "stored as", "on disk", "on the device"],
    ...parts.map((part) => row(part.name, part.className, tensorsOf(part))),
    ...(parts.length > 1 ? [row("all", "", parts.flatMap(tensorsOf))] : []),
  ], [false, false, true, true, false, true, true]);
}

/** One sentence: whether the weights fit. */
function fit(parts: readonly Part[], device: Device): string {
  const tensors = parts.flatMap(({ stored }) => [...stored.tensors.values()]);
  const all = sum(tensors, held);
  const largest = Math.max(...tensors.map(held));
  const { capacity, largestBuffer } = device;
  const place = `the ${device.name} device (${device.description})`;
  if (largest > largestBuffer) {
    const tensor = tensors.find((t) => held(t) === largest)!;
    return `It does not fit ${place}: tensor "${tensor.name}" takes ${byteSize(largest)}, and ` +
      `one buffer holds at most ${byteSize(largestBuffer)}.`;
  }
  if (capacity === undefined) {
    return `Every tensor fits ${place}: the largest takes ${byteSize(largest)}, and one buffer ` +
      `holds ${
        byteSize(largestBuffer)
      }. How much it holds in all it does not tell; the weights take ` +
      `${byteSize(all)}.`;
  }
  if (all > capacity) {
    return `It does not fit ${place}: the weights take ${byteSize(all)}, and the device holds ` +
      `at most ${byteSize(capacity)}.`;
  }
  return `It fits ${place}: of the ${byteSize(capacity)} that the device holds, the weights ` +
    `take ${byteSize(all)} and leave ${byteSize(capacity - all)} for intermediate values.`;
}

const sum = <T>(values: readonly T[], of: (value: T) => number) =>
  values.reduce((total, value) => total + of(value), 0);

const elements = ({ shape }: { readonly shape: readonly number[] }) =>
  shape.reduce((a, b) => a * b, 1);

const held = (tensor: StoredTensor) => heldBytes(tensor);

const each = (values: PerBlock) => typeof values === "number" ? `${values}` : values.join("/");

const count = (n: number) => n.toLocaleString("en");

const millions = (n: number) => n < 1e5 ? count(n) : `${(n / 1e6).toFixed(1)} M`;

const list = (rows: readonly (readonly [string, string])[]) => plainTable(rows, [false, false]);

if (import.meta.main) {
  await runCommand(command, async ({ options, positionals }) => {
    console.log(await inspect(positionals[0]!, await useDevice(options.device)));
  });
}
