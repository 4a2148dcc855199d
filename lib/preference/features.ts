/**
 * Which of its activations the frozen encoder f returns. The choices are those of the paper's
 * released code: the last down block for SDXL, the middle or all levels for SD 1.5.
 *
 * @module
 */
import { ofBlock, type UNetConfig } from "../diffusion/config.ts";
import { unetDown, type UNetInputs, type UNetOptions } from "../diffusion/unet.ts";
import type { Weights } from "../nn/weights.ts";
import type { Tensor } from "../tensor/mod.ts";

/** The choices, the default first. */
export const featureChoices = ["down", "mid", "levels", "normalised-levels"] as const;

/**
 * - `down`: the last down block's output.
 * - `mid`: the mid block's output.
 * - `levels`: the outputs of `conv_in`, of each down block, and of the mid block.
 * - `normalised-levels`: the same, each multiplied by (values of the mid block) / (its own values), which
 *   for SD 1.5 is the released code's 1280 / channels.
 */
export type FeatureChoice = (typeof featureChoices)[number];

/**
 * f(x, c, t).
 *
 * @param w The frozen U-Net's weights.
 * @param inputs Noisy latents, timesteps and prompts of N images.
 * @returns One or more levels [N, h, w, C].
 */
export function features(
  w: Weights,
  config: UNetConfig,
  inputs: UNetInputs,
  choice: FeatureChoice,
  options: UNetOptions = {},
): Tensor[] {
  const { levels, last, mid } = unetDown(w, config, inputs, options);
  switch (choice) {
    case "down":
      return [last];
    case "mid":
      return [mid];
    case "levels":
      return blockOutputs(config, levels, mid);
    case "normalised-levels":
      return blockOutputs(config, levels, mid).map((level) => level.mul(mid.size / level.size));
  }
}

/** Of all residuals, `conv_in`'s and the last of each block; and the middle. */
function blockOutputs(config: UNetConfig, residuals: readonly Tensor[], mid: Tensor): Tensor[] {
  const outputs = [residuals[0]!];
  let at = 0;
  config.down_block_types.forEach((_, block, all) => {
    at += ofBlock(config.layers_per_block, block) + (block < all.length - 1 ? 1 : 0);
    outputs.push(residuals[at]!);
  });
  return [...outputs, mid];
}
