/** What votes say, from people or from programs. */
import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { questions, type Study } from "../../lib/annotation/study.ts";
import { summarize } from "../../lib/annotation/summary.ts";
import type { Vote } from "../../lib/annotation/votes.ts";

const item = (id: string, comparison: string, kind: string) => ({
  id,
  comparison,
  kind,
  prompt: `prompt of ${id}`,
  a: { model: "a", row: 0 },
  b: { model: "b", row: 0 },
});
const study: Study = {
  title: "a study",
  questions: questions.slice(0, 2),
  models: {},
  items: [
    item("1", "ncp over dpo", "plain"),
    item("2", "ncp over dpo", "long"),
    item("3", "ncp over dpo", "long"),
    item("4", "ncp over base", "plain"),
  ],
};
const votes = (item: string, question: Vote["question"], choices: string): Vote[] =>
  [...choices].map((choice, i) => ({
    annotator: `person ${i}`,
    item,
    question,
    choice: choice as "a" | "b",
  }));

Deno.test("a row per comparison and question, of all kinds and of each", () => {
  const rows = summarize(study, [
    ...votes("1", "general", "aaa"),
    ...votes("2", "general", "aab"),
    ...votes("3", "general", "ab"),
    ...votes("4", "general", "b"),
    ...votes("1", "appeal", "b"),
  ]);
  assertEquals(rows.map(({ comparison, kind, question }) => [comparison, kind, question]), [
    ["ncp over dpo", null, "general"],
    ["ncp over dpo", null, "appeal"],
    ["ncp over dpo", "plain", "general"],
    ["ncp over dpo", "plain", "appeal"],
    ["ncp over dpo", "long", "general"],
    ["ncp over dpo", "long", "appeal"],
    ["ncp over base", null, "general"],
    ["ncp over base", null, "appeal"],
  ]);
  const [all, appeal, plain, , long, longAppeal, base] = rows;
  assertEquals(all!.outcomes, [
    { item: "1", outcome: 1, votes: 3 },
    { item: "2", outcome: 1, votes: 3 },
    { item: "3", outcome: 0.5, votes: 2 },
  ]);
  assertEquals([all!.votes, all!.annotators, all!.sharedItems], [8, 3, 3]);
  assertAlmostEquals(all!.share!.estimate, 2.5 / 3, 1e-12);
  assert(all!.share!.low >= 0.5 && all!.share!.high === 1);
  // P = (1, 1/3, 0), p = (13/18, 5/18).
  const chance = (13 ** 2 + 5 ** 2) / 18 ** 2;
  assertAlmostEquals(all!.kappa!, (4 / 9 - chance) / (1 - chance), 1e-12);
  assertEquals([plain!.share!.estimate, plain!.kappa], [1, null]);
  assertEquals(long!.share!.estimate, 0.75);
  assertEquals([appeal!.votes, appeal!.kappa, appeal!.sharedItems], [1, null, 0]);
  assertEquals([longAppeal!.share, longAppeal!.votes, longAppeal!.annotators], [null, 0, 0]);
  assertEquals(base!.share!.estimate, 0);
});

Deno.test("the interval is over items and can be made narrower by more of them", () => {
  const many: Study = {
    ...study,
    items: Array.from({ length: 400 }, (_, i) => item(`${i}`, "a over b", "all")),
  };
  const cast = many.items.flatMap(({ id }, i) => votes(id, "general", i % 5 < 3 ? "a" : "b"));
  const { estimate, low, high } = summarize(many, cast, { resamples: 500 })[0]!.share!;
  const error = Math.sqrt(0.6 * 0.4 / 400);
  assertAlmostEquals(estimate, 0.6, 1e-12);
  assertAlmostEquals((low - estimate) / error, -1.96, 0.4);
  assertAlmostEquals((high - estimate) / error, 1.96, 0.4);
});

Deno.test("votes that the study cannot have are refused", () => {
  const unknown = votes("9", "general", "a"), unasked = votes("1", "alignment", "a");
  assertThrows(() => summarize(study, unknown), RangeError, 'about item "9", which the study');
  assertThrows(() => summarize(study, unasked), RangeError, 'question "alignment" about item "1"');
  const twice = [...votes("1", "general", "a"), ...votes("1", "general", "b")];
  assertThrows(() => summarize(study, twice), RangeError, '"person 0" has two votes');
});
