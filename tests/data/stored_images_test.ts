import { assertEquals, assertRejects } from "@std/assert";
import { readComparisons } from "../../lib/data/comparisons.ts";
import { decodeImage, UnreadableImage } from "../../lib/data/images.ts";
import { PreferenceFile } from "../../lib/data/preference_file.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import { readImages } from "../../lib/data/stored_images.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";
import { imageOf, inFolder, rowOf, rowsUpTo } from "./rows.ts";

for (const { name, file, images } of goldenCases("parquet") as unknown as ParquetCase[]) {
  Deno.test(`images as pyarrow wrote them: ${name}`, async () => {
    const comparisons = await readComparisons(goldenPath(file));
    const read = () => Array.fromAsync(readImages(comparisons));
    if (!images) {
      await assertRejects(read, Error, `${goldenPath(file)} has no column "jpg_0"`);
      return;
    }
    const found = (await read()).map(({ uid, bytes }) => [uid, new TextDecoder().decode(bytes)]);
    const uids = comparisons.images;
    // Row 5 shows image-6 first, and has no bytes for it.
    assertEquals(found, uids.map((uid) => [uid, uid === "image-6" ? "" : `bytes of ${uid}`]));
  });
}

interface ParquetCase {
  readonly name: string;
  readonly file: string;
  readonly images: boolean;
}

Deno.test("each image once, in the order of the rows, from the first that shows it", () =>
  inFolder(async (folder) => {
    await writePreferences(`${folder}/a.parquet`, rowsUpTo(12));
    const again = { ...await rowOf(3), jpg_0: await imageOf(200), image_1_uid: "late" };
    await writePreferences(`${folder}/b.parquet`, [again]);
    const comparisons = await readComparisons(folder);
    const numberOf = (uid: string) => comparisons.images.indexOf(uid);
    const all = await Array.fromAsync(readImages(comparisons));
    // Every fifth image is shown for two captions and has two numbers.
    assertEquals(all.map(({ number }) => number), [...comparisons.images.keys()]);
    for (const { uid, bytes, source } of all) {
      const [grey] = (await decodeImage(bytes, source)).data;
      assertEquals(uid, uid === "late" ? "late" : `image-${grey}`);
    }
    const wanted = ["late", "image-12", "image-2"].map(numberOf);
    const some = await Array.fromAsync(readImages(comparisons, wanted));
    assertEquals(some.map(({ uid, source }) => [uid, source.slice(folder.length)]), [
      ["image-2", '/a.parquet: column "jpg_1", row 1'],
      ["image-12", '/a.parquet: column "jpg_1", row 11'],
      ["late", '/b.parquet: column "jpg_1", row 0'],
    ]);
    assertEquals(await Array.fromAsync(readImages(comparisons, [])), []);
  }));

Deno.test("only the row groups, columns and files of wanted images are read", () =>
  inFolder(async (folder) => {
    const path = `${folder}/a.parquet`;
    // Of each row group and side one image; what cannot be compressed is found again in the file.
    const images = Array.from(
      { length: 6 },
      () => crypto.getRandomValues(new Uint8Array(64)),
    );
    const row = await rowOf(0);
    const rows = Array.from({ length: 4500 }, (_, i) => ({
      ...{ ...row, image_0_uid: `a${i}`, image_1_uid: `b${i}` },
      jpg_0: images[2 * Math.floor(i / 2000)]!,
      jpg_1: images[2 * Math.floor(i / 2000) + 1]!,
    }));
    await writePreferences(path, rows);
    await writePreferences(`${folder}/b.parquet`, rowsUpTo(3));
    const bytes = await Deno.readFile(path);
    const comparisons = await readComparisons(folder);
    await Deno.remove(`${folder}/b.parquet`);
    for (const image of images.slice(0, 5)) {
      const at = indexOf(bytes, image);
      bytes.fill(255, at - 20, at + 20);
    }
    await Deno.writeFile(path, bytes);
    const read = (uid: string) =>
      Array.fromAsync(readImages(comparisons, [comparisons.images.indexOf(uid)]));
    const [last] = await read("b4499");
    assertEquals(last!.source, `${path}: column "jpg_1", row 4499`);
    assertEquals(last!.bytes, images[5]);
    await assertRejects(() => read("a4499"), Error, `${path}: column jpg_0 cannot be read`);
    await assertRejects(() => read("b7"), Error, `${path}: column jpg_1 cannot be read`);
    await assertRejects(() => read("image-2"), Error, `${folder}/b.parquet`);
    await using file = await PreferenceFile.open(path);
    assertEquals(file.rowGroups, [
      { number: 0, firstRow: 0, rows: 2000 },
      { number: 1, firstRow: 2000, rows: 2000 },
      { number: 2, firstRow: 4000, rows: 500 },
    ]);
  }));

function indexOf(bytes: Uint8Array, part: Uint8Array): number {
  let at = bytes.indexOf(part[0]!);
  while (!part.every((byte, i) => bytes[at + i] === byte)) at = bytes.indexOf(part[0]!, at + 1);
  return at;
}

Deno.test("an image without bytes is told where it should be", () =>
  inFolder(async (folder) => {
    const path = `${folder}/x.parquet`;
    await writePreferences(path, rowsUpTo(1, { jpg_1: new Uint8Array() }));
    const [, second] = await Array.fromAsync(readImages(await readComparisons(path)));
    await assertRejects(
      () => decodeImage(second!.bytes, second!.source),
      UnreadableImage,
      `${path}: column "jpg_1", row 0 holds no image bytes`,
    );
  }));
