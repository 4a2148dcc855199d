/**
 * The transformer over an image's positions, with cross-attention to the prompt: diffusers'
 * `Transformer2DModel` and `BasicTransformerBlock`.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import { gelu } from "../nn/activation.ts";
import { multiHeadAttention } from "../nn/attention.ts";
import { conv } from "../nn/conv.ts";
import { convParameters, linearParameters, normParameters, type Parameter } from "../nn/init.ts";
import { linear } from "../nn/linear.ts";
import { groupNorm, layerNorm } from "../nn/norm.ts";
import { plainly, type Run } from "../nn/recompute.ts";
import type { Weights } from "../nn/weights.ts";

/** The shape of a transformer. */
export interface TransformerOptions {
  readonly heads: number;
  /** How many blocks. */
  readonly depth: number;
  readonly groups: number;
  /** `proj_in` and `proj_out` are linear layers (SDXL) rather than 1x1 convolutions (SD1.5). */
  readonly linearProjection: boolean;
}

/**
 * A transformer over the positions of an image, with a residual connection around it.
 *
 * @param x [N, H, W, C]
 * @param context [N, L, D]
 * @param run How each of its blocks is run.
 * @returns [N, H, W, C]
 */
export function transformer2d(
  w: Weights,
  x: Tensor,
  context: Tensor,
  { heads, depth, groups, linearProjection }: TransformerOptions,
  run: Run = plainly,
): Tensor {
  const [n, height, width, channels] = x.shape as [number, number, number, number];
  const tokens = [n, height * width, channels];
  // diffusers gives this norm its own epsilon, whatever the model's.
  let y = groupNorm(w.at("norm"), x, { groups, eps: 1e-6 });
  y = linearProjection
    ? linear(w.at("proj_in"), y.reshape(tokens))
    : conv(w.at("proj_in"), y).reshape(tokens);
  for (let i = 0; i < depth; i++) {
    const block = w.at(`transformer_blocks.${i}`);
    y = run((y, context) => transformerBlock(block, y, context, heads), y, context);
  }
  y = linearProjection
    ? linear(w.at("proj_out"), y).reshape(x.shape)
    : conv(w.at("proj_out"), y.reshape(x.shape));
  return y.add(x);
}

/** Self-attention, cross-attention and a gated feed-forward layer, each normalised and residual. */
function transformerBlock(w: Weights, x: Tensor, context: Tensor, heads: number): Tensor {
  const self = layerNorm(w.at("norm1"), x);
  let y = x.add(projectedAttention(w.at("attn1"), self, self, heads));
  y = y.add(projectedAttention(w.at("attn2"), layerNorm(w.at("norm2"), y), context, heads));
  return y.add(feedForward(w.at("ff"), layerNorm(w.at("norm3"), y)));
}

/**
 * diffusers' `Attention`: queries from `x`, keys and values from `context`, and `to_out.0` at the end.
 *
 * @param x [N, Lq, C]
 * @param context [N, Lk, D]
 * @returns [N, Lq, C]
 */
export function projectedAttention(w: Weights, x: Tensor, context: Tensor, heads: number): Tensor {
  const q = linear(w.at("to_q"), x);
  const k = linear(w.at("to_k"), context);
  const v = linear(w.at("to_v"), context);
  return linear(w.at("to_out.0"), multiHeadAttention(q, k, v, heads));
}

/** GEGLU: `net.2(a gelu(b))`, where `net.0.proj` gives a and b one above the other. */
function feedForward(w: Weights, x: Tensor): Tensor {
  const proj = w.at("net.0.proj");
  const inner = proj.get("weight").shape[0]! / 2;
  const value = linear(proj, x, [0, inner]);
  const gate = linear(proj, x, [inner, 2 * inner]);
  return linear(w.at("net.2"), value.mul(gelu(gate)));
}

/** The parameters of {@linkcode transformer2d}; `contextWidth` is D. */
export function transformerParameters(
  name: string,
  channels: number,
  contextWidth: number,
  { depth, linearProjection }: TransformerOptions,
): Parameter[] {
  const projection = (part: string) =>
    linearProjection
      ? linearParameters(`${name}.${part}`, channels, channels)
      : convParameters(`${name}.${part}`, channels, channels, 1);
  const blocks = Array.from({ length: depth }, (_, i) => {
    const block = `${name}.transformer_blocks.${i}`;
    return [
      ...normParameters(`${block}.norm1`, channels),
      ...attentionParameters(`${block}.attn1`, channels, channels, false),
      ...normParameters(`${block}.norm2`, channels),
      ...attentionParameters(`${block}.attn2`, channels, contextWidth, false),
      ...normParameters(`${block}.norm3`, channels),
      ...linearParameters(`${block}.ff.net.0.proj`, channels, 8 * channels),
      ...linearParameters(`${block}.ff.net.2`, 4 * channels, channels),
    ];
  });
  return [
    ...normParameters(`${name}.norm`, channels),
    ...projection("proj_in"),
    ...blocks.flat(),
    ...projection("proj_out"),
  ];
}

/** The parameters of {@linkcode projectedAttention}; `bias` is that of queries, keys and values. */
export function attentionParameters(
  name: string,
  channels: number,
  contextWidth: number,
  bias: boolean,
): Parameter[] {
  return [
    ...linearParameters(`${name}.to_q`, channels, channels, { bias }),
    ...linearParameters(`${name}.to_k`, contextWidth, channels, { bias }),
    ...linearParameters(`${name}.to_v`, contextWidth, channels, { bias }),
    ...linearParameters(`${name}.to_out.0`, channels, channels),
  ];
}
