/**
 * Full-size U-Nets with random weights: what shows, where no pretrained weights are at hand, that
 * a real model fits, what a training step of it takes, and that it computes what diffusers does.
 *
 * @module
 */
import { type Json, type UNetConfig, unetConfig } from "../diffusion/config.ts";
import type { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import { unet, unetParameters } from "../diffusion/unet.ts";
import { writeWhole } from "../experiments/run.ts";
import { initialise, type Parameter } from "../nn/init.ts";
import { type SafetensorsTensor, writeSafetensors } from "../nn/safetensors.ts";
import type { Weights } from "../nn/weights.ts";
import { pairsInMemory, train, type TrainingMemory } from "../preference/mod.ts";
import { encodeF16, jit, randomNormal, stream, type Tensor, tensor } from "../tensor/mod.ts";

/** The architectures, as their `unet/config.json` has them. */
export const fullSizes = {
  sd15: {
    act_fn: "silu",
    attention_head_dim: 8,
    block_out_channels: [320, 640, 1280, 1280],
    cross_attention_dim: 768,
    down_block_types: [
      ...["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
      "DownBlock2D",
    ],
    in_channels: 4,
    layers_per_block: 2,
    out_channels: 4,
    sample_size: 64,
    up_block_types: [
      "UpBlock2D",
      ...["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    ],
  },
  sdxl: {
    act_fn: "silu",
    addition_embed_type: "text_time",
    addition_time_embed_dim: 256,
    attention_head_dim: [5, 10, 20],
    block_out_channels: [320, 640, 1280],
    cross_attention_dim: 2048,
    down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    in_channels: 4,
    layers_per_block: 2,
    out_channels: 4,
    projection_class_embeddings_input_dim: 2816,
    sample_size: 128,
    transformer_layers_per_block: [1, 2, 10],
    up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    use_linear_projection: true,
  },
} as const satisfies Record<string, Json>;

/** An architecture's name. */
export type FullSize = keyof typeof fullSizes;

/** Tokens of a prompt. */
const TOKENS = 77;
/** Numbers of SDXL's pooled prompt embedding: beside it the U-Net takes six embedded sizes. */
const pooledWidth = (config: UNetConfig) =>
  config.projection_class_embeddings_input_dim! - 6 * config.addition_time_embed_dim!;

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** What a U-Net's weights take in 16 bits. */
export function weightBytes(model: FullSize): number {
  const parameters = unetParameters(unetConfig(fullSizes[model]));
  return 2 * parameters.reduce((sum, { shape }) => sum + product(shape), 0);
}

/**
 * Writes a U-Net folder in diffusers' layout, weights in 16 bits, drawn one tensor at a time.
 *
 * @param folder Made if it is missing; replaced if it is of another model.
 * @param json The configuration.
 * @param onProgress Told of parameters written, of how many.
 */
export async function writeRandomUNet(
  folder: string,
  json: Json,
  onProgress?: (done: number, total: number) => void,
): Promise<void> {
  const parameters = unetParameters(unetConfig(json));
  const total = parameters.reduce((sum, { shape }) => sum + product(shape), 0);
  let done = 0;
  const entry = (p: Parameter): [string, SafetensorsTensor] => {
    // Random numbers have no order, so they are drawn in the file's.
    const [kh, kw, i, o] = p.shape;
    const shape = p.shape.length === 4 ? [o!, i!, kh!, kw!] : p.shape;
    const data = async () => {
      const values = await initialise([p], 0).get(p.name)!.data() as Float32Array<ArrayBuffer>;
      onProgress?.(done += values.length, total);
      return encodeF16(values);
    };
    return [p.name, { dtype: "F16", shape, data }];
  };
  await Deno.mkdir(folder, { recursive: true });
  await writeSafetensors(
    `${folder}/diffusion_pytorch_model.safetensors`,
    new Map(parameters.map(entry)),
    { format: "pt" },
  );
  const config = { _class_name: "UNet2DConditionModel", ...json };
  await writeWhole(`${folder}/config.json`, JSON.stringify(config, null, 2) + "\n");
}

/** A U-Net that was loaded. */
export interface LoadedUNet {
  readonly weights: Weights;
  readonly config: UNetConfig;
}

/** Standard normal numbers, the same for every run. */
const normal = (name: string, shape: readonly number[]) =>
  randomNormal({ seed: 0, stream: stream(`full-size.${name}`), step: 0 }, shape);

/** What the forward pass is given, in the in-memory layout: arrays by name, with their shapes. */
export function forwardInputs(config: UNetConfig, pixels: number) {
  const side = pixels / 8;
  const of = (name: string, shape: readonly number[]) => ({ shape, data: normal(name, shape) });
  const width = config.cross_attention_dim as number;
  return {
    sample: of("sample", [1, side, side, config.in_channels]),
    timestep: { shape: [1], data: Float32Array.of(500) },
    context: of("context", [1, TOKENS, width]),
    ...config.addition_embed_type === "text_time" && {
      textEmbeds: of("pooled", [1, pooledWidth(config)]),
      timeIds: { shape: [1, 6], data: Float32Array.of(pixels, pixels, 0, 0, pixels, pixels) },
    },
  };
}

/** One forward pass of one image: its output [1, h, w, channels] and the best time of two. */
export async function forward(
  { weights, config }: LoadedUNet,
  pixels: number,
): Promise<{ output: Float32Array; seconds: number }> {
  const inputs = Object.fromEntries(
    Object.entries(forwardInputs(config, pixels))
      .map(([name, { shape, data }]) => [name, tensor(data, shape)]),
  );
  const run = jit((state: Record<never, Tensor>, given: Record<string, Tensor>) => {
    const { sample, timestep, context, textEmbeds, timeIds } = given;
    const added = textEmbeds && { textEmbeds, timeIds: timeIds! };
    const output = unet(weights, config, {
      ...{ sample: sample!, timestep: timestep!, context: context! },
      added,
    });
    return { state, result: { output } };
  });
  try {
    let seconds = Infinity;
    let values = new Float32Array();
    for (let i = 0; i < 2; i++) {
      const start = performance.now();
      const { output } = await run({}, inputs);
      values = await output.data() as Float32Array<ArrayBuffer>;
      seconds = Math.min(seconds, (performance.now() - start) / 1000);
      output.dispose();
    }
    return { output: values, seconds };
  } finally {
    run.dispose();
  }
}

/** What NCP-DPO steps took. */
export interface StepCost {
  readonly memory: TrainingMemory;
  /** Of each step; the first compiles. */
  readonly seconds: readonly number[];
  readonly loss: number;
}

/**
 * Steps of NCP-DPO as the released scripts take them (LoRA of rank 64 on attention, AdamW in 8 bits,
 * blocks computed again) on one pair of random latents, by the trainer itself.
 *
 * @param run A folder for the trainer's files.
 */
export async function ncpDpoSteps(
  { weights, config }: LoadedUNet,
  schedule: NoiseSchedule,
  pixels: number,
  steps: number,
  run: string,
  onStep?: (done: number) => void,
): Promise<StepCost> {
  const side = pixels / 8;
  const latentShape = [side, side, config.in_channels] as const;
  const width = config.cross_attention_dim as number;
  const pairs = pairsInMemory({
    latents: normal("latents", [2, ...latentShape]),
    latentShape,
    contexts: normal("contexts", [1, TOKENS, width]),
    contextShape: [TOKENS, width],
    pairs: [{ winner: 0, loser: 1, prompt: 0 }],
    ...config.addition_embed_type === "text_time" &&
      { pooled: normal("pooled", [1, pooledWidth(config)]), size: [pixels, pixels] as const },
  });
  let memory: TrainingMemory | undefined;
  const { metrics } = await train({
    ...{ base: weights, config, schedule, pairs, runDirectory: run },
    options: {
      method: "ncp-dpo",
      ...{ steps, batch: 1, warmup: 0, learningRate: 2.048e-5, beta: 2500 },
      ...{ rank: 64, targets: "attention", optimizer: "adamw8bit", recompute: true },
      ...{ logEvery: 1, checkpointEvery: steps },
    },
    onMemory: (found) => memory = found,
    onProgress: ({ step }) => onStep?.(step),
  });
  const ends = metrics.map(({ seconds }) => seconds);
  return {
    memory: memory!,
    seconds: ends.map((end, i) => end - (ends[i - 1] ?? 0)),
    loss: metrics.at(-1)!.loss,
  };
}
