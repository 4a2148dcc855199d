/**
 * From a preference dataset to what the trainer reads: pairs are chosen, and each picture and prompt that
 * they name is encoded once, however many selections and trainings use it.
 *
 * @module
 */
import {
  chainSets,
  type Comparisons,
  type CurationOptions,
  faultLines,
  filteredPairs,
  firstPairs,
  type Fit,
  fullPairs,
  mixedPairs,
  type PreferencePairs as ImagePairs,
  readComparisons,
} from "../data/mod.ts";
import type { Pipeline, PromptEncoder } from "../diffusion/mod.ts";
import { pickPairs, type PreferencePairs } from "../preference/mod.ts";
import { type CacheOptions, encodeInMemory, encodeToDisk, promptsOf } from "./encode_dataset.ts";

/** The seed of the VAE's noise, and of samples: all trainings on a file see the same latents and pairs. */
const encodingSeed = 0;

/**
 * Which pairs are tuned on. Each takes the readings of {@linkcode CurationOptions}, and has its own defaults.
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
  full: (c) => fullPairs(c),
  filtered: (c, options = {}) =>
    filteredPairs(c, { reading: "code", opponent: "every", ...options }),
  xy: (c, options = {}) => chainSets(c, chained(options)).xy,
  "xy-xz": (c, options = {}) => chainSets(c, chained(options)).xyXz,
  "xy-yz": (c, options = {}) => chainSets(c, chained(options)).xyYz,
  "contradictory-50": (c) => mixedPairs(c, 0.5, encodingSeed),
  "contradictory-100": (c) => mixedPairs(c, 1, encodingSeed),
} as const satisfies Record<string, (c: Comparisons, options?: CurationOptions) => ImagePairs>;

/** The name of a selection. */
export type Selection = keyof typeof selections;

/** A chain has one opponent per image. */
function chained({ opponent, ...options }: CurationOptions) {
  if (opponent === "every") {
    throw new Error(
      "the sets of Table 2 have one loser per winner: choose the first or the latest opponent",
    );
  }
  return { ...options, ...opponent && { opponent } };
}

/** What can be chosen of {@linkcode trainingPairs}. */
export interface TrainingPairsOptions {
  /** Of the choice of pairs. */
  readonly curation?: CurationOptions;
  /** The most pairs of each selection, of which the first are taken: only their images are read. */
  readonly limit?: number;
  /** Side of the pictures in pixels; default: the model's own resolution. */
  readonly resolution?: number;
  /** How pictures are brought to it; default `crop`. */
  readonly fit?: Fit;
  /** Keeps what was encoded on disk; without it everything is held in memory, drawn once and never mirrored. */
  readonly cache?: CacheOptions;
  /** Told how many rows have been read, and of how many. */
  readonly onRead?: (done: number, total: number) => void;
  /** Told how many pictures and prompts have been encoded, and of how many. */
  readonly onProgress?: (done: number, total: number) => void;
  /** Told, a line each, what of the data could not be used, and how much was cut. */
  readonly onReport?: (lines: readonly string[]) => void;
}

/** Pairs that a model is trained on. */
export interface TrainingPairs extends PreferencePairs {
  /** Their prompts, each once, in the order of the pairs. */
  readonly prompts: readonly string[];
}

/**
 * Reads, chooses and encodes. Pairs with an image that cannot be read are left out.
 *
 * @param pipeline The model to be tuned: its VAE and text encoders encode, its sizes decide the
 * resolution that pictures are brought to.
 * @param path A Parquet file in Pick-a-Pic v2's schema, a folder of them, or a pattern.
 * @param names Which pairs are wanted.
 * @returns The pairs of each wanted selection.
 * @throws {Error} naming the file, and the column or image, when the data cannot be used.
 */
export async function trainingPairs<S extends Selection>(
  pipeline: Pipeline,
  path: string,
  names: readonly S[],
  options: TrainingPairsOptions = {},
): Promise<Readonly<Record<S, TrainingPairs>>> {
  const comparisons = await readComparisons(path, options.onRead);
  const chosen = [...new Set(names)].map((name) => {
    const all = selections[name](comparisons, options.curation);
    if (all.winner.length === 0) {
      throw new Error(
        `${path} has no pair for the ${name} data among ${comparisons.label0.length} choices: ` +
          (name === "full"
            ? "every choice is a tie"
            : "every preferred image lost or tied elsewhere; take the full data"),
      );
    }
    return { name, ...firstPairs(all, options.limit ?? Infinity) };
  });
  const all = joined(chosen);
  const wanted = {
    ...{ comparisons, pairs: all, onProgress: options.onProgress },
    preprocessing: {
      resolution: options.resolution ?? pipeline.resolution,
      fit: options.fit ?? "crop",
    },
  };
  const { pairs, kept, faults } = options.cache
    ? await encodeToDisk(pipeline, wanted, options.cache)
    : await encodeInMemory(pipeline, wanted, encodingSeed);
  const dropped = all.winner.length - kept.length;
  const [encoder] = pipeline.textEncoders as [PromptEncoder];
  const cut = promptsOf(comparisons, all).prompts.filter((p) => !encoder.tokenizer.fits(p));
  const lines = [
    ...faultLines([...comparisons.faults, ...faults]),
    ...dropped > 0
      ? [`${dropped} of ${all.winner.length} pairs are left out for their images`]
      : [],
    ...cut.length > 0 ? [`${cut.length} prompts are too long and lose their end`] : [],
  ];
  if (2 * dropped > all.winner.length) {
    throw new Error(
      `${path}: more than half of the pairs cannot be used: ${lines.join("; ")}. ` +
        "Check that the columns hold what Pick-a-Pic v2's do",
    );
  }
  options.onReport?.(lines);
  let first = 0;
  const parts = chosen.map(({ name, ...part }) => {
    const end = first + part.winner.length;
    const numbers = [...kept.keys()].filter((i) => kept[i]! >= first && kept[i]! < end);
    first = end;
    const { prompts } = promptsOf(comparisons, part);
    return [name, { ...pickPairs(pairs, numbers), prompts }] as const;
  });
  return Object.fromEntries(parts) as Record<S, TrainingPairs>;
}

/** The pairs of all selections, one after another. */
function joined(parts: readonly ImagePairs[]): ImagePairs {
  const of = (key: keyof ImagePairs) =>
    Int32Array.from(parts.flatMap((part) => Array.from(part[key])));
  return { winner: of("winner"), loser: of("loser"), choice: of("choice") };
}
