import { assert, assertEquals, assertRejects } from "@std/assert";
import { decodeImage, encodeImage, LOSSLESS } from "../../lib/data/images.ts";

const width = 20, height = 12;
const data = Uint8Array.from(
  { length: width * height * 3 },
  (_, i) => Math.floor(i / 3) * 5 + i % 3 * 20,
);

Deno.test("the lossless format changes no pixel", async () => {
  const bytes = await encodeImage({ width, height, data }, LOSSLESS);
  assertEquals(await decodeImage(bytes), { width, height, data });
});

Deno.test("lossy formats come close", async () => {
  const grey = new Uint8Array(width * height * 3).fill(100);
  for (const kind of ["webp", "avif", "jpeg"] as const) {
    const bytes = await encodeImage({ width, height, data: grey }, { kind, quality: 90 });
    const image = await decodeImage(bytes);
    assertEquals([image.width, image.height], [width, height]);
    assert(image.data.every((value) => Math.abs(value - 100) <= 3), kind);
  }
});

Deno.test("a resolution resizes the short side and cuts out the middle", async () => {
  const striped = Uint8Array.from({ length: 32 * 16 * 3 }, (_, i) => {
    const x = Math.floor(i / 3) % 32;
    return x < 8 ? 0 : x < 24 ? 120 : 255;
  });
  const bytes = await encodeImage({ width: 32, height: 16, data: striped });
  const image = await decodeImage(bytes, { resolution: 16 });
  assertEquals([image.width, image.height, image.data.length], [16, 16, 16 * 16 * 3]);
  assert(image.data.every((value) => value === 120));
  assertEquals((await decodeImage(bytes, { resolution: 8 })).data.length, 8 * 8 * 3);
});

Deno.test("bad bytes name their source, a wrong size its numbers", async () => {
  const source = 'x.parquet: column "jpg_0", row 3';
  await assertRejects(() => decodeImage(Uint8Array.of(1, 2, 3), { source }), Error, source);
  const bytes = await encodeImage({ width, height, data });
  await assertRejects(
    () => decodeImage(bytes.slice(0, bytes.length / 2), { source }),
    Error,
    "not a readable image",
  );
  await assertRejects(
    () => encodeImage({ width: 2, height: 2, data: new Uint8Array(3) }),
    RangeError,
    "has 12 bytes, got 3",
  );
});
