/**
 * The nano lineage's networks: Stable Diffusion's and CLIP's architectures, only small.
 *
 * @module
 */
import {
  type ClipConfig,
  clipConfig,
  type UNetConfig,
  unetConfig,
  type VaeConfig,
  vaeConfig,
} from "../../diffusion/config.ts";
import { MODEL_MAX_LENGTH, tokenizerFiles } from "../tokenizer_files.ts";

/** Tokens of the vocabulary; the last is the end token. */
export const VOCABULARY: number = Object.keys(JSON.parse(tokenizerFiles()["vocab.json"]!)).length;

/** An autoencoder from 64x64 pixels to 4x16x16. */
export const VAE: VaeConfig = vaeConfig({
  _class_name: "AutoencoderKL",
  in_channels: 3,
  out_channels: 3,
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
  block_out_channels: [16, 32, 48],
  layers_per_block: 1,
  latent_channels: 4,
  norm_num_groups: 8,
  act_fn: "silu",
  scaling_factor: 1,
  mid_block_add_attention: false,
});

const text = {
  vocab_size: VOCABULARY,
  max_position_embeddings: MODEL_MAX_LENGTH,
  eos_token_id: VOCABULARY - 1,
  bos_token_id: VOCABULARY - 2,
  pad_token_id: VOCABULARY - 1,
  hidden_size: 64,
  intermediate_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  hidden_act: "quick_gelu",
  layer_norm_eps: 1e-5,
  projection_dim: 64,
};

const vision = {
  image_size: 64,
  patch_size: 8,
  num_channels: 3,
  hidden_size: 96,
  intermediate_size: 384,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  hidden_act: "quick_gelu",
  layer_norm_eps: 1e-5,
  projection_dim: 64,
};

const clip = (changes: Record<string, number | string>): ClipConfig =>
  clipConfig({
    projection_dim: 64,
    logit_scale_init_value: 2.6592,
    text_config: { ...text },
    vision_config: { ...vision, ...changes },
  });

/** PickScore's base; its text tower also conditions the U-Net. */
export const CLIP_A: ClipConfig = clip({});
/** The base of HPSv2's stand-in: narrower, with the other activation, so that the two scorers differ. */
export const CLIP_B: ClipConfig = clip({
  hidden_size: 64,
  intermediate_size: 256,
  hidden_act: "gelu",
});

const unet = {
  _class_name: "UNet2DConditionModel",
  sample_size: 16,
  in_channels: 4,
  out_channels: 4,
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  mid_block_type: "UNetMidBlock2DCrossAttn",
  up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  block_out_channels: [32, 64, 96],
  layers_per_block: 1,
  use_linear_projection: true,
  norm_num_groups: 8,
};

/** SDXL's block layout with SD1.5's conditioning. */
export const UNET: UNetConfig = unetConfig({
  ...unet,
  cross_attention_dim: text.hidden_size,
  attention_head_dim: 4,
  transformer_layers_per_block: 1,
});

/** SDXL's layout and its conditioning: two text encoders, a pooled embedding, and the picture's sizes. */
export const UNET_XL: UNetConfig = unetConfig({
  ...unet,
  cross_attention_dim: 2 * text.hidden_size,
  attention_head_dim: [2, 4, 6],
  transformer_layers_per_block: [1, 1, 2],
  addition_embed_type: "text_time",
  addition_time_embed_dim: 16,
  projection_class_embeddings_input_dim: text.projection_dim + 6 * 16,
});

/** The noise schedule of Stable Diffusion, sampled from the last timestep. */
export const SCHEDULER = {
  _class_name: "DDIMScheduler",
  num_train_timesteps: 1000,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  clip_sample: false,
  set_alpha_to_one: false,
  steps_offset: 1,
  timestep_spacing: "trailing",
  prediction_type: "epsilon",
};
