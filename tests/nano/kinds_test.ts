/** Kinds of prompts. */
import { assert, assertEquals } from "@std/assert";
import {
  allCaptions,
  choosesFirst,
  parseCaption,
  PROMPT_KINDS,
  promptKind,
  promptSplits,
  TEMPERATURE,
} from "../../lib/nano/mod.ts";
import { generator } from "../../lib/tensor/random.ts";

Deno.test("a caption's kind is what it asks for", () => {
  const kind = (text: string) => promptKind(parseCaption(text));
  assertEquals(kind("a small red circle on a dark background"), "Basic");
  assertEquals(
    kind("a small red circle above a large blue circle on a dark background"),
    "Properties & Positioning",
  );
  assertEquals(
    kind("a small red circle above a small blue cross on a dark background"),
    "Fine-grained Detail",
  );
  assertEquals(kind("a small red circle above a large blue cross on a dark background"), "Complex");
});

Deno.test("the test prompts have every kind, 36 and more of each", () => {
  const kinds = promptSplits(0).test.map((prompt) => promptKind(parseCaption(prompt)));
  for (const kind of PROMPT_KINDS) assert(kinds.filter((found) => found === kind).length >= 36);
  assertEquals(new Set(allCaptions(2).map(promptKind)).size, 3);
});

Deno.test("a simulated annotator is right with the logistic's probability", () => {
  const random = generator({ seed: 1, stream: 1, step: 0 });
  const n = 20_000;
  let first = 0;
  for (let i = 0; i < n; i++) if (choosesFirst(TEMPERATURE, random)) first++;
  const expected = 1 / (1 + Math.exp(-1));
  assert(Math.abs(first / n - expected) < 4 * Math.sqrt(expected * (1 - expected) / n));
});
