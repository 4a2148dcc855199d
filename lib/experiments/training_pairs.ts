/**
 * From a preference file to what the trainer reads: pairs are chosen, and each picture and prompt that
 * they name is encoded once, however many selections and trainings use it.
 *
 * @module
 */
import {
  chainSets,
  type Comparisons,
  decodeImage,
  filteredPairs,
  fullPairs,
  mixedPairs,
  readComparisons,
  readImages,
} from "../data/mod.ts";
import { type Pipeline, vaeFactor } from "../diffusion/mod.ts";
import { encodePairs, type NumberedImage, type PreferencePairs } from "../preference/mod.ts";

/** Winner and loser of every pair, as image numbers. */
interface ImagePairs {
  readonly winner: Int32Array;
  readonly loser: Int32Array;
}

/** The seed of the VAE's noise, and of samples: all trainings on a file see the same latents and pairs. */
const encodingSeed = 0;

/**
 * Which pairs are tuned on.
 *
 * - `full`: every decided choice.
 * - `filtered`: every choice won by an absolute winner, an image that was preferred and never lost or
 *   tied (the paper's program keeps one choice per winner; the nano data are too few for that).
 * - `xy`, `xy-xz`, `xy-yz`: the sets of Table 2, of absolute winners x, their latest losers y, and the
 *   latest losers z of those.
 * - `contradictory-50`, `contradictory-100`: as many pairs as `filtered`, half or all of them replaced by
 *   choices whose winner lost or tied elsewhere.
 */
export const selections = {
  full: fullPairs,
  filtered: (c) => filteredPairs(c, { reading: "code", opponent: "every" }),
  xy: (c) => chainSets(c).xy,
  "xy-xz": (c) => chainSets(c).xyXz,
  "xy-yz": (c) => chainSets(c).xyYz,
  "contradictory-50": (c) => mixedPairs(c, 0.5, encodingSeed),
  "contradictory-100": (c) => mixedPairs(c, 1, encodingSeed),
} as const satisfies Record<string, (comparisons: Comparisons) => ImagePairs>;

/** The name of a selection. */
export type Selection = keyof typeof selections;

/**
 * Reads, chooses and encodes.
 *
 * @param pipeline The model to be tuned: its VAE and text encoders encode, its sizes decide the
 * resolution that pictures are brought to.
 * @param path A Parquet file in Pick-a-Pic v2's schema, or a folder of them.
 * @param names Which pairs are wanted.
 * @param onProgress Told how many pictures and prompts have been encoded, and of how many.
 * @returns The pairs of each wanted selection.
 * @throws {Error} naming the file, and the column or image, when the data cannot be used.
 */
export async function trainingPairs<S extends Selection>(
  pipeline: Pipeline,
  path: string,
  names: readonly S[],
  onProgress?: (done: number, total: number) => void,
): Promise<Readonly<Record<S, PreferencePairs>>> {
  const comparisons = await readComparisons(path);
  const chosen = [...new Set(names)].map((name) => {
    const pairs = selections[name](comparisons);
    if (pairs.winner.length === 0) {
      throw new Error(
        `${path} has no pair for the ${name} data among ${comparisons.label0.length} choices: ` +
          (name === "full"
            ? "every choice is a tie"
            : "every preferred image lost or tied elsewhere; take the full data"),
      );
    }
    return { name, ...pairs };
  });
  const encoded = await encode(pipeline, path, comparisons, chosen, onProgress);
  let first = 0;
  const parts = chosen.map(({ name, winner }) => {
    const part = range(encoded, first, winner.length);
    first += winner.length;
    return [name, part] as const;
  });
  return Object.fromEntries(parts) as Record<S, PreferencePairs>;
}

/** Encodes the pairs of all selections, one after another. */
function encode(
  pipeline: Pipeline,
  path: string,
  { captions, images, imageCaption }: Comparisons,
  chosen: readonly ImagePairs[],
  onProgress: ((done: number, total: number) => void) | undefined,
): Promise<PreferencePairs> {
  const pairs = chosen.flatMap(({ winner, loser }) =>
    Array.from(winner, (image, i) => ({ winner: image, loser: loser[i]! }))
  );
  // Prompts without a pair are not worth encoding.
  const used = [...new Set(pairs.map(({ winner }) => imageCaption[winner]!))];
  const promptOf = new Map(used.map((caption, i) => [caption, i]));
  return encodePairs(pipeline, {
    prompts: used.map((caption) => captions[caption]!),
    imageCount: images.length,
    images: pictures(
      path,
      images,
      new Set(pairs.flatMap(({ winner, loser }) => [winner, loser])),
      resolution(pipeline),
    ),
    pairs: pairs.map((pair) => ({ ...pair, prompt: promptOf.get(imageCaption[pair.winner]!)! })),
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

/** Some consecutive pairs under numbers of their own. */
function range(pairs: PreferencePairs, first: number, length: number): PreferencePairs {
  return { ...pairs, length, read: (indices) => pairs.read(indices.map((i) => first + i)) };
}
