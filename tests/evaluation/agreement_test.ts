import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { fleissKappa, majority } from "../../lib/evaluation/agreement.ts";
import { generator } from "../../lib/tensor/random.ts";

Deno.test("kappa of the published example: 14 raters, 10 subjects, 5 categories", () => {
  const counts = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
  ];
  assertAlmostEquals(fleissKappa(counts), 0.210, 0.0005);
});

Deno.test("kappa of two categories, by hand", () => {
  // P = (1, 1/3, 1/3, 1), p = (7/12, 5/12): (2/3 - 37/72) / (1 - 37/72) = 11/35.
  assertAlmostEquals(fleissKappa([[3, 0], [2, 1], [2, 1], [0, 3]]), 11 / 35, 1e-12);
  // Different numbers of raters: P = (1, 1/3, 1), p = (5/9, 4/9).
  assertAlmostEquals(fleissKappa([[2, 0], [2, 1], [0, 4]]), (7 / 9 - 41 / 81) / (40 / 81), 1e-12);
});

Deno.test("kappa is 1 for agreement, -1 for two who always differ, 0 for chance", () => {
  assertAlmostEquals(fleissKappa([[3, 0], [0, 3], [0, 5]]), 1, 1e-12);
  assertAlmostEquals(fleissKappa([[1, 1], [1, 1]]), -1, 1e-12);
  const random = generator({ seed: 3, stream: 0, step: 0 });
  const counts = Array.from({ length: 4000 }, () => {
    const first = Array.from({ length: 5 }, () => random.chance(0.7)).filter(Boolean).length;
    return [first, 5 - first];
  });
  assert(Math.abs(fleissKappa(counts)) < 0.02, `${fleissKappa(counts)}`);
});

Deno.test("kappa is not defined when everybody says the same everywhere", () => {
  assert(Number.isNaN(fleissKappa([[3, 0], [2, 0]])));
  assert(Number.isNaN(fleissKappa(Array.from({ length: 7 }, () => [0, 3, 0]))));
});

Deno.test("kappa refuses what has no agreement", () => {
  assertThrows(() => fleissKappa([]), RangeError, "at least one item");
  assertThrows(() => fleissKappa([[2, 0], [1, 0]]), RangeError, "Item 1 has 1 rater;");
  assertThrows(() => fleissKappa([[0, 0]]), RangeError, "Item 0 has 0 raters");
  assertThrows(() => fleissKappa([[2, 0], [1, 1, 0]]), RangeError, "3 categories; expected 2");
  assertThrows(() => fleissKappa([[2.5, 0]]), RangeError, "count of 2.5");
  assertThrows(() => fleissKappa([[3, -1]]), RangeError, "count of -1");
});

Deno.test("a majority is 1, 0, or half for a tie", () => {
  assertEquals([majority([1, 0, 1]), majority([0]), majority([1, 0])], [1, 0, 0.5]);
  assertThrows(() => majority([]), RangeError, "no votes");
  assertThrows(() => majority([1, 2]), RangeError, "Vote 1 is 2");
});
