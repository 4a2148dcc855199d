import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { captionText, parseCaption, sampleCaption } from "../../lib/nano/caption.ts";
import { judge } from "../../lib/nano/oracle.ts";
import { cleanExample, toBytes, trainingExample } from "../../lib/nano/world.ts";
import { generator } from "../../lib/tensor/random.ts";

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

Deno.test("clean pictures are aligned and appealing", () => {
  const random = generator({ seed: 1, stream: 0, step: 0 });
  const judgements = Array.from({ length: 300 }, (_, i) => {
    const caption = sampleCaption(random);
    return judge(toBytes(cleanExample(caption, 1, i)), caption);
  });
  assert(mean(judgements.map(({ alignment }) => alignment)) > 0.985);
  assertAlmostEquals(mean(judgements.map(({ appeal }) => appeal)), 0.96, 0.01);
  const { alignment, appeal, utility } = judgements[0]!;
  assertAlmostEquals(utility, 2 * alignment + 1.5 * appeal, 1e-12);
});

Deno.test("wrong attributes cost alignment, degradations cost appeal", () => {
  const groups = { fine: [] as number[][], wrong: [] as number[][], degraded: [] as number[][] };
  for (let i = 0; i < 800; i++) {
    const { caption, pixels, wrong, degradations } = trainingExample(7, i);
    const { alignment, appeal } = judge(toBytes(pixels), caption);
    if (!wrong && degradations === 0) groups.fine.push([alignment, appeal]);
    if (wrong && degradations === 0) groups.wrong.push([alignment, appeal]);
    if (!wrong && degradations > 0) groups.degraded.push([alignment, appeal]);
  }
  const of = (group: number[][], at: number) => mean(group.map((pair) => pair[at]!));
  assert(of(groups.wrong, 0) < of(groups.fine, 0) - 0.2);
  assertAlmostEquals(of(groups.wrong, 1), of(groups.fine, 1), 0.03);
  assert(of(groups.degraded, 1) < of(groups.fine, 1) - 0.3);
  assert(of(groups.degraded, 0) < of(groups.fine, 0) - 0.05);
});

Deno.test("each wrong attribute is seen in its own part", () => {
  const text = "a small red circle left of a large blue square on a dark background";
  const image = toBytes(cleanExample(parseCaption(text), 3, 0));
  const parts = (from: string, to: string) =>
    judge(image, parseCaption(text.replace(from, to))).parts;
  const right = { presence: 1, shape: 1, size: 1, relation: 1, background: 1, noExtra: 1 };
  assertEquals(parts("", ""), right);
  assertEquals(parts("circle", "cross"), { ...right, shape: 0.5 });
  assertEquals(parts("small", "large"), { ...right, size: 0.5 });
  assertEquals(parts("left of", "above"), { ...right, relation: 0 });
  assertEquals(parts("dark", "teal"), { ...right, background: 0 });
  assertEquals(parts("red", "green"), {
    presence: 0.5,
    shape: 0.5,
    size: 0.5,
    relation: 0,
    background: 1,
    noExtra: 0,
  });
});

Deno.test("grey noise shows nothing; another size is refused", () => {
  const caption = parseCaption("a small red circle on a dark background");
  const grey = new Uint8Array(64 * 64 * 3).fill(128);
  assert(judge(grey, caption).alignment < 0.3, captionText(caption));
  assertThrows(() => judge(new Uint8Array(12), caption), RangeError, "got 12");
});
