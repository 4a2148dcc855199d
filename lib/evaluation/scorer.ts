/**
 * A scorer says how well an image answers a prompt: a CLIP whose cosine was tuned on preferences, as
 * PickScore and HPSv2 are. What a score is, and what a picture becomes before the network sees it, is
 * part of a scorer's definition, see {@linkcode ScorerKind}.
 *
 * @module
 */
import type { Image } from "../data/images.ts";
import { clipEmbeddings, clipParameters } from "../diffusion/clip.ts";
import { eosPositions } from "../diffusion/clip_text.ts";
import { type ClipConfig, clipConfig, readJson } from "../diffusion/config.ts";
import { ClipTokenizer } from "../diffusion/tokenizer.ts";
import { checkParameters } from "../nn/init.ts";
import { loadWeights, Weights } from "../nn/weights.ts";
import { jit, type Jitted, type Tensor, tensor, type Tree } from "../tensor/mod.ts";
import { clipImageProcessor, hpsImageProcessor, type ImageProcessor } from "./image_processor.ts";
import { loadOpenClip, openClipTokens, VIT_H_14 } from "./open_clip.ts";

/**
 * What a score is:
 *
 * | kind        | picture                                                    | prompt                         | score                     |
 * | ----------- | ---------------------------------------------------------- | ------------------------------ | ------------------------- |
 * | `cosine`    | short side resized by Pillow, the middle cut out           | as transformers' tokenizer has it | 100 cos                |
 * | `pickscore` | the same                                                   | the same                       | `exp(logit_scale)` cos    |
 * | `hps`       | long side resized as a tensor by PyTorch, black bars added | cleaned, padded with zeros     | 100 cos                   |
 *
 * `cosine` is for models whose own scale means nothing, such as the nano lineage's scorers. `hps` serves
 * HPSv2 and HPSv2.1, which differ in their weights only; the package of its authors gives the cosine
 * itself, their tables 100 times it.
 */
export type ScorerKind = "cosine" | "pickscore" | "hps";

/** Options of {@linkcode loadScorer}. */
export interface ScorerOptions {
  /** Default `cosine`. */
  readonly kind?: ScorerKind | undefined;
  /** Folder of the tokenizer; the model's own unless given. */
  readonly tokenizer?: string | undefined;
  /** For `hps`, whether the resize widens its filter, see {@linkcode hpsImageProcessor}. Default: no, as its authors' did. */
  readonly antialias?: boolean | undefined;
  /**
   * How weights are held. Default: as in the file, but f16 where f32 would take more than 2 GiB, as a
   * ViT-H/14 does: for a random one that moves scores of 100 cos by up to 0.003.
   */
  readonly dtype?: "f32" | "f16" | undefined;
}

/** Scores images against prompts. */
export interface Scorer extends Disposable {
  /** Pairs that are scored at once: fewer take as long. */
  readonly batch: number;
  /**
   * Scores `images[i]` against `prompts[i]`; prompts that are too long lose their end.
   *
   * @param images Images of any sizes, one per prompt.
   * @returns One score per pair.
   * @throws {RangeError} If there are not as many images as prompts, or an image lacks pixels.
   */
  score(prompts: readonly string[], images: readonly Image[]): Promise<Float32Array>;
  /**
   * The same for square images of one size.
   *
   * @param images RGB bytes [N, size, size, 3].
   * @param size Height and width of the images in pixels.
   */
  score(prompts: readonly string[], images: Uint8Array, size: number): Promise<Float32Array>;
}

/** f32 weights beyond this are held as f16 unless asked otherwise. */
const MAX_F32_BYTES = 2 * 2 ** 30;

/**
 * Loads a scorer.
 *
 * @param path A folder in transformers' `CLIPModel` layout with its tokenizer, such as PickScore's, or a
 * checkpoint of open_clip, such as HPSv2's `HPS_v2.1_compressed.pt`. Beside a checkpoint may lie the
 * tokenizer and a `config.json` (transformers' `CLIPModel`); without that it is a ViT-H/14.
 * @throws {Error} Naming the file or the tensor that is missing or wrong.
 */
export async function loadScorer(path: string, options: ScorerOptions = {}): Promise<Scorer> {
  const { kind = "cosine", antialias = false } = options;
  const isFolder = (await statOf(path)).isDirectory;
  const folder = isFolder ? path : path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : ".";
  const tokenizerFolder = options.tokenizer ?? folder;
  // The tokenizer first: it is read in no time, and the weights are not.
  const tokenizer = await loadTokenizer(tokenizerFolder, path);
  const config = isFolder
    ? clipConfig(await readJson(`${folder}/config.json`), `${folder}/config.json`)
    : await configBeside(folder);
  const size = clipParameters(config).reduce(
    (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 4),
    0,
  );
  const dtype = options.dtype ?? (size > MAX_F32_BYTES ? "f16" : "stored");
  const side = config.vision_config.image_size;
  const processor = kind === "hps"
    ? hpsImageProcessor(side, antialias)
    : await folderProcessor(side, [folder, tokenizerFolder]);
  const weights = isFolder
    ? await loadClipFolder(folder, config, dtype)
    : await loadOpenClip(path, config, dtype);
  return clipScorer(kind, weights, config, tokenizer, processor);
}

async function statOf(path: string): Promise<Deno.FileInfo> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(
      `no scorer at ${path}: give a folder in transformers' layout or a .pt file of open_clip`,
    );
  }
}

async function loadTokenizer(folder: string, model: string): Promise<ClipTokenizer> {
  try {
    // The class that transformers' processors take.
    return await ClipTokenizer.load(folder, "CLIPTokenizerFast");
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(
      `${error.message}: the scorer ${model} needs CLIP's tokenizer (vocab.json, merges.txt, ` +
        "tokenizer_config.json) beside it, or its folder named",
    );
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch {
    return false;
  }
}

/** The configuration beside a checkpoint, where there is one of transformers' `CLIPModel`. */
async function configBeside(folder: string): Promise<ClipConfig> {
  const path = `${folder}/config.json`;
  const json = await exists(path) ? await readJson(path) : {};
  return "text_config" in json ? clipConfig(json, path) : clipConfig(VIT_H_14, "ViT-H/14");
}

/** The processor as the model's folder or else the tokenizer's describes it, or CLIP's own. */
async function folderProcessor(side: number, folders: string[]): Promise<ImageProcessor> {
  for (const folder of folders) {
    const path = `${folder}/preprocessor_config.json`;
    if (await exists(path)) return clipImageProcessor(side, await readJson(path), path);
  }
  return clipImageProcessor(side);
}

async function loadClipFolder(
  folder: string,
  config: ClipConfig,
  dtype: "f32" | "f16" | "stored",
): Promise<Weights> {
  const weights = await loadWeights(folder, { dtype });
  checkParameters(weights, clipParameters(config));
  if (dtype !== "f16") return weights;
  // Half a unit in the last place of an f16 logarithm is 0.2 % of the scale: this one stays as it is.
  const name = "logit_scale";
  const exact = await loadWeights(folder, { rename: (n) => n === name ? n : undefined });
  weights.get(name).dispose();
  return new Weights(new Map([...weights.tensors, ...exact.tensors]), { source: folder });
}

type Inputs = { readonly pixels: Tensor; readonly ids: Tensor; readonly eos: Tensor };

/** Pairs that are scored at once by a small network. */
const MAX_BATCH = 32;
/** Values of a batch's vision tokens: larger networks get smaller batches. */
const BATCH_VALUES = 2 ** 20;

/** A scorer from its parts; it owns the weights. */
function clipScorer(
  kind: ScorerKind,
  weights: Weights,
  config: ClipConfig,
  tokenizer: ClipTokenizer,
  processor: ImageProcessor,
): Scorer {
  const { image_size: side, patch_size: patch, hidden_size: width } = config.vision_config;
  const values = ((side / patch) ** 2 + 1) * width;
  const batch = Math.min(MAX_BATCH, Math.max(1, Math.floor(BATCH_VALUES / values)));
  let step: Jitted<Record<string, Tree>, Inputs, { score: Tensor }> | undefined;

  const scoreImages = async (prompts: readonly string[], images: readonly Image[]) => {
    if (images.length !== prompts.length) {
      throw new RangeError(`${images.length} images for ${prompts.length} prompts`);
    }
    for (const [i, { width, height, data }] of images.entries()) {
      if (data.length !== width * height * 3) {
        throw new RangeError(
          `image ${i} has ${data.length} bytes; ${width}x${height} RGB pixels are ${
            width * height * 3
          }`,
        );
      }
    }
    await weights.realize();
    step ??= jit((state, { pixels, ids, eos }) => {
      const { text, image } = clipEmbeddings(weights, config, { ids, eos }, pixels);
      const cosine = text.mul(image).sum(-1);
      const scale = kind === "pickscore" ? weights.get("logit_scale").exp() : 100;
      return { state, result: { score: cosine.mul(scale) } };
    });
    const scores = new Float32Array(prompts.length);
    for (let first = 0; first < prompts.length; first += batch) {
      // The last batch is filled up with the last pair, so that one compiled step serves all.
      const rows = Array.from({ length: batch }, (_, i) => Math.min(first + i, prompts.length - 1));
      const pixels = new Float32Array(batch * side * side * 3);
      for (const [i, row] of rows.entries()) {
        const same = i > 0 && row === rows[i - 1];
        const at = i * side * side * 3;
        if (same) pixels.copyWithin(at, at - side * side * 3, at);
        else pixels.set(processor(images[row]!), at);
      }
      const texts = rows.map((row) => prompts[row]!);
      const { ids, count, length } = kind === "hps"
        ? openClipTokens(tokenizer, texts)
        : tokenizer.encodeBatch(texts, "truncate");
      const { score } = await step({}, {
        pixels: tensor(pixels, [batch, side, side, 3]),
        ids: tensor(ids, [count, length]),
        eos: tensor(eosPositions(config.text_config, ids, length), [count]),
      });
      const found = await score.data() as Float32Array;
      scores.set(found.subarray(0, Math.min(batch, prompts.length - first)), first);
      score.dispose();
    }
    return scores;
  };

  return {
    batch,
    async score(prompts: readonly string[], images: readonly Image[] | Uint8Array, size?: number) {
      if (!(images instanceof Uint8Array)) return await scoreImages(prompts, images);
      const bytes = size! * size! * 3;
      if (images.length !== prompts.length * bytes) {
        throw new RangeError(
          `${images.length} bytes are not ${prompts.length} images of ${size}x${size} RGB pixels`,
        );
      }
      return await scoreImages(
        prompts,
        prompts.map((_, i) => ({
          width: size!,
          height: size!,
          data: images.subarray(i * bytes, (i + 1) * bytes),
        })),
      );
    },
    [Symbol.dispose]() {
      step?.dispose();
      weights.dispose();
    },
  };
}
