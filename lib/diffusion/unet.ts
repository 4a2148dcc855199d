/**
 * The denoising U-Net, `UNet2DConditionModel` of Stable Diffusion 1.5 and XL, as a pure function of
 * weights, configuration and inputs. Its down path alone is the noise-conditioned perceptual encoder.
 *
 * @module
 */
import { concat, type Tensor } from "../tensor/mod.ts";
import { silu } from "../nn/activation.ts";
import { conv } from "../nn/conv.ts";
import { timestepEmbedding } from "../nn/embedding.ts";
import {
  convParameters,
  initialise,
  linearParameters,
  normParameters,
  type Parameter,
} from "../nn/init.ts";
import { linear } from "../nn/linear.ts";
import { groupNorm } from "../nn/norm.ts";
import { plainly, recomputed } from "../nn/recompute.ts";
import type { Weights } from "../nn/weights.ts";
import { ofBlock, type UNetConfig } from "./config.ts";
import {
  downsample,
  resampleParameters,
  resnetBlock,
  resnetParameters,
  upsample,
} from "./resnet.ts";
import { transformer2d, type TransformerOptions, transformerParameters } from "./transformer.ts";

/** What a U-Net looks at. */
export interface UNetInputs {
  /** Noisy latents [N, h, w, in_channels]. */
  readonly sample: Tensor;
  /** Timesteps f32 [N]. */
  readonly timestep: Tensor;
  /** The prompt's hidden states [N, L, cross_attention_dim]. */
  readonly context: Tensor;
  /** SDXL's additional conditioning (`addition_embed_type` "text_time"). */
  readonly added?: AddedConditions | undefined;
}

/** SDXL's additional conditioning. */
export interface AddedConditions {
  /** Pooled and projected prompt embedding [N, P]. */
  readonly textEmbeds: Tensor;
  /** Original height and width, crop top and left, target height and width: f32 [N, 6]. */
  readonly timeIds: Tensor;
}

/** How a U-Net is run. */
export interface UNetOptions {
  /**
   * Whether a backward pass computes each ResNet and transformer block again, so that between blocks
   * only their inputs are kept: about a third more work for a fraction of the memory. Default false.
   */
  readonly recompute?: boolean | undefined;
}

/** What the down path and the middle of a U-Net see. */
export interface UNetFeatures {
  /** `conv_in`'s output, then that of every ResNet layer and downsampler: `down_block_res_samples`. */
  readonly levels: Tensor[];
  /** The last down block's output. */
  readonly last: Tensor;
  /** The mid block's output. */
  readonly mid: Tensor;
}

/** One block, with every choice that the configuration makes for it. */
interface Block {
  readonly name: string;
  /** Input and output channels of each ResNet layer. */
  readonly layers: readonly (readonly [number, number])[];
  /** The transformer after each layer (between layers in the middle), if there is one. */
  readonly transformer: TransformerOptions | undefined;
  readonly contextWidth: number;
  /** Whether the block ends in a downsampler or an upsampler. */
  readonly resample: boolean;
}

/** The blocks of a U-Net, worked out once for running, initialising and checking alike. */
function layout(config: UNetConfig): { down: Block[]; mid: Block; up: Block[] } {
  const channels = config.block_out_channels;
  const count = channels.length;
  const transformer = (block: number, depth: number): TransformerOptions => ({
    heads: ofBlock(config.attention_head_dim, block),
    depth,
    groups: config.norm_num_groups,
    linearProjection: config.use_linear_projection,
  });
  const depthOf = (block: number) => ofBlock(config.transformer_layers_per_block, block);

  const down = config.down_block_types.map((type, i): Block => {
    const inputs = channels[Math.max(i - 1, 0)]!, outputs = channels[i]!;
    const layers = ofBlock(config.layers_per_block, i);
    return {
      name: `down_blocks.${i}`,
      layers: Array.from(
        { length: layers },
        (_, j) => [j === 0 ? inputs : outputs, outputs],
      ),
      transformer: type === "CrossAttnDownBlock2D" ? transformer(i, depthOf(i)) : undefined,
      contextWidth: ofBlock(config.cross_attention_dim, i),
      resample: i < count - 1,
    };
  });

  const last = count - 1;
  const mid: Block = {
    name: "mid_block",
    layers: [[channels[last]!, channels[last]!], [channels[last]!, channels[last]!]],
    transformer: transformer(last, depthOf(last)),
    contextWidth: ofBlock(config.cross_attention_dim, last),
    resample: false,
  };

  const up = config.up_block_types.map((type, i): Block => {
    const block = last - i;
    const outputs = channels[block]!;
    const previous = channels[Math.min(block + 1, last)]!;
    const skip = channels[Math.max(block - 1, 0)]!;
    const layers = ofBlock(config.layers_per_block, block) + 1;
    const depth = config.reverse_transformer_layers_per_block?.[i] ?? depthOf(block);
    return {
      name: `up_blocks.${i}`,
      layers: Array.from({ length: layers }, (_, j) => [
        (j === 0 ? previous : outputs) + (j === layers - 1 ? skip : outputs),
        outputs,
      ]),
      transformer: type === "CrossAttnUpBlock2D" ? transformer(block, depth) : undefined,
      contextWidth: ofBlock(config.cross_attention_dim, block),
      resample: i < count - 1,
    };
  });
  return { down, mid, up };
}

/**
 * Predicts the noise (or v, by the schedule's prediction type).
 *
 * @param w The U-Net's weights, with or without a LoRA overlay.
 * @returns [N, h, w, out_channels]
 */
export function unet(
  w: Weights,
  config: UNetConfig,
  inputs: UNetInputs,
  options: UNetOptions = {},
): Tensor {
  const { up } = layout(config);
  const temb = timeEmbedding(w, config, inputs);
  const { levels, mid } = downPath(w, config, inputs, temb, options);
  const norm = { groups: config.norm_num_groups, eps: config.norm_eps };
  const run = options.recompute ? recomputed : plainly;

  const skips = [...levels];
  let x = mid;
  for (const block of up) {
    const blockW = w.at(block.name);
    for (let j = 0; j < block.layers.length; j++) {
      x = run(
        (x, skip, temb) => resnetBlock(blockW.at(`resnets.${j}`), concat([x, skip], 3), temb, norm),
        ...[x, skips.pop()!, temb] as const,
      );
      if (block.transformer) {
        const attentions = blockW.at(`attentions.${j}`);
        x = transformer2d(attentions, x, inputs.context, block.transformer, run);
      }
    }
    if (block.resample) {
      const [, height, width] = skips.at(-1)!.shape as [number, number, number];
      x = upsample(blockW.at("upsamplers.0"), x, [height, width]);
    }
  }
  x = silu(groupNorm(w.at("conv_norm_out"), x, norm));
  return conv(w.at("conv_out"), x, { padding: 1 });
}

/**
 * The down path and the middle: the encoder f of noise-conditioned perception. Nothing is lost by
 * asking for more than is used, since what nobody reads is never computed.
 *
 * @param w The U-Net's weights.
 */
export function unetDown(
  w: Weights,
  config: UNetConfig,
  inputs: UNetInputs,
  options: UNetOptions = {},
): UNetFeatures {
  return downPath(w, config, inputs, timeEmbedding(w, config, inputs), options);
}

function downPath(
  w: Weights,
  config: UNetConfig,
  { sample, context }: UNetInputs,
  temb: Tensor,
  { recompute }: UNetOptions,
): UNetFeatures {
  const { down, mid } = layout(config);
  const norm = { groups: config.norm_num_groups, eps: config.norm_eps };
  const run = recompute ? recomputed : plainly;
  const resnet = (w: Weights, x: Tensor, scale?: number) =>
    run((x, temb) => resnetBlock(w, x, temb, norm, scale), x, temb);

  let x = conv(w.at("conv_in"), sample, { padding: 1 });
  const levels = [x];
  for (const block of down) {
    const blockW = w.at(block.name);
    for (let j = 0; j < block.layers.length; j++) {
      x = resnet(blockW.at(`resnets.${j}`), x);
      if (block.transformer) {
        x = transformer2d(blockW.at(`attentions.${j}`), x, context, block.transformer, run);
      }
      levels.push(x);
    }
    if (block.resample) {
      x = downsample(blockW.at("downsamplers.0"), x, config.downsample_padding);
      levels.push(x);
    }
  }
  const last = x;

  const midW = w.at(mid.name);
  const scale = config.mid_block_scale_factor;
  x = resnet(midW.at("resnets.0"), x, scale);
  x = transformer2d(midW.at("attentions.0"), x, context, mid.transformer!, run);
  x = resnet(midW.at("resnets.1"), x, scale);
  return { levels, last, mid: x };
}

/** The time embedding after the SiLU that every ResNet block begins with, [N, 4 C]. */
function timeEmbedding(
  w: Weights,
  config: UNetConfig,
  { timestep, added }: UNetInputs,
): Tensor {
  const sinusoid = { flipSinToCos: config.flip_sin_to_cos, freqShift: config.freq_shift };
  const mlp = (part: Weights, x: Tensor) =>
    linear(part.at("linear_2"), silu(linear(part.at("linear_1"), x)));

  const time = timestepEmbedding(timestep, config.block_out_channels[0]!, sinusoid);
  let temb = mlp(w.at("time_embedding"), time);
  if (config.addition_embed_type === "text_time") {
    if (!added) {
      throw new Error(
        'this U-Net has "addition_embed_type" text_time: give it added.textEmbeds and added.timeIds',
      );
    }
    const width = config.addition_time_embed_dim!;
    const ids = timestepEmbedding(added.timeIds.reshape([-1]), width, sinusoid)
      .reshape([added.timeIds.shape[0]!, -1]);
    temb = temb.add(mlp(w.at("add_embedding"), concat([added.textEmbeds, ids], 1)));
  }
  return silu(temb);
}

/** Every parameter of a U-Net, in the order in which data meet them. */
export function unetParameters(config: UNetConfig): Parameter[] {
  const { down, mid, up } = layout(config);
  const first = config.block_out_channels[0]!;
  const temb = 4 * first;
  const embedder = (name: string, inputs: number) => [
    ...linearParameters(`${name}.linear_1`, inputs, temb),
    ...linearParameters(`${name}.linear_2`, temb, temb),
  ];
  const block = ({ name, layers, transformer, contextWidth }: Block) => [
    ...layers.flatMap(([i, o], j) => resnetParameters(`${name}.resnets.${j}`, i, o, temb)),
    ...layers.slice(name === mid.name ? 1 : 0).flatMap(([, channels], j) =>
      transformer
        ? transformerParameters(`${name}.attentions.${j}`, channels, contextWidth, transformer)
        : []
    ),
  ];
  const resampler = ({ name, layers, resample }: Block, part: string) =>
    resample ? resampleParameters(`${name}.${part}.0`, layers.at(-1)![1]) : [];
  return [
    ...convParameters("conv_in", config.in_channels, first, 3),
    ...embedder("time_embedding", first),
    ...config.addition_embed_type === "text_time"
      ? embedder("add_embedding", config.projection_class_embeddings_input_dim!)
      : [],
    ...down.flatMap((b) => [...block(b), ...resampler(b, "downsamplers")]),
    ...block(mid),
    ...up.flatMap((b) => [...block(b), ...resampler(b, "upsamplers")]),
    ...normParameters("conv_norm_out", first),
    ...convParameters("conv_out", first, config.out_channels, 3),
  ];
}

/** A U-Net from random numbers, as PyTorch's defaults would start it. */
export function initUNet(config: UNetConfig, seed: number): Map<string, Tensor> {
  return initialise(unetParameters(config), seed);
}
