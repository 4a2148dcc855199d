/** The order of the questions and the sides of the images. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { annotatorName } from "../../lib/annotation/annotator_name.ts";
import { asksOf } from "../../lib/annotation/asks.ts";
import { questions, type StoredStudy } from "../../lib/annotation/study.ts";

const items = Array.from({ length: 60 }, (_, i) => ({
  id: `item ${i}`,
  comparison: "a over b",
  kind: "all",
  prompt: `prompt ${i % 30}`,
  a: { model: "a", row: i },
  b: { model: "b", row: i },
}));
const stored: StoredStudy = {
  study: { title: "t", questions, models: {}, items },
  images: {},
  digest: "digest",
};
const order = (annotator: string, study = stored) =>
  asksOf(study, annotator).map(({ item, question, left }) => `${item.id} ${question.id} ${left}`);

Deno.test("everybody is asked everything once, each in an order of their own that never changes", () => {
  const all = items.flatMap(({ id }) => questions.map((question) => `${id} ${question.id}`)).sort();
  const plain = (name: string) => order(name).map((ask) => ask.replace(/ [ab]$/, "")).sort();
  assertEquals(plain("anna"), all);
  assertEquals(plain("ben"), all);
  assertEquals(order("anna"), order("anna"));
  assert(order("anna").join() !== order("ben").join());
  assert(order("anna").join() !== order("anna", { ...stored, digest: "another" }).join());
});

Deno.test("a prompt's questions stay together, those that hide it come before it is shown", () => {
  const asks = asksOf(stored, "anna");
  const prompts = asks.map(({ item }) => item.prompt);
  const changes = prompts.filter((prompt, i) => prompt !== prompts[i - 1]).length;
  assertEquals(changes, 30);
  const shown = new Set<string>();
  for (const { item, question } of asks) {
    if (question.showPrompt) shown.add(item.prompt);
    else assert(!shown.has(item.prompt), `${item.id} is spoiled`);
  }
});

Deno.test("over many people the sides are even, and drawn for each question anew", () => {
  const names = Array.from({ length: 60 }, (_, i) => `person ${i}`);
  let left = 0, total = 0, changed = 0, pairs = 0;
  for (const name of names) {
    const asks = asksOf(stored, name);
    left += asks.filter((ask) => ask.left === "a").length;
    total += asks.length;
    const byItem = Map.groupBy(asks, (ask) => ask.item.id);
    for (const [first, second] of byItem.values()) {
      changed += first!.left === second!.left ? 0 : 1;
      pairs++;
    }
  }
  // Five standard errors.
  assert(Math.abs(left / total - 0.5) < 2.5 / Math.sqrt(total), `${left} of ${total}`);
  assert(Math.abs(changed / pairs - 0.5) < 2.5 / Math.sqrt(pairs), `${changed} of ${pairs}`);
});

Deno.test("whoever stops early has voted on a random subset", () => {
  const firsts = Array.from({ length: 600 }, (_, i) => asksOf(stored, `person ${i}`)[0]!.item.id);
  const counts = items.map(({ id }) => firsts.filter((first) => first === id).length);
  // 10 are expected of each; a Poisson count beyond 30 or of 0 for several would be no chance.
  assert(Math.max(...counts) < 30, counts.join());
  assert(counts.filter((count) => count === 0).length < 3, counts.join());
});

Deno.test("a name is the same however a keyboard writes it", () => {
  assertEquals(annotatorName("  Anna  Maria "), "anna maria");
  assertEquals(annotatorName("Zoe\u0308"), annotatorName("zo\u00eb"));
  assertThrows(() => annotatorName("  "), RangeError, "it is empty");
  assertThrows(() => annotatorName("x".repeat(61)), RangeError, "60 characters at most");
  assertThrows(() => annotatorName("a\u0000b"), RangeError, "control characters");
});
