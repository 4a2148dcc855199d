import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { fullPairs } from "../../lib/data/curation.ts";
import { readComparisons } from "../../lib/data/comparisons.ts";
import { faultLines } from "../../lib/data/faults.ts";
import { PreferenceFile } from "../../lib/data/preference_file.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";
import { inFolder, rowOf, rowsUpTo, START } from "./rows.ts";

const { caption, label_0, image_0_uid, image_1_uid } = JSON.parse(
  Deno.readTextFileSync(goldenPath("parquet/rows.json")),
);

for (
  const { name, file } of goldenCases("parquet") as unknown as { name: string; file: string }[]
) {
  Deno.test(`choices as pyarrow wrote them: ${name}`, async () => {
    const path = goldenPath(file);
    const found = await readComparisons(path);
    // Row 3 has no label, row 7 no caption, row 11 no second image.
    const rows = [0, 1, 2, 4, 5, 6, 8, 9, 10];
    const labelled = name === "no-images" ? 0 : 1;
    assertEquals([...found.row], rows);
    assertEquals([found.rowCount, found.unlabelled], [12, labelled]);
    assertEquals(
      [...found.image0].map((image) => found.captions[found.imageCaption[image]!]),
      rows.map((row) => caption[row]),
    );
    assertEquals([...found.image0].map((i) => found.images[i]), rows.map((r) => image_0_uid[r]));
    assertEquals([...found.image1].map((i) => found.images[i]), rows.map((r) => image_1_uid[r]));
    assertEquals([...found.label0], rows.map((row) => label_0[row]));
    const seconds = rows.map((row) => row === 9 ? -Infinity : 1_680_000_000_000 + 1000 * row);
    assertEquals([...found.createdAt], seconds);
    const faults = new Map(found.faults.map((fault) => [fault.kind, fault]));
    assertEquals(faults.get("rows without a caption"), {
      kind: "rows without a caption",
      count: 1,
      example: `${path}: column "caption", row 7 holds null; a text is expected`,
    });
    assertEquals(faults.get("rows without an image's uid")?.count, 1);
    // Without the column has_label the unlabelled row is a faulty one.
    assertEquals(faults.get("rows with another label")?.count, labelled === 0 ? 1 : undefined);
  });
}

Deno.test("shards of different layouts are one dataset", async () => {
  const found = await readComparisons(goldenPath("parquet/*.parquet"));
  assertEquals(found.files.map(({ firstRow }) => firstRow), [0, 12, 24, 36]);
  assertEquals(found.label0.length, 4 * 9);
  assertEquals(found.captions.length, 3, "captions are known again from shard to shard");
  assertEquals(fullPairs(found).winner.length, 4 * 7);
});

Deno.test("a folder of shards: unlabelled rows and empty shards", () =>
  inFolder(async (folder) => {
    await writePreferences(`${folder}/b.parquet`, rowsUpTo(4, { has_label: false }));
    await writePreferences(`${folder}/a.parquet`, rowsUpTo(6));
    await Deno.writeTextFile(`${folder}/README.md`, "a data card");
    await writePreferences(`${folder}/c.parquet`, []);
    const progress: number[] = [];
    const found = await readComparisons(folder, (done) => progress.push(done));
    assertEquals([found.label0.length, found.rowCount, found.unlabelled], [6, 10, 4]);
    assertEquals(progress, [6, 10]);
    assertEquals((await readComparisons(`${folder}/[ac].parquet`)).rowCount, 6);
    await assertRejects(() => readComparisons(`${folder}/x*.parquet`), Error, "No file matches");
  }));

Deno.test("the splits of a download are not taken for one dataset", () =>
  inFolder(async (folder) => {
    const shard = (split: string) => `${folder}/${split}-00000-of-00001-0123456789abcdef.parquet`;
    await writePreferences(shard("train"), rowsUpTo(2));
    assertEquals((await readComparisons(folder)).rowCount, 2);
    await writePreferences(shard("validation_unique"), rowsUpTo(3));
    const { message } = await assertRejects(() => readComparisons(folder), Error);
    assert(message.includes("several splits (train, validation_unique)"), message);
    assertEquals((await readComparisons(`${folder}/train-*.parquet`)).rowCount, 2);
  }));

Deno.test("rows that cannot be used are left out and counted", () =>
  inFolder(async (folder) => {
    const path = `${folder}/x.parquet`;
    const rows = await Array.fromAsync(rowsUpTo(9));
    rows[2] = { ...rows[2]!, label_0: 0.7 };
    rows[4] = { ...rows[4]!, image_1_uid: "" };
    rows[5] = { ...rows[5]!, label_0: NaN };
    await writePreferences(path, rows);
    const { row, faults } = await readComparisons(path);
    assertEquals([...row], [0, 1, 3, 6, 7, 8]);
    assertEquals(faultLines(faults), [
      `2 rows with another label; the first: ${path}: column "label_0", row 2 holds 0.7; ` +
      "0, 0.5 or 1 is expected",
      `1 rows without an image's uid; the first: ${path}: column "image_1_uid", row 4 holds ""; ` +
      "a uid is expected",
    ]);
  }));

Deno.test("bad files name what is wrong with them", () =>
  inFolder(async (folder) => {
    const path = `${folder}/x.parquet`;
    await assertRejects(() => readComparisons(path), Error, `Cannot open the preference dataset`);
    await assertRejects(() => readComparisons(folder), Error, "holds no *.parquet file");

    await Deno.writeTextFile(path, "caption,label_0\n");
    await assertRejects(() => readComparisons(path), Error, "not a whole Parquet file");
    await Deno.writeFile(path, new Uint8Array());
    await assertRejects(() => readComparisons(path), Error, "it has 0 bytes");

    await writePreferences(path, rowsUpTo(10));
    const whole = await Deno.readFile(path);
    await Deno.writeFile(path, whole.slice(0, -100));
    await assertRejects(() => readComparisons(path), Error, "cut short");

    const damaged = whole.slice();
    damaged.fill(255, damaged.length - 60, damaged.length - 8);
    await Deno.writeFile(path, damaged);
    await assertRejects(() => readComparisons(path), Error, path);

    const torn = whole.slice();
    torn.fill(255, 100, 600);
    await Deno.writeFile(path, torn);
    await assertRejects(() => readComparisons(path), Error, `${path}: columns caption`);

    const write = (columns: Record<string, arrow.Vector>) =>
      Deno.writeFile(
        path,
        parquet.writeParquet(
          parquet.Table.fromIPCStream(arrow.tableToIPC(new arrow.Table(columns), "stream")),
        ),
      );
    const texts = arrow.vectorFromArray(["x"], new arrow.Utf8());
    await write({ caption: texts });
    await assertRejects(() => readComparisons(path), Error, `${path} has no column "image_0_uid"`);
    const uids = { image_0_uid: texts, image_1_uid: texts };
    const created_at = arrow.vectorFromArray([new Date()], new arrow.TimestampMillisecond());
    await write({ caption: texts, ...uids, created_at, label_0: texts });
    await assertRejects(
      () => readComparisons(path),
      Error,
      `${path}: column "label_0" is Utf8; a number is expected`,
    );

    await writePreferences(path, rowsUpTo(3, { label_0: 0.7 }));
    const { message } = await assertRejects(() => readComparisons(path), Error);
    assert(message.includes("3 of 3 labelled rows cannot be used"), message);
    assert(message.includes('column "label_0", row 0 holds 0.7'), message);
  }));

Deno.test("a file is known again until it changes", () =>
  inFolder(async (folder) => {
    const identityOf = async (path: string) => {
      await using file = await PreferenceFile.open(path);
      return await file.identity();
    };
    const path = `${folder}/x.parquet`;
    await writePreferences(path, rowsUpTo(3));
    const first = await identityOf(path);
    assertEquals(await identityOf(path), first);
    await Deno.rename(path, `${folder}/y.parquet`);
    assertEquals(await identityOf(`${folder}/y.parquet`), first);
    await writePreferences(path, [await rowOf(0), await rowOf(1), await rowOf(3)]);
    assert(await identityOf(path) !== first);
    await Deno.utime(`${folder}/y.parquet`, START / 1000, START / 1000);
    assert(await identityOf(`${folder}/y.parquet`) !== first);
  }));
