import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { annotate } from "../../lib/nano/annotator.ts";
import { generator } from "../../lib/tensor/random.ts";

const random = generator({ seed: 1, stream: 0, step: 0 });
const utilities = Array.from(
  { length: 300 },
  () => Array.from({ length: 8 }, () => 1.5 + 0.5 * random.normal()),
);

Deno.test("sessions show six images; the winner stays", () => {
  const choices = annotate(utilities, { seed: 1 });
  assertEquals(choices.length, 300 * 2 * 5);
  assertEquals(annotate(utilities, { seed: 1 }), choices);
  for (let from = 0; from < choices.length; from += 5) {
    const session = choices.slice(from, from + 5);
    assertEquals(new Set(session.flatMap(({ image0, image1 }) => [image0, image1])).size, 6);
    for (let i = 1; i < 5; i++) {
      const { image0, image1, label0 } = session[i - 1]!;
      if (label0 === 0.5) continue;
      const winner = label0 === 1 ? image0 : image1;
      assert(session[i]!.image0 === winner || session[i]!.image1 === winner);
    }
  }
});

Deno.test("choices follow the utility, with ties and noise", () => {
  const choices = annotate(utilities, { seed: 2 });
  const decided = choices.filter(({ label0 }) => label0 !== 0.5);
  const ties = 1 - decided.length / choices.length;
  assert(ties > 0.05 && ties < 0.2, `ties ${ties}`);
  const right =
    decided.filter(({ prompt, image0, image1, label0 }) =>
      (utilities[prompt]![image0]! > utilities[prompt]![image1]!) === (label0 === 1)
    ).length / decided.length;
  assert(right > 0.7 && right < 0.9, `right ${right}`);
  const left = decided.filter(({ label0 }) => label0 === 1).length / decided.length;
  assertAlmostEquals(left, 0.5, 0.04);
});

Deno.test("without noise the best image wins every session", () => {
  const choices = annotate([[0, 1, 2, 3, 4, 5]], { seed: 1, temperature: 0, tieThreshold: 0 });
  const last = choices[4]!;
  assertEquals(last.label0 === 1 ? last.image0 : last.image1, 5);
  assertThrows(() => annotate([[1, 2]], { seed: 1 }), RangeError, "prompt 0 has only 2");
});
