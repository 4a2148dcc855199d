/**
 * From a preference file to what the trainer reads: pairs are chosen, and each picture and prompt that
 * they name is encoded once, however many selections and trainings use it.
 *
 * @module
 */
import {
  type Comparisons,
  decodeImage,
  filteredPairs,
  fullPairs,
  readComparisons,
  readImages,
} from "../data/mod.ts";
import { type Pipeline, vaeFactor } from "../diffusion/mod.ts";
import { encodePairs, type NumberedImage, type PreferencePairs } from "../preference/mod.ts";

/**
 * Which pairs are tuned on.
 *
 * - `full`: every decided choice.
 * - `filtered`: every choice won by an absolute winner, an image that was preferred and never lost or
 *   tied (the paper's program keeps one choice per winner; the nano data are too few for that).
 */
export type Selection = "full" | "filtered";

/** Winner and loser of every pair, as image numbers. */
interface ImagePairs {
  readonly winner: Int32Array;
  readonly loser: Int32Array;
}

/** The seed of the VAE's noise: all trainings on a file see the same latents. */
const encodingSeed = 0;

/**
 * Reads, chooses and encodes.
 *
 * @param pipeline The model to be tuned: its VAE and text encoders encode, its sizes decide the
 * resolution that pictures are brought to.
 * @param path A Parquet file in Pick-a-Pic v2's schema, or a folder of them.
 * @param selections Which pairs are wanted.
 * @param onProgress Told how many pictures and prompts have been encoded, and of how many.
 * @returns The pairs of each wanted selection.
 * @throws {Error} naming the file, and the column or image, when the data cannot be used.
 */
export async function trainingPairs<S extends Selection>(
  pipeline: Pipeline,
  path: string,
  selections: readonly S[],
  onProgress?: (done: number, total: number) => void,
): Promise<Readonly<Record<S, PreferencePairs>>> {
  const comparisons = await readComparisons(path);
  const chosen = new Map(selections.map((name) => {
    const pairs = select(comparisons, name);
    if (pairs.winner.length === 0) {
      throw new Error(
        `${path} has no pair for the ${name} data among ${comparisons.label0.length} choices: ` +
          (name === "filtered"
            ? "every preferred image lost or tied elsewhere; take the full data"
            : "every choice is a tie"),
      );
    }
    return [name, pairs] as const;
  }));
  // The filtered pairs are among the full ones, in the same order: the larger set holds them all.
  const [largest, ...others] = [...chosen].sort((a, b) =>
    b[1].winner.length - a[1].winner.length
  ) as [[S, ImagePairs], ...[S, ImagePairs][]];
  const encoded = await encode(pipeline, path, comparisons, largest[1], onProgress);
  const result = new Map<Selection, PreferencePairs>([[largest[0], encoded]]);
  for (const [name, pairs] of others) {
    result.set(name, subset(encoded, positionsIn(largest[1], pairs)));
  }
  return Object.fromEntries(result) as Record<S, PreferencePairs>;
}

function select(comparisons: Comparisons, selection: Selection): ImagePairs {
  return selection === "full"
    ? fullPairs(comparisons)
    : filteredPairs(comparisons, { reading: "code", opponent: "every" });
}

function encode(
  pipeline: Pipeline,
  path: string,
  comparisons: Comparisons,
  pairs: ImagePairs,
  onProgress: ((done: number, total: number) => void) | undefined,
): Promise<PreferencePairs> {
  const { captions, images, imageCaption } = comparisons;
  // Prompts without a pair are not worth encoding.
  const used = [...new Set(Array.from(pairs.winner, (image) => imageCaption[image]!))];
  const promptOf = new Map(used.map((caption, i) => [caption, i]));
  return encodePairs(pipeline, {
    prompts: used.map((caption) => captions[caption]!),
    imageCount: images.length,
    images: pictures(
      path,
      images,
      new Set([...pairs.winner, ...pairs.loser]),
      resolution(pipeline),
    ),
    pairs: Array.from(pairs.winner, (winner, i) => ({
      winner,
      loser: pairs.loser[i]!,
      prompt: promptOf.get(imageCaption[winner]!)!,
    })),
    seed: encodingSeed,
    ...(onProgress ? { onProgress } : {}),
  });
}

/** The side of the pictures that the model was made for, in pixels. */
function resolution({ unet, vae }: Pipeline): number {
  return (unet.config.sample_size ?? 64) * vaeFactor(vae.config);
}

/** Decoded pictures; one that was shown for two captions comes under both of its numbers. */
async function* pictures(
  path: string,
  uids: readonly string[],
  wanted: ReadonlySet<number>,
  resolution: number,
): AsyncGenerator<NumberedImage> {
  const numbers = new Map<string, number[]>();
  for (const number of wanted) {
    numbers.set(uids[number]!, [...numbers.get(uids[number]!) ?? [], number]);
  }
  for await (const { uid, bytes, source } of readImages(path, numbers.keys())) {
    const image = await decodeImage(bytes, { resolution, source });
    for (const number of numbers.get(uid)!) yield { number, ...image };
  }
}

/** Where the pairs of a part stand in the whole, whose order they share. */
function positionsIn(whole: ImagePairs, part: ImagePairs): number[] {
  let at = -1;
  return Array.from(part.winner, (winner, i) => {
    do at++; while (whole.winner[at] !== winner || whole.loser[at] !== part.loser[i]);
    return at;
  });
}

/** Some of the pairs under numbers of their own. */
function subset(pairs: PreferencePairs, positions: readonly number[]): PreferencePairs {
  return {
    ...pairs,
    length: positions.length,
    read: (indices) => pairs.read(indices.map((i) => positions[i]!)),
  };
}
