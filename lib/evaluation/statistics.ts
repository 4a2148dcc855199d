/**
 * Paired statistics with bootstrap intervals over prompts and training seeds.
 *
 * Scores form a table with a row per training seed and a column per prompt. A resample draws seeds and prompts with
 * replacement and applies the same draw to every method, so that what the methods share (prompt, starting noise)
 * cancels in their comparison.
 *
 * @module
 */
import { generator, stream } from "../tensor/random.ts";

/** A statistic with its percentile interval. */
export interface Interval {
  /** The statistic of the data themselves. */
  readonly estimate: number;
  readonly low: number;
  readonly high: number;
  /** Share of the resamples that the interval holds, for example 0.95. */
  readonly level: number;
}

/** An interval of a share in percent. */
export function inPercent({ estimate, low, high, level }: Interval): Interval {
  return { estimate: 100 * estimate, low: 100 * low, high: 100 * high, level };
}

/** A row per seed, a column per prompt; all rows have the same length. */
export type ScoreTable = readonly ArrayLike<number>[];

/** How {@linkcode bootstrap} resamples. */
export interface BootstrapOptions {
  /** Default 0. */
  readonly seed?: number;
  /** Default 2,000. */
  readonly resamples?: number;
  /** Default 0.95. */
  readonly level?: number;
}

const RESAMPLE_STREAM = stream("evaluation.bootstrap");

/** The arithmetic mean. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum / checkedLength(values);
}

/** The middle value, or the mean of the two middle ones. */
export function median(values: ArrayLike<number>): number {
  return quantile(values, 0.5);
}

/**
 * The p-quantile, interpolated linearly between the values at ranks around p (n - 1).
 *
 * @throws {RangeError} If there are no values or p is outside [0, 1].
 */
export function quantile(values: ArrayLike<number>, p: number): number {
  const last = checkedLength(values) - 1;
  if (!(p >= 0 && p <= 1)) throw new RangeError(`A quantile is asked for p in [0, 1], got ${p}`);
  const sorted = Float64Array.from(values).sort();
  const rank = p * last, below = Math.floor(rank);
  const above = Math.min(below + 1, last);
  return sorted[below]! + (rank - below) * (sorted[above]! - sorted[below]!);
}

/** The sample standard deviation (denominator n - 1); 0 for one value. */
export function standardDeviation(values: ArrayLike<number>): number {
  const n = checkedLength(values), centre = mean(values);
  let sum = 0;
  for (let i = 0; i < n; i++) sum += (values[i]! - centre) ** 2;
  return n === 1 ? 0 : Math.sqrt(sum / (n - 1));
}

/**
 * The share of places at which `a` exceeds `b`; equal ones count half.
 *
 * @throws {RangeError} If the lengths differ or are 0.
 */
export function winRate(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) {
    throw new RangeError(
      `A win rate compares equally many scores, got ${a.length} and ${b.length}`,
    );
  }
  let wins = 0;
  for (let i = 0; i < a.length; i++) wins += a[i]! > b[i]! ? 1 : a[i] === b[i] ? 0.5 : 0;
  return wins / checkedLength(a);
}

/**
 * A percentile bootstrap interval of a statistic of one or more score tables.
 *
 * Both levels are resampled: first the seeds (rows), then the prompts (columns), the same for all tables. With one seed
 * the interval covers prompts only. A table with a single row (a method that is not trained) stands beside tables of
 * more rows: its row serves for every seed.
 *
 * @param tables The tables that the statistic compares.
 * @param statistic From one flat sample per table, all in the same order of (seed, prompt), to a number.
 * @throws {RangeError} If the tables' sizes do not fit each other.
 *
 * @example
 * ```ts
 * const ours = [[0.3, 0.5, 0.2]], theirs = [[0.1, 0.6, 0.1]];
 * bootstrap([ours, theirs], ([a, b]) => winRate(a, b)).estimate; // 2/3
 * ```
 */
export function bootstrap<T extends readonly ScoreTable[]>(
  tables: readonly [...T],
  statistic: (samples: { readonly [K in keyof T]: Float64Array }) => number,
  options: BootstrapOptions = {},
): Interval {
  const { seed = 0, resamples = 2000, level = 0.95 } = options;
  const { seeds, prompts } = sizeOf(tables);
  const samples = tables.map(() => new Float64Array(seeds * prompts)) as {
    [K in keyof T]: Float64Array;
  };
  const fill = (rows: ArrayLike<number>, columns: ArrayLike<number>) => {
    tables.forEach((table, t) => {
      for (let i = 0, at = 0; i < seeds; i++) {
        const row = table[table.length === 1 ? 0 : rows[i]!]!;
        for (let j = 0; j < prompts; j++) samples[t]![at++] = row[columns[j]!]!;
      }
    });
    return statistic(samples);
  };
  const estimate = fill(upTo(seeds), upTo(prompts));
  const random = generator({ seed, stream: RESAMPLE_STREAM, step: 0 });
  const rows = new Int32Array(seeds), columns = new Int32Array(prompts);
  const values = Float64Array.from({ length: resamples }, () => {
    for (let i = 0; i < seeds; i++) rows[i] = random.int(seeds);
    for (let j = 0; j < prompts; j++) columns[j] = random.int(prompts);
    return fill(rows, columns);
  });
  const tail = (1 - level) / 2;
  return { estimate, low: quantile(values, tail), high: quantile(values, 1 - tail), level };
}

function upTo(n: number): Int32Array {
  return Int32Array.from({ length: n }, (_, i) => i);
}

function sizeOf(tables: readonly ScoreTable[]): { seeds: number; prompts: number } {
  const seeds = Math.max(0, ...tables.map((table) => table.length));
  const prompts = tables[0]?.[0]?.length ?? 0;
  if (seeds === 0 || prompts === 0) {
    throw new RangeError("A bootstrap needs at least one table with one seed and one prompt");
  }
  tables.forEach((table, t) => {
    if (table.length !== seeds && table.length !== 1) {
      throw new RangeError(`Score table ${t} has ${table.length} seeds; expected ${seeds}, or 1`);
    }
    for (const row of table) {
      if (row.length === prompts) continue;
      throw new RangeError(
        `Score table ${t} has a row of ${row.length} prompts; expected ${prompts}`,
      );
    }
  });
  return { seeds, prompts };
}

function checkedLength(values: ArrayLike<number>): number {
  if (values.length === 0) throw new RangeError("A statistic of no values is not defined");
  return values.length;
}
