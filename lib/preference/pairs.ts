/**
 * Preference pairs as the trainer wants them: latents and prompt embeddings that were computed
 * before, read by pair number.
 *
 * @module
 */
import type { AddedConditions } from "../diffusion/unet.ts";
import { tensor } from "../tensor/mod.ts";

/** The values of some pairs, each array in the order of the pairs asked for. */
export interface PairValues {
  /** Clean, scaled latents [B, h, w, C]. */
  readonly winner: Float32Array;
  readonly loser: Float32Array;
  /** The prompts' hidden states [B, L, D]. */
  readonly context: Float32Array;
  /** SDXL's pooled prompt embeddings [B, P] and size conditions [B, 6]. */
  readonly added?: { readonly textEmbeds: Float32Array; readonly timeIds: Float32Array };
}

/** SDXL's additional conditioning of B prompts as tensors. */
export function addedConditions(
  { textEmbeds, timeIds }: NonNullable<PairValues["added"]>,
  count: number,
): AddedConditions {
  return {
    textEmbeds: tensor(textEmbeds, [count, textEmbeds.length / count]),
    timeIds: tensor(timeIds, [count, timeIds.length / count]),
  };
}

/** A set of preference pairs. */
export interface PreferencePairs {
  /** The number of pairs. */
  readonly length: number;
  /** [h, w, C] */
  readonly latentShape: readonly [number, number, number];
  /** [L, D] */
  readonly contextShape: readonly [number, number];
  /**
   * Reads pairs.
   *
   * @param visits Of each pair the number of its visit, of which no other visit has the same. It decides what is drawn
   * anew at each visit: the VAE's noise, and whether images are mirrored. Default: the pair's own number.
   */
  read(
    indices: readonly number[],
    visits?: readonly number[],
  ): PairValues | Promise<PairValues>;
}

/** One pair: rows of the latents and of the contexts. */
export interface Pair {
  readonly winner: number;
  readonly loser: number;
  readonly prompt: number;
}

/** Some pairs of a set, in the order given, under numbers of their own. */
export function pickPairs(pairs: PreferencePairs, chosen: readonly number[]): PreferencePairs {
  return {
    ...pairs,
    length: chosen.length,
    read: (indices, visits = indices) => pairs.read(indices.map((i) => chosen[i]!), visits),
  };
}

/**
 * Pairs over latents and prompt embeddings held in memory, each stored once however many pairs use it. Nothing is drawn
 * when they are read.
 *
 * @param source `latents` [images, h, w, C], `contexts` [prompts, L, D]; for SDXL also `pooled` [prompts, P]
 * and the pictures' height and width in pixels.
 * @throws {RangeError} If a pair names a row that is not there.
 */
export function pairsInMemory(source: {
  readonly latents: Float32Array;
  readonly latentShape: readonly [number, number, number];
  readonly contexts: Float32Array;
  readonly contextShape: readonly [number, number];
  readonly pairs: readonly Pair[];
  readonly pooled?: Float32Array;
  readonly size?: readonly [number, number];
}): PreferencePairs {
  const { latents, latentShape, contexts, contextShape, pairs, pooled, size } = source;
  const latentSize = latentShape[0] * latentShape[1] * latentShape[2];
  const contextSize = contextShape[0] * contextShape[1];
  const images = latents.length / latentSize;
  const prompts = contexts.length / contextSize;
  pairs.forEach(({ winner, loser, prompt }, i) => {
    if (!(winner < images && loser < images && prompt < prompts)) {
      throw new RangeError(
        `pair ${i} is of images ${winner} and ${loser} for prompt ${prompt}, ` +
          `but there are ${images} images and ${prompts} prompts`,
      );
    }
  });
  const rows = (table: Float32Array, size: number, at: readonly number[]) => {
    const out = new Float32Array(at.length * size);
    at.forEach((row, i) => out.set(table.subarray(row * size, (row + 1) * size), i * size));
    return out;
  };
  return {
    length: pairs.length,
    latentShape,
    contextShape,
    read(indices) {
      const chosen = indices.map((i) => pairs[i]!);
      return {
        winner: rows(latents, latentSize, chosen.map((pair) => pair.winner)),
        loser: rows(latents, latentSize, chosen.map((pair) => pair.loser)),
        context: rows(contexts, contextSize, chosen.map((pair) => pair.prompt)),
        ...pooled && size && {
          added: {
            textEmbeds: rows(pooled, pooled.length / prompts, chosen.map((pair) => pair.prompt)),
            timeIds: Float32Array.from(chosen.flatMap(() => [...size, 0, 0, ...size])),
          },
        },
      };
    },
  };
}
