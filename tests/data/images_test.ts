import { assert, assertEquals, assertRejects } from "@std/assert";
import sharp from "sharp";
import { decodeImage, encodeImage, LOSSLESS, UnreadableImage } from "../../lib/data/images.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";

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

const [golden] = goldenCases("preprocessing") as unknown as [{ golden: string; formats: string[] }];
const file = await openSafetensors(goldenPath(golden.golden));

for (const name of golden.formats) {
  Deno.test(`${name} becomes what Pillow makes of it`, async () => {
    const found = await decodeImage(await file.read(`${name}.bytes`) as Uint8Array);
    const [height, width] = file.entries.get(`${name}.rgb`)!.shape;
    assertEquals([found.width, found.height], [width, height]);
    assertEquals(found.data, await file.read(`${name}.rgb`));
  });
}

Deno.test("bad bytes name their source, a wrong size its numbers", async () => {
  const source = 'x.parquet: column "jpg_0", row 3';
  await assertRejects(() => decodeImage(Uint8Array.of(1, 2, 3), source), Error, source);
  const bytes = await encodeImage({ width, height, data });
  await assertRejects(
    () => decodeImage(bytes.slice(0, bytes.length / 2), source),
    Error,
    "not a readable image",
  );
  await assertRejects(
    () => encodeImage({ width: 2, height: 2, data: new Uint8Array(3) }),
    RangeError,
    "has 12 bytes, got 3",
  );
});

Deno.test("an image that claims too many pixels is refused before it is decoded", async () => {
  const [width, height] = [16_000, 16_000];
  const bytes = await sharp({ create: { width, height, channels: 3, background: "red" } })
    .png({ compressionLevel: 9 }).toBuffer();
  await assertRejects(
    () => decodeImage(bytes, "x"),
    UnreadableImage,
    `x: ${bytes.length} bytes are not a readable image (16000 x 16000 pixels are more than 178956970)`,
  );
});
