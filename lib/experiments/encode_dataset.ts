/**
 * The images and prompts of a dataset's chosen pairs, encoded: into memory, or into a cache on disk where they are
 * looked for first. Images that cannot be read are counted, and their pairs left out.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { ImageIndex, type KnownImage, placeKeys } from "../data/image_index.ts";
import {
  decodeImage,
  type Fault,
  FaultCounter,
  placementOf,
  type PreferencePairs as ImagePairs,
  preprocess,
  type Preprocessing,
  readImages,
  type StoredComparisons,
  UnreadableImage,
} from "../data/mod.ts";
import type { Pipeline } from "../diffusion/mod.ts";
import {
  encodePairs,
  EncodingCache,
  type Flip,
  type HashedPicture,
  type NumberedImage,
  type PreferencePairs,
} from "../preference/mod.ts";

/** What is encoded. */
export interface ChosenPairs {
  readonly comparisons: StoredComparisons;
  readonly pairs: ImagePairs;
  /** How images become pictures. */
  readonly preprocessing: Preprocessing;
  /** Told how many pictures and prompts have been encoded, and of how many. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** Where encoded pictures and prompts are kept, and how they are drawn from there. */
export interface CacheOptions {
  /** The folder; made if it is missing. Runs may share it. */
  readonly folder: string;
  readonly flip: Flip;
  /** Of what is drawn at each visit of a pair. */
  readonly seed: number;
}

/** Encoded pairs. */
export interface EncodedDataset {
  readonly pairs: PreferencePairs;
  /** Their numbers among the chosen ones: those whose images could both be read. */
  readonly kept: readonly number[];
  /** Images that could not be read. */
  readonly faults: readonly Fault[];
}

const UNREADABLE = "images that cannot be read";

/** The prompts of pairs, each once, and per pair the number of its own. */
export function promptsOf(
  { captions, imageCaption }: StoredComparisons,
  { winner }: ImagePairs,
): { readonly prompts: readonly string[]; readonly ofPair: Int32Array } {
  // Prompts without a pair are not worth encoding.
  const used = [...new Set(winner.values().map((image) => imageCaption[image]!))];
  const numbers = new Map(used.map((caption, i) => [caption, i]));
  return {
    prompts: used.map((caption) => captions[caption]!),
    ofPair: winner.map((image) => numbers.get(imageCaption[image]!)!),
  };
}

/**
 * Encodes into memory: latents are drawn once and images never mirrored, in f32.
 *
 * @param seed Of the VAE's noise.
 */
export async function encodeInMemory(
  pipeline: Pipeline,
  { comparisons, pairs, preprocessing, onProgress }: ChosenPairs,
  seed: number,
): Promise<EncodedDataset> {
  const { winner, loser } = pairs;
  const { prompts, ofPair } = promptsOf(comparisons, pairs);
  const faults = new FaultCounter();
  async function* pictures(): AsyncGenerator<NumberedImage> {
    for await (const { number, bytes, source } of readImages(comparisons, imagesOf(pairs))) {
      try {
        const image = await decodeImage(bytes, source);
        yield { number, ...preprocess(image, preprocessing, source) };
      } catch (error) {
        if (!(error instanceof UnreadableImage)) throw error;
        faults.add(UNREADABLE, () => error.message);
      }
    }
  }
  const encoded = await encodePairs(pipeline, {
    prompts,
    imageCount: comparisons.images.length,
    images: pictures(),
    pairs: Array.from(winner, (image, i) => ({
      ...{ winner: image, loser: loser[i]!, prompt: ofPair[i]! },
    })),
    seed,
    ...onProgress && { onProgress },
  });
  return { ...encoded, faults: faults.list() };
}

/**
 * Encodes into a cache what it lacks: of the dataset only the row groups with images that are not known, or not
 * encoded, are read. Killed at any moment and started again, it goes on where it was.
 */
export async function encodeToDisk(
  pipeline: Pipeline,
  { comparisons, pairs, preprocessing, onProgress }: ChosenPairs,
  { folder, flip, seed }: CacheOptions,
): Promise<EncodedDataset> {
  const { resolution, fit } = preprocessing;
  using cache = await EncodingCache.open(pipeline, {
    folder,
    size: [resolution, resolution],
    preprocessing: { fit },
    mirrored: flip !== "none",
  });
  const { prompts, ofPair } = promptsOf(comparisons, pairs);
  const images = imagesOf(pairs).length;
  const { known, faults } = await cacheImages(cache, folder, {
    ...{ comparisons, pairs, preprocessing },
    onProgress: (done) => onProgress?.(done, images + prompts.length),
  });
  await cache.addPrompts(
    prompts,
    (done) => onProgress?.(images + done, images + prompts.length),
  );

  const { winner, loser, choice } = pairs;
  const kept = [...winner.keys()].filter((i) => known.has(winner[i]!) && known.has(loser[i]!));
  const cached = kept.map((i) => {
    // The released code conditions both images of a pair on the size of the row's first.
    const first = known.get(choice[i]! < 0 ? winner[i]! : comparisons.image0[choice[i]!]!)!;
    const { top, left } = placementOf(first, preprocessing);
    return {
      winner: known.get(winner[i]!)!.hash,
      loser: known.get(loser[i]!)!.hash,
      prompt: prompts[ofPair[i]!]!,
      timeIds: [first.height, first.width, top, left, resolution, resolution],
    };
  });
  return { pairs: cache.pairs(cached, flip, seed), kept, faults };
}

/** Reads and encodes the images that the cache lacks; gives those that could be read. */
async function cacheImages(
  cache: EncodingCache,
  folder: string,
  { comparisons, pairs, preprocessing, onProgress }: ChosenPairs,
) {
  using index = await ImageIndex.open(`${folder}/images`);
  const wanted = imagesOf(pairs);
  const keys = placeKeys(comparisons, wanted);
  const keyOf = new Map(wanted.map((number, i) => [number, keys[i]!]));
  const known = new Map<number, KnownImage>();
  const faults = new FaultCounter();
  const found = await index.find(keys);
  wanted.forEach((number, i) => {
    const image = found[i], reason = index.reason(keys[i]!);
    if (image && cache.hasPicture(image.hash)) known.set(number, image);
    else if (reason !== undefined) faults.add(UNREADABLE, () => reason);
  });
  const lacking = wanted.filter((number) =>
    !known.has(number) && index.reason(keyOf.get(number)!) === undefined
  );
  let done = wanted.length - lacking.length;
  onProgress?.(done, wanted.length);

  let batch: (HashedPicture & { readonly number: number; readonly original: KnownImage })[] = [];
  const flush = async () => {
    await cache.addPictures(batch, wanted.length - done - batch.length);
    await index.add(
      batch.map(({ number, original }) => ({ key: keyOf.get(number)!, ...original })),
    );
    for (const { number, original } of batch) known.set(number, original);
    onProgress?.(done += batch.length, wanted.length);
    batch = [];
  };
  for await (const { number, bytes, source } of readImages(comparisons, lacking)) {
    try {
      const image = await decodeImage(bytes, source);
      const hash = createHash("sha256").update(bytes).digest("hex");
      const original = { hash, width: image.width, height: image.height };
      batch.push({ number, source, hash, original, ...preprocess(image, preprocessing, source) });
    } catch (error) {
      if (!(error instanceof UnreadableImage)) throw error;
      await index.addUnreadable(keyOf.get(number)!, error.message);
      faults.add(UNREADABLE, () => error.message);
      onProgress?.(++done, wanted.length);
      continue;
    }
    if (batch.length === cache.atOnce) await flush();
  }
  if (batch.length > 0) await flush();
  return { known, faults: faults.list() };
}

/** The numbers of the images of pairs, each once, in the order in which the dataset shows them. */
function imagesOf({ winner, loser }: ImagePairs): number[] {
  return [...new Set(winner).union(new Set(loser))].sort((a, b) => a - b);
}
