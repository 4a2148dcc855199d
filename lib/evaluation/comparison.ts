/**
 * How often one method beats another on the same prompts and the same starting noise.
 *
 * @module
 */
import {
  bootstrap,
  type BootstrapOptions,
  type Interval,
  mean,
  median,
  type ScoreTable,
  winRate,
} from "./statistics.ts";

/** One method's scores by one scorer. */
export interface MethodScores {
  readonly method: string;
  /** A row per training seed, a column per prompt; one row for a method that is not trained. */
  readonly scores: ScoreTable;
}

/** One row of a win-rate table. */
export interface Comparison {
  readonly method: string;
  readonly against: string;
  /** Share of (seed, prompt) places where `method` scores higher; ties count half. */
  readonly winRate: Interval;
  /** Mean of score(method) - score(against). */
  readonly meanDifference: Interval;
  readonly prompts: number;
  readonly seeds: number;
}

/**
 * Compares two methods, prompt by prompt and seed by seed.
 *
 * @throws {RangeError} If they were scored on different numbers of prompts or seeds; the message names both.
 */
export function compare(
  a: MethodScores,
  b: MethodScores,
  options: BootstrapOptions = {},
): Comparison {
  const tables = [a.scores, b.scores] as const;
  try {
    return {
      method: a.method,
      against: b.method,
      winRate: bootstrap(tables, ([x, y]) => winRate(x, y), options),
      meanDifference: bootstrap(tables, ([x, y]) => mean(x) - mean(y), options),
      prompts: a.scores[0]!.length,
      seeds: Math.max(a.scores.length, b.scores.length),
    };
  } catch (cause) {
    throw new RangeError(
      `Cannot compare ${a.method} with ${b.method}: ${(cause as Error).message}. ` +
        "Score both on the same prompts and seeds",
      { cause },
    );
  }
}

/**
 * The comparisons of a table.
 *
 * @param pairs Which method stands against which, by name.
 * @throws {RangeError} If a name is not among the methods.
 */
export function winRateTable(
  methods: readonly MethodScores[],
  pairs: readonly (readonly [method: string, against: string])[],
  options: BootstrapOptions = {},
): Comparison[] {
  const find = (name: string) => {
    const found = methods.find(({ method }) => method === name);
    if (found) return found;
    const known = methods.map(({ method }) => method).join(", ");
    throw new RangeError(`There are no scores of the method "${name}"; there are ${known}`);
  };
  return pairs.map(([a, b]) => compare(find(a), find(b), options));
}

/** The median score of a method over seeds and prompts. */
export function medianScore(
  { scores }: MethodScores,
  options: BootstrapOptions = {},
): Interval {
  return bootstrap([scores], ([sample]) => median(sample), options);
}
