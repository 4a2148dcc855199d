import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { compare, medianScore, winRateTable } from "../../lib/evaluation/comparison.ts";
import {
  bootstrap,
  mean,
  median,
  quantile,
  standardDeviation,
  winRate,
} from "../../lib/evaluation/statistics.ts";
import { generator } from "../../lib/tensor/random.ts";

const random = generator({ seed: 9, stream: 0, step: 0 });
const table = (seeds: number, prompts: number, value: (seed: number, prompt: number) => number) =>
  Array.from({ length: seeds }, (_, i) => Array.from({ length: prompts }, (_, j) => value(i, j)));

Deno.test("mean, median, quantile, standard deviation", () => {
  assertEquals(mean([1, 2, 6]), 3);
  assertEquals(median([5, 1, 3]), 3);
  assertEquals(median([4, 1, 3, 2]), 2.5);
  assertEquals(quantile([0, 10, 20, 30], 0.25), 7.5);
  assertEquals([quantile([3, 1], 0), quantile([3, 1], 1)], [1, 3]);
  assertAlmostEquals(standardDeviation([2, 4, 4, 4, 5, 5, 7, 9]), Math.sqrt(32 / 7), 1e-12);
  assertEquals(standardDeviation([3]), 0);
  assertThrows(() => median([]), RangeError, "no values");
  assertThrows(() => quantile([1], 2), RangeError, "got 2");
});

Deno.test("win rate counts ties half", () => {
  assertEquals(winRate([2, 1, 3, 0], [1, 1, 4, 0]), 0.5);
  assertEquals(winRate([2, 2, 2, 2], [1, 1, 1, 2]), 0.875);
  assertThrows(() => winRate([1], [1, 2]), RangeError, "got 1 and 2");
});

Deno.test("the interval of a mean is the normal one", () => {
  const prompts = 400;
  const values = table(1, prompts, () => random.normal());
  const { estimate, low, high } = bootstrap([values], ([x]) => mean(x), {
    resamples: 4000,
  });
  const error = standardDeviation(values[0]!) / Math.sqrt(prompts);
  assertAlmostEquals(estimate, mean(values[0]!), 1e-12);
  assertAlmostEquals((low - estimate) / error, -1.96, 0.15);
  assertAlmostEquals((high - estimate) / error, 1.96, 0.15);
});

Deno.test("seeds are a level of their own", () => {
  // All prompts of a seed share its effect: the interval must be as wide as four seeds make it.
  const effects = [-1, 0, 0.5, 1];
  const values = table(4, 200, (seed) => effects[seed]!);
  const { estimate, low, high } = bootstrap([values], ([x]) => mean(x));
  assertEquals(estimate, 0.125);
  assert(high - low > 1 && low >= -1 && high <= 1);
  const same = bootstrap([table(4, 200, () => 2)], ([x]) => mean(x));
  assertEquals([same.low, same.high], [2, 2]);
});

Deno.test("what methods share cancels", () => {
  const shared = table(3, 100, () => 10 * random.normal());
  const better = shared.map((row) => row.map((value) => value + 0.1));
  const result = compare({ method: "a", scores: better }, { method: "b", scores: shared });
  assertEquals(result.winRate, { estimate: 1, low: 1, high: 1, level: 0.95 });
  assertAlmostEquals(result.meanDifference.low, 0.1, 1e-9);
  assertAlmostEquals(result.meanDifference.high, 0.1, 1e-9);
  assertEquals([result.prompts, result.seeds], [100, 3]);
});

Deno.test("the win rate's interval covers the truth about as often as it says", () => {
  let covered = 0;
  const trials = 150;
  for (let trial = 0; trial < trials; trial++) {
    const a = table(1, 100, () => random.normal() + 0.5), b = table(1, 100, () => random.normal());
    const { low, high } = bootstrap([a, b], ([x, y]) => winRate(x, y), {
      seed: trial,
      resamples: 300,
      level: 0.9,
    });
    // P(N(0.5, 2) > 0) = Phi(0.5 / sqrt 2).
    if (low <= 0.63816 && high >= 0.63816) covered++;
  }
  assertAlmostEquals(covered / trials, 0.9, 0.08);
});

Deno.test("an interval is fixed by its seed", () => {
  const values = table(3, 50, () => random.normal());
  const interval = (seed: number) => bootstrap([values], ([x]) => median(x), { seed });
  assertEquals(interval(1), interval(1));
  assert(interval(1).low !== interval(2).low || interval(1).high !== interval(2).high);
});

Deno.test("a win-rate table, with an untrained method beside trained ones", () => {
  const methods = [
    { method: "base", scores: [[1, 1, 1, 1]] },
    { method: "dpo", scores: [[2, 0, 2, 2], [2, 2, 0, 1]] },
  ];
  const row = winRateTable(methods, [["dpo", "base"]], { resamples: 100 })[0]!;
  assertEquals([row.method, row.against, row.seeds], ["dpo", "base", 2]);
  assertEquals(row.winRate.estimate, 5.5 / 8);
  assertEquals(row.meanDifference.estimate, 11 / 8 - 1);
  assertEquals(medianScore(methods[1]!).estimate, 2);
  assertThrows(() => winRateTable(methods, [["cpo", "base"]]), RangeError, 'method "cpo"');
});

Deno.test("tables that do not fit are refused by name", () => {
  assertThrows(
    () => compare({ method: "a", scores: [[1, 2]] }, { method: "b", scores: [[1]] }),
    RangeError,
    "Cannot compare a with b: Score table 1 has a row of 1 prompts; expected 2",
  );
  assertThrows(() => bootstrap([[[1], [1]], [[1], [1], [1]]], () => 0), RangeError, "2 seeds");
  assertThrows(() => bootstrap([], () => 0), RangeError, "at least one");
});
