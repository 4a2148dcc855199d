/**
 * The transformer that CLIP's text and vision towers share: pre-norm self-attention and a two-layer
 * perceptron, as in transformers' `CLIPEncoder`.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import { activation } from "../nn/activation.ts";
import { multiHeadAttention } from "../nn/attention.ts";
import { constant, linearParameters, normal, normParameters, type Parameter } from "../nn/init.ts";
import { linear } from "../nn/linear.ts";
import { layerNorm } from "../nn/norm.ts";
import type { Weights } from "../nn/weights.ts";
import type { ClipTowerConfig } from "./config.ts";

/**
 * Runs the layers.
 *
 * @param w Holds `layers.0`, `layers.1`, and so on.
 * @param x [N, L, C]
 * @param mask Added to the attention scores; broadcasts to [N, heads, L, L].
 * @returns The input and every layer's output: one more than there are layers.
 */
export function clipTower(
  w: Weights,
  config: ClipTowerConfig,
  x: Tensor,
  mask?: Tensor,
): Tensor[] {
  const act = activation(config.hidden_act);
  const eps = config.layer_norm_eps;
  const states = [x];
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = w.at(`layers.${i}`);
    const attn = layer.at("self_attn");
    const normed = layerNorm(layer.at("layer_norm1"), x, eps);
    const mixed = multiHeadAttention(
      linear(attn.at("q_proj"), normed),
      linear(attn.at("k_proj"), normed),
      linear(attn.at("v_proj"), normed),
      config.num_attention_heads,
      mask,
    );
    x = x.add(linear(attn.at("out_proj"), mixed));
    const hidden = act(linear(layer.at("mlp.fc1"), layerNorm(layer.at("layer_norm2"), x, eps)));
    x = x.add(linear(layer.at("mlp.fc2"), hidden));
    states.push(x);
  }
  return states;
}

/** The parameters of {@linkcode clipTower}, with CLIP's own initial distributions. */
export function clipTowerParameters(name: string, config: ClipTowerConfig): Parameter[] {
  const width = config.hidden_size;
  const residual = 1 / Math.sqrt(2 * width * config.num_hidden_layers);
  const dense = (path: string, inputs: number, outputs: number, std: number) =>
    linearParameters(path, inputs, outputs, { weightInit: normal(std), biasInit: constant(0) });
  return Array.from({ length: config.num_hidden_layers }, (_, i) => {
    const layer = `${name}.layers.${i}`;
    return [
      ...normParameters(`${layer}.layer_norm1`, width),
      ...dense(`${layer}.self_attn.q_proj`, width, width, residual),
      ...dense(`${layer}.self_attn.k_proj`, width, width, residual),
      ...dense(`${layer}.self_attn.v_proj`, width, width, residual),
      ...dense(`${layer}.self_attn.out_proj`, width, width, 1 / Math.sqrt(width)),
      ...normParameters(`${layer}.layer_norm2`, width),
      ...dense(`${layer}.mlp.fc1`, width, config.intermediate_size, 1 / Math.sqrt(2 * width)),
      ...dense(`${layer}.mlp.fc2`, config.intermediate_size, width, residual),
    ];
  }).flat();
}
