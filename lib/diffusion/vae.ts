/**
 * The autoencoder between images and latents, diffusers' `AutoencoderKL`.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import { silu } from "../nn/activation.ts";
import { conv } from "../nn/conv.ts";
import { convParameters, initialise, normParameters, type Parameter } from "../nn/init.ts";
import { groupNorm } from "../nn/norm.ts";
import type { Weights } from "../nn/weights.ts";
import type { VaeConfig } from "./config.ts";
import {
  downsample,
  resampleParameters,
  resnetBlock,
  resnetParameters,
  upsample,
} from "./resnet.ts";
import { attentionParameters, projectedAttention } from "./transformer.ts";

/** The normal distribution that an image's latents have, per element. */
export interface LatentDistribution {
  readonly mean: Tensor;
  /** Logarithm of the variance, within [-30, 20]. */
  readonly logvar: Tensor;
}

const normOf = (config: VaeConfig) => ({ groups: config.norm_num_groups, eps: 1e-6 });

/**
 * Encodes images.
 *
 * @param images [N, H, W, 3] in [-1, 1]
 * @returns Each [N, h, w, latent_channels], not scaled: see {@linkcode scaleLatents}.
 */
export function vaeEncode(w: Weights, config: VaeConfig, images: Tensor): LatentDistribution {
  const encoder = w.at("encoder");
  const norm = normOf(config);
  let x = conv(encoder.at("conv_in"), images, { padding: 1 });
  for (const { name, layers, resample } of encoderBlocks(config)) {
    const block = encoder.at(name);
    layers.forEach((_, j) => x = resnetBlock(block.at(`resnets.${j}`), x, undefined, norm));
    if (resample) x = downsample(block.at("downsamplers.0"), x, 0);
  }
  x = midBlock(encoder.at("mid_block"), config, x);
  x = silu(groupNorm(encoder.at("conv_norm_out"), x, norm));
  x = conv(encoder.at("conv_out"), x, { padding: 1 });
  if (config.use_quant_conv) x = conv(w.at("quant_conv"), x);
  const [mean, logvar] = x.split(3, 2) as [Tensor, Tensor];
  return { mean, logvar: logvar.maximum(-30).minimum(20) };
}

/**
 * Decodes latents.
 *
 * @param latents [N, h, w, latent_channels], not scaled: see {@linkcode unscaleLatents}.
 * @returns Images [N, H, W, 3], about in [-1, 1].
 */
export function vaeDecode(w: Weights, config: VaeConfig, latents: Tensor): Tensor {
  const decoder = w.at("decoder");
  const norm = normOf(config);
  let x = config.use_post_quant_conv ? conv(w.at("post_quant_conv"), latents) : latents;
  x = conv(decoder.at("conv_in"), x, { padding: 1 });
  x = midBlock(decoder.at("mid_block"), config, x);
  for (const { name, layers, resample } of decoderBlocks(config)) {
    const block = decoder.at(name);
    layers.forEach((_, j) => x = resnetBlock(block.at(`resnets.${j}`), x, undefined, norm));
    if (resample) x = upsample(block.at("upsamplers.0"), x);
  }
  x = silu(groupNorm(decoder.at("conv_norm_out"), x, norm));
  return conv(decoder.at("conv_out"), x, { padding: 1 });
}

/** Latents as the U-Net wants them: `(z - shift_factor) scaling_factor`. */
export function scaleLatents(config: VaeConfig, latents: Tensor): Tensor {
  return latents.sub(config.shift_factor ?? 0).mul(config.scaling_factor);
}

/** Latents as the VAE wants them: the inverse of {@linkcode scaleLatents}. */
export function unscaleLatents(config: VaeConfig, latents: Tensor): Tensor {
  return latents.div(config.scaling_factor).add(config.shift_factor ?? 0);
}

/** How many pixels of an image one latent pixel stands for, on a side. */
export function vaeFactor(config: VaeConfig): number {
  return 2 ** (config.block_out_channels.length - 1);
}

function midBlock(w: Weights, config: VaeConfig, input: Tensor): Tensor {
  const norm = normOf(config);
  let x = resnetBlock(w.at("resnets.0"), input, undefined, norm);
  if (config.mid_block_add_attention) {
    const attn = w.at("attentions.0");
    const [n, height, width, channels] = x.shape as [number, number, number, number];
    const tokens = groupNorm(attn.at("group_norm"), x, norm)
      .reshape([n, height * width, channels]);
    x = projectedAttention(attn, tokens, tokens, 1).reshape(x.shape).add(x);
  }
  return resnetBlock(w.at("resnets.1"), x, undefined, norm);
}

/** One resolution of the encoder or the decoder. */
interface Block {
  readonly name: string;
  /** Input and output channels of each ResNet layer. */
  readonly layers: readonly (readonly [number, number])[];
  readonly resample: boolean;
}

function blocks(name: string, channels: readonly number[], layers: number): Block[] {
  return channels.map((outputs, i) => ({
    name: `${name}.${i}`,
    layers: Array.from({ length: layers }, (_, j) => [
      j === 0 ? channels[Math.max(i - 1, 0)]! : outputs,
      outputs,
    ]),
    resample: i < channels.length - 1,
  }));
}

const encoderBlocks = (config: VaeConfig) =>
  blocks("down_blocks", config.block_out_channels, config.layers_per_block);
const decoderBlocks = (config: VaeConfig) =>
  blocks("up_blocks", config.block_out_channels.toReversed(), config.layers_per_block + 1);

/** Every parameter of a VAE. */
export function vaeParameters(config: VaeConfig): Parameter[] {
  const first = config.block_out_channels[0]!;
  const last = config.block_out_channels.at(-1)!;
  const latent = config.latent_channels;
  const half = (side: string, list: Block[], sampler: string) =>
    list.flatMap(({ name, layers, resample }) => [
      ...layers.flatMap(([i, o], j) => resnetParameters(`${side}.${name}.resnets.${j}`, i, o, 0)),
      ...resample ? resampleParameters(`${side}.${name}.${sampler}.0`, layers.at(-1)![1]) : [],
    ]);
  const mid = (side: string) => [
    ...resnetParameters(`${side}.mid_block.resnets.0`, last, last, 0),
    ...config.mid_block_add_attention
      ? [
        ...normParameters(`${side}.mid_block.attentions.0.group_norm`, last),
        ...attentionParameters(`${side}.mid_block.attentions.0`, last, last, true),
      ]
      : [],
    ...resnetParameters(`${side}.mid_block.resnets.1`, last, last, 0),
  ];
  return [
    ...convParameters("encoder.conv_in", config.in_channels, first, 3),
    ...half("encoder", encoderBlocks(config), "downsamplers"),
    ...mid("encoder"),
    ...normParameters("encoder.conv_norm_out", last),
    ...convParameters("encoder.conv_out", last, 2 * latent, 3),
    ...config.use_quant_conv ? convParameters("quant_conv", 2 * latent, 2 * latent, 1) : [],
    ...config.use_post_quant_conv ? convParameters("post_quant_conv", latent, latent, 1) : [],
    ...convParameters("decoder.conv_in", latent, last, 3),
    ...mid("decoder"),
    ...half("decoder", decoderBlocks(config), "upsamplers"),
    ...normParameters("decoder.conv_norm_out", first),
    ...convParameters("decoder.conv_out", first, config.out_channels, 3),
  ];
}

/** A VAE from random numbers, as PyTorch's defaults would start it. */
export function initVae(config: VaeConfig, seed: number): Map<string, Tensor> {
  return initialise(vaeParameters(config), seed);
}

/**
 * The present name of a VAE tensor: SD1.5's checkpoint still has the attention's early names.
 * For the `rename` option of `loadWeights`.
 */
export function vaeTensorName(name: string): string {
  return name.replace(
    /(mid_block\.attentions\.0)\.(query|key|value|proj_attn)\./,
    (_, block, part) => `${block}.${VAE_ATTENTION_NAMES[part]}.`,
  );
}

const VAE_ATTENTION_NAMES: Readonly<Record<string, string>> = {
  query: "to_q",
  key: "to_k",
  value: "to_v",
  proj_attn: "to_out.0",
};
