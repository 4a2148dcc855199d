/**
 * Curation: which image pairs of a preference dataset are tuned on.
 *
 * `full` is every decided choice. `filtered` keeps the pairs of absolute winners: images that were preferred and never
 * lost. The published description leaves room for readings, and each of them can be chosen here. All rules work within
 * a caption and take time linear in the rows.
 *
 * @module
 */
import { generator, stream } from "../tensor/random.ts";
import type { Comparisons } from "./comparisons.ts";

const MIX_STREAM = stream("data.curation.mix");

/**
 * What makes an image an absolute winner.
 *
 * - `code`: it was preferred at least once, never lost and never tied (the authors' program; it counts each choice twice,
 *   so that its "more than one win" is one choice).
 * - `prose`: it was preferred more than once and never lost; ties do not count (the paper's words).
 * - `strict`: it was preferred more than once, never lost and never tied.
 */
export type Reading = "code" | "prose" | "strict";

/**
 * Which of the images that an absolute winner beat is its loser.
 *
 * - `first`: the one in the first row of the file (the authors' program).
 * - `latest`: the one of the most recent choice by `created_at` (the paper's words); of equal times the later row.
 * - `every`: all of them, one pair each.
 */
export type Opponent = "first" | "latest" | "every";

/** Which readings {@linkcode filteredPairs} takes. */
export interface CurationOptions {
  /** Default `code`. */
  readonly reading?: Reading;
  /** Default `first`. */
  readonly opponent?: Opponent;
}

/** Winner and loser of every pair, as image numbers of the comparisons. */
export interface PreferencePairs {
  readonly winner: Int32Array;
  readonly loser: Int32Array;
  /** The choice that decided the pair; -1 for a pair that was concluded from others. */
  readonly choice: Int32Array;
}

const RULES: Readonly<Record<Reading, { wins: number; ties: boolean }>> = {
  code: { wins: 1, ties: false },
  prose: { wins: 2, ties: true },
  strict: { wins: 2, ties: false },
};

/** Every decided choice, in row order; ties are left out. */
export function fullPairs(comparisons: Comparisons): PreferencePairs {
  return decidedPairs(comparisons, () => true);
}

/** The decided choices that are wanted, in row order. */
function decidedPairs(
  comparisons: Comparisons,
  wanted: (choice: number, winner: number) => boolean,
): PreferencePairs {
  const winner: number[] = [], loser: number[] = [], choice: number[] = [];
  forEachDecided(comparisons, (row, won, lost) => {
    if (!wanted(row, won)) return;
    winner.push(won);
    loser.push(lost);
    choice.push(row);
  });
  return {
    winner: Int32Array.from(winner),
    loser: Int32Array.from(loser),
    choice: Int32Array.from(choice),
  };
}

/** Some of the pairs. */
function pick(pairs: PreferencePairs, indices: readonly number[]): PreferencePairs {
  const at = (values: Int32Array) => Int32Array.from(indices, (i) => values[i]!);
  return { winner: at(pairs.winner), loser: at(pairs.loser), choice: at(pairs.choice) };
}

/** The first pairs, as many as there are up to a limit. */
export function firstPairs(
  { winner, loser, choice }: PreferencePairs,
  limit: number,
): PreferencePairs {
  return {
    winner: winner.slice(0, limit),
    loser: loser.slice(0, limit),
    choice: choice.slice(0, limit),
  };
}

/** Marks the absolute winners: one entry per image, 1 or 0. */
export function absoluteWinners(comparisons: Comparisons, reading: Reading = "code"): Uint8Array {
  const { images, image0, image1, label0 } = comparisons;
  const wins = new Int32Array(images.length);
  const losses = new Int32Array(images.length);
  const ties = new Int32Array(images.length);
  for (let row = 0; row < label0.length; row++) {
    if (label0[row] === 0.5) {
      ties[image0[row]!]!++;
      ties[image1[row]!]!++;
    } else {
      wins[label0[row] === 1 ? image0[row]! : image1[row]!]!++;
      losses[label0[row] === 1 ? image1[row]! : image0[row]!]!++;
    }
  }
  const rule = RULES[reading];
  return Uint8Array.from(
    wins,
    (count, i) => count >= rule.wins && losses[i] === 0 && (rule.ties || ties[i] === 0) ? 1 : 0,
  );
}

/** The pairs of the absolute winners, in row order. */
export function filteredPairs(
  comparisons: Comparisons,
  options: CurationOptions = {},
): PreferencePairs {
  const { reading = "code", opponent = "first" } = options;
  const absolute = absoluteWinners(comparisons, reading);
  const chosen = opponent === "every" ? undefined : beatenRows(comparisons, opponent);
  return decidedPairs(
    comparisons,
    (row, won) => absolute[won] === 1 && (!chosen || chosen[won] === row),
  );
}

/**
 * As many pairs as the absolute winners have (every opponent), of which a share is replaced by contradictory
 * ones: decided choices whose winner lost or tied elsewhere. Both parts are random samples, in row order.
 *
 * @param share Of contradictory pairs, 0 to 1.
 * @param seed Of the sample.
 * @throws {RangeError} If there are not as many contradictory pairs.
 */
export function mixedPairs(comparisons: Comparisons, share: number, seed: number): PreferencePairs {
  const absolute = absoluteWinners(comparisons);
  const all = fullPairs(comparisons);
  const clear: number[] = [], contradictory: number[] = [];
  all.winner.forEach((image, i) => (absolute[image] ? clear : contradictory).push(i));
  const wanted = Math.round(share * clear.length);
  if (wanted > contradictory.length) {
    throw new RangeError(
      `${wanted} contradictory pairs are wanted for a share of ${share} of ${clear.length} pairs, ` +
        `but only ${contradictory.length} winners lost or tied elsewhere: take a smaller share`,
    );
  }
  const random = generator({ seed, stream: MIX_STREAM, step: 0 });
  const chosen = [
    ...random.shuffle(clear).slice(wanted),
    ...random.shuffle(contradictory).slice(0, wanted),
  ].sort((a, b) => a - b);
  return pick(all, chosen);
}

/** The three sets whose value is compared: x is an absolute winner, y an image it beat, z an image y beat. */
export interface ChainSets {
  /** {x>y} */
  readonly xy: PreferencePairs;
  /** {x>y} and {x>z} */
  readonly xyXz: PreferencePairs;
  /** {x>y} and {y>z} */
  readonly xyYz: PreferencePairs;
}

/**
 * Chains x > y > z from every absolute winner; where y beat nothing there is no z and only x > y counts.
 *
 * @param options `opponent` says how y is chosen among the images x beat, and z among those y beat. Default `latest`.
 */
export function chainSets(
  comparisons: Comparisons,
  options: { readonly reading?: Reading; readonly opponent?: "first" | "latest" } = {},
): ChainSets {
  const { reading = "code", opponent = "latest" } = options;
  const chosen = beatenRows(comparisons, opponent);
  const beaten = (image: number) => chosen[image]! < 0 ? -1 : loserOf(comparisons, chosen[image]!);
  const xy = filteredPairs(comparisons, { reading, opponent });
  const x: number[] = [], y: number[] = [], z: number[] = [];
  xy.winner.forEach((image, i) => {
    const third = beaten(xy.loser[i]!);
    if (third < 0) return;
    x.push(image);
    y.push(xy.loser[i]!);
    z.push(third);
  });
  const and = (winner: number[], choice: number[]): PreferencePairs => ({
    winner: joined(xy.winner, winner),
    loser: joined(xy.loser, z),
    choice: joined(xy.choice, choice),
  });
  return { xy, xyXz: and(x, x.map(() => -1)), xyYz: and(y, y.map((image) => chosen[image]!)) };
}

/** How many pairs there are, on how many different captions, of how many different images. */
export function describePairs(
  comparisons: Comparisons,
  pairs: PreferencePairs,
): { pairs: number; captions: number; images: number } {
  const images = new Uint8Array(comparisons.images.length);
  const captions = new Uint8Array(comparisons.captions.length);
  for (const numbers of [pairs.winner, pairs.loser]) {
    for (const image of numbers) {
      images[image] = 1;
      captions[comparisons.imageCaption[image]!] = 1;
    }
  }
  const count = (marks: Uint8Array) => marks.reduce((sum, mark) => sum + mark, 0);
  return { pairs: pairs.winner.length, captions: count(captions), images: count(images) };
}

function joined(first: Int32Array, then: readonly number[]): Int32Array {
  const out = new Int32Array(first.length + then.length);
  out.set(first);
  out.set(then, first.length);
  return out;
}

/** Per image the row of the first or latest choice that it won, or -1. */
function beatenRows(comparisons: Comparisons, opponent: "first" | "latest"): Int32Array {
  const { images, createdAt } = comparisons;
  const rows = new Int32Array(images.length).fill(-1);
  forEachDecided(comparisons, (row, won) => {
    const known = rows[won]!;
    if (known < 0 || opponent === "latest" && createdAt[row]! >= createdAt[known]!) rows[won] = row;
  });
  return rows;
}

function forEachDecided(
  comparisons: Comparisons,
  visit: (row: number, winner: number, loser: number) => void,
) {
  const { image0, image1, label0 } = comparisons;
  for (let row = 0; row < label0.length; row++) {
    if (label0[row] === 1) visit(row, image0[row]!, image1[row]!);
    else if (label0[row] === 0) visit(row, image1[row]!, image0[row]!);
  }
}

function loserOf({ image0, image1, label0 }: Comparisons, row: number): number {
  return label0[row] === 1 ? image1[row]! : image0[row]!;
}
