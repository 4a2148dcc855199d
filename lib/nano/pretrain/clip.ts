/**
 * Stages `clip-a` and `clip-b`: towers for prompts and images, trained to tell which belong together.
 *
 * @module
 */
import { clipEmbeddings, initClip } from "../../diffusion/clip.ts";
import { eosPositions } from "../../diffusion/clip_text.ts";
import type { ClipConfig } from "../../diffusion/config.ts";
import { ClipTokenizer } from "../../diffusion/tokenizer.ts";
import { CLIP_MEAN, CLIP_STD } from "../../evaluation/image_processor.ts";
import { type Tensor, tensor } from "../../tensor/mod.ts";
import { captionText } from "../caption.ts";
import { tokenizerFiles } from "../tokenizer_files.ts";
import { IMAGE_VALUES, trainingExample } from "../world.ts";
import { type Fit, fit } from "./fit.ts";

const BATCH = 128;

/** The nano lineage's tokenizer. */
export function nanoTokenizer(): ClipTokenizer {
  const files = tokenizerFiles();
  return new ClipTokenizer({
    vocab: JSON.parse(files["vocab.json"]!),
    merges: files["merges.txt"]!,
    config: JSON.parse(files["tokenizer_config.json"]!),
  });
}

/** Colours in [0, 1] as CLIP sees them: `(x - mean) / std` per channel, in place. */
export function normaliseColours(pixels: Float32Array): Float32Array {
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = (pixels[i]! - CLIP_MEAN[i % 3]!) / CLIP_STD[i % 3]!;
  }
  return pixels;
}

/** Trains a CLIP on the nano world, degraded and wrongly captioned pictures included. */
export function trainClip(
  name: string,
  config: ClipConfig,
  options: Pick<Fit, "directory" | "seed" | "onProgress"> & { readonly steps: number },
): Promise<Map<string, Tensor>> {
  const { seed, steps } = options;
  const tokenizer = nanoTokenizer();
  return fit({
    ...options,
    name,
    initial: initClip(config, seed),
    learningRate: 1e-3,
    warmup: 50,
    floor: 0.02,
    weightDecay: 0.05,
    average: 0.998,
    steps,
    batch: (step) => {
      const pixels = new Float32Array(BATCH * IMAGE_VALUES);
      const captions = Array.from({ length: BATCH }, (_, i) => {
        const to = pixels.subarray(i * IMAGE_VALUES, (i + 1) * IMAGE_VALUES);
        return captionText(trainingExample(seed, (step - 1) * BATCH + i, to).caption);
      });
      const { ids, count, length } = tokenizer.encodeBatch(captions);
      return {
        pixels: tensor(normaliseColours(pixels), [BATCH, 64, 64, 3]),
        ids: tensor(ids, [count, length]),
        eos: tensor(eosPositions(config.text_config, ids, length), [count]),
        // Captions that occur twice in a batch are not each other's wrong answer.
        mask: tensor(sameCaption(captions), [count, count]),
      };
    },
    loss: (w, { pixels, ids, eos, mask }) => {
      const { text, image } = clipEmbeddings(w, config, { ids, eos }, pixels);
      const scale = w.get("logit_scale").minimum(Math.log(100)).exp();
      const logits = image.matmul(text.transpose(0, 1)).mul(scale).add(mask);
      const own = image.mul(text).sum(-1).mul(scale);
      const entropy = (axis: number) => {
        const top = logits.max(axis, true);
        return logits.sub(top).exp().sum(axis).log().add(top.squeeze(axis)).sub(own).mean();
      };
      return { loss: entropy(1).add(entropy(0)).mul(0.5), scale };
    },
  });
}

function sameCaption(captions: readonly string[]): Float32Array {
  const n = captions.length;
  const mask = new Float32Array(n * n);
  captions.forEach((a, i) => {
    captions.forEach((b, j) => {
      if (i !== j && a === b) mask[i * n + j] = -1e4;
    });
  });
  return mask;
}
