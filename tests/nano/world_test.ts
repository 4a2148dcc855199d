import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { parseCaption, SHAPES } from "../../lib/nano/caption.ts";
import { applyDegradation, DEGRADATIONS } from "../../lib/nano/degrade.ts";
import { paint } from "../../lib/nano/shapes.ts";
import {
  cleanExample,
  fromBytes,
  IMAGE_VALUES,
  PALETTE,
  type Placement,
  placeObjects,
  renderScene,
  toBytes,
  trainingExample,
} from "../../lib/nano/world.ts";
import { generator } from "../../lib/tensor/random.ts";

Deno.test("every shape covers the area of its circle", () => {
  for (const shape of SHAPES) {
    for (const radius of [6.5, 12]) {
      const pixels = new Float32Array(IMAGE_VALUES);
      paint(pixels, shape, 31.3, 32.8, radius, [1, 0, 0]);
      const area = pixels.reduce((a, b) => a + b, 0);
      assertAlmostEquals(area / (Math.PI * radius ** 2), 1, 0.02);
    }
  }
});

Deno.test("a scene has its palette colours where its objects are", () => {
  const caption = parseCaption(
    "a large red circle above a small blue square on a light background",
  );
  const pixels = renderScene(caption, [{ x: 30, y: 17, radius: 12 }, {
    x: 34,
    y: 46,
    radius: 6.5,
  }]);
  const at = (x: number, y: number) => [...pixels.slice((y * 64 + x) * 3, (y * 64 + x) * 3 + 3)];
  const near = (actual: number[], expected: readonly number[]) =>
    actual.forEach((value, i) => assertAlmostEquals(value, expected[i]!, 1e-6));
  near(at(30, 17), PALETTE.red);
  near(at(34, 46), PALETTE.blue);
  near(at(2, 2), PALETTE.light);
});

Deno.test("objects lie inside the image, in their relation", () => {
  const random = generator({ seed: 5, stream: 0, step: 0 });
  const caption = parseCaption(
    "a large red triangle right of a large blue cross on a dark background",
  );
  for (let i = 0; i < 200; i++) {
    const [first, second] = placeObjects(caption, random) as [Placement, Placement];
    assert(first.x - second.x > 15);
    for (const { x, y } of [first, second]) assert(Math.min(x, y, 64 - x, 64 - y) > 12);
  }
});

Deno.test("a training example is a pure function of seed and index", () => {
  const batch = new Float32Array(2 * IMAGE_VALUES);
  const one = trainingExample(3, 10, batch.subarray(IMAGE_VALUES));
  assertEquals(trainingExample(3, 10), { ...one, pixels: batch.slice(IMAGE_VALUES) });
  assert(trainingExample(4, 10).pixels.some((value, i) => value !== one.pixels[i]));
  assertEquals(cleanExample(one.caption, 1, 2), cleanExample(one.caption, 1, 2));
});

Deno.test("shares of the training world", () => {
  const n = 1500;
  const examples = Array.from({ length: n }, (_, i) => trainingExample(1, i));
  const share = (test: (example: typeof examples[0]) => boolean) =>
    examples.filter(test).length / n;
  assertAlmostEquals(share(({ wrong }) => wrong !== undefined), 0.15, 0.03);
  assertAlmostEquals(share(({ degradations }) => degradations > 0), 0.65, 0.04);
  assertAlmostEquals(share(({ degradations }) => degradations === 2), 0.195, 0.03);
  assert(examples.every(({ pixels }) => pixels.every((value) => value >= 0 && value <= 1)));
});

Deno.test("each degradation changes the picture and stays in range", () => {
  const caption = parseCaption("a large red circle on a teal background");
  const clean = cleanExample(caption, 1, 0);
  for (const kind of DEGRADATIONS) {
    const pixels = clean.slice();
    applyDegradation(pixels, kind, generator({ seed: 1, stream: 1, step: 0 }));
    assert(pixels.some((value, i) => Math.abs(value - clean[i]!) > 0.05), kind);
    assert(pixels.every((value) => value >= 0 && value <= 1), kind);
  }
});

Deno.test("bytes and values", () => {
  assertEquals(toBytes(Float32Array.of(0, 0.5, 1)), Uint8Array.of(0, 128, 255));
  assertEquals(toBytes(fromBytes(Uint8Array.of(0, 7, 255))), Uint8Array.of(0, 7, 255));
});
