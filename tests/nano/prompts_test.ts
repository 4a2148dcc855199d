import { assert, assertEquals, assertThrows } from "@std/assert";
import { parseCaption } from "../../lib/nano/caption.ts";
import { promptSplits, SPLIT_SIZES } from "../../lib/nano/prompts.ts";

Deno.test("splits are disjoint, of the right size, and fixed by the seed", () => {
  const splits = promptSplits(1);
  const all = Object.values(splits).flat();
  assertEquals(all.length, Object.values<number>(SPLIT_SIZES).reduce((a, b) => a + b));
  assertEquals(new Set(all).size, all.length);
  assertEquals(promptSplits(1), splits);
  assert(promptSplits(2).test[0] !== splits.test[0]);
  for (const prompts of Object.values(splits)) {
    const singles = prompts.filter((text) => !parseCaption(text).second).length;
    assert(Math.abs(singles / prompts.length - 1 / 14) < 0.02);
  }
});

Deno.test("more preference prompts leave the other splits alone", () => {
  const { preference, ...others } = promptSplits(1);
  const { preference: more, ...same } = promptSplits(1, { preference: 3000 });
  assertEquals(same, others);
  assertEquals(more.slice(0, preference.length), preference);
  assertThrows(() => promptSplits(1, { preference: 30_000 }), RangeError, "23184");
});
