/**
 * A scorer says how well an image answers a prompt: a CLIP whose cosine was tuned on preferences, as
 * PickScore and HPSv2 are. Scores are 100 times the cosine of the prompt's and the image's embedding.
 *
 * @module
 */
import sharp from "sharp";
import { clipEmbeddings, clipParameters } from "../diffusion/clip.ts";
import { eosPositions } from "../diffusion/clip_text.ts";
import { type ClipConfig, clipConfig, readJson } from "../diffusion/config.ts";
import { ClipTokenizer } from "../diffusion/tokenizer.ts";
import { checkParameters } from "../nn/init.ts";
import { loadWeights, type Weights } from "../nn/weights.ts";
import { jit, type Jitted, type Tensor, tensor, type Tree } from "../tensor/mod.ts";

/** Mean of the colours that CLIP was trained on, per channel. */
export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
/** Their standard deviation. */
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;

/** Pairs that are scored at once. */
const BATCH = 32;

/** Scores images against prompts. */
export interface Scorer extends Disposable {
  /**
   * Scores `images[i]` against `prompts[i]`.
   *
   * @param images RGB bytes [N, size, size, 3].
   * @param size Height and width of the images in pixels.
   * @returns 100 times the cosine, one per pair.
   */
  score(prompts: readonly string[], images: Uint8Array, size: number): Promise<Float32Array>;
}

/**
 * Loads a scorer: a folder in transformers' `CLIPModel` format with its tokenizer.
 *
 * @throws {Error} Naming the file or the tensor that is missing or wrong.
 */
export async function loadScorer(folder: string): Promise<Scorer> {
  const config = clipConfig(await readJson(`${folder}/config.json`), `${folder}/config.json`);
  const weights = await loadWeights(folder);
  checkParameters(weights, clipParameters(config));
  return clipScorer(weights, config, await ClipTokenizer.load(folder));
}

type Inputs = { readonly pixels: Tensor; readonly ids: Tensor; readonly eos: Tensor };

/** A scorer from its parts. */
export function clipScorer(
  weights: Weights,
  config: ClipConfig,
  tokenizer: ClipTokenizer,
): Scorer {
  const side = config.vision_config.image_size;
  let step: Jitted<Record<string, Tree>, Inputs, { cosine: Tensor }> | undefined;
  return {
    async score(prompts, images, size) {
      const values = size * size * 3;
      if (images.length !== prompts.length * values) {
        throw new RangeError(
          `${images.length} bytes are not ${prompts.length} images of ${size}x${size} RGB pixels`,
        );
      }
      await weights.realize();
      step ??= jit((state, { pixels, ids, eos }) => {
        const { text, image } = clipEmbeddings(weights, config, { ids, eos }, pixels);
        return { state, result: { cosine: text.mul(image).sum(-1).mul(100) } };
      });
      const scores = new Float32Array(prompts.length);
      for (let first = 0; first < prompts.length; first += BATCH) {
        // The last batch is filled up with the last pair, so that one compiled step serves all.
        const rows = Array.from(
          { length: BATCH },
          (_, i) => Math.min(first + i, prompts.length - 1),
        );
        const pixels = new Float32Array(BATCH * side * side * 3);
        for (const [i, row] of rows.entries()) {
          const image = images.subarray(row * values, (row + 1) * values);
          pixels.set(clipPixels(await resize(image, size, side)), i * side * side * 3);
        }
        const { ids, count, length } = tokenizer.encodeBatch(
          rows.map((r) => prompts[r]!),
          "truncate",
        );
        const { cosine } = await step({}, {
          pixels: tensor(pixels, [BATCH, side, side, 3]),
          ids: tensor(ids, [count, length]),
          eos: tensor(eosPositions(config.text_config, ids, length), [count]),
        });
        const values32 = await cosine.data() as Float32Array;
        scores.set(values32.subarray(0, Math.min(BATCH, prompts.length - first)), first);
        cosine.dispose();
      }
      return scores;
    },
    [Symbol.dispose]() {
      step?.dispose();
      weights.dispose();
    },
  };
}

/** RGB bytes as CLIP sees them: `(x / 255 - mean) / std` per channel. */
export function clipPixels(bytes: Uint8Array): Float32Array {
  return Float32Array.from(bytes, (x, i) => (x / 255 - CLIP_MEAN[i % 3]!) / CLIP_STD[i % 3]!);
}

/** Bicubic with antialiasing, as CLIP's image processor does it. */
async function resize(image: Uint8Array, from: number, to: number): Promise<Uint8Array> {
  if (from === to) return image;
  const { data } = await sharp(image, { raw: { width: from, height: from, channels: 3 } })
    .resize(to, to, { kernel: "cubic" }).removeAlpha().raw().toBuffer({ resolveWithObject: true });
  return new Uint8Array(data);
}
