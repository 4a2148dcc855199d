import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { filteredPairs } from "../../lib/data/curation.ts";
import { decodeImage, encodeImage } from "../../lib/data/images.ts";
import {
  PreferenceFile,
  readComparisons,
  readImages,
  writePreferences,
} from "../../lib/data/preferences.ts";
import { PREFERENCE_COLUMNS, type PreferenceRow } from "../../lib/data/schema.ts";

const START = Date.parse("2026-01-01T00:00:00Z");

async function imageOf(number: number): Promise<Uint8Array> {
  const data = new Uint8Array(4 * 4 * 3).fill(number % 256);
  return await encodeImage({ width: 4, height: 4, data });
}

/** Row i: prompt i/5, image i against i+1, three kinds of label in turn. */
async function rowOf(i: number): Promise<PreferenceRow> {
  const label = [1, 0, 0.5][i % 3]!;
  return {
    are_different: label !== 0.5,
    best_image_uid: label === 0.5 ? "tie" : `image-${label === 1 ? i : i + 1}`,
    caption: `prompt ${Math.floor(i / 5)}`,
    created_at: new Date(START + 1000 * i),
    has_label: true,
    image_0_uid: `image-${i}`,
    image_0_url: "",
    image_1_uid: `image-${i + 1}`,
    image_1_url: "",
    jpg_0: await imageOf(i),
    jpg_1: await imageOf(i + 1),
    label_0: label,
    label_1: 1 - label,
    model_0: "nano",
    model_1: "nano",
    ranking_id: i,
    user_id: i % 4,
    num_example_per_prompt: 5,
    __index_level_0__: i,
  };
}

async function* rowsUpTo(n: number, change: Partial<PreferenceRow> = {}) {
  for (let i = 0; i < n; i++) yield { ...await rowOf(i), ...change };
}

async function inFolder(test: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a written dataset is read back: choices, images, footer", () =>
  inFolder(async (folder) => {
    const path = `${folder}/preferences.parquet`;
    await writePreferences(path, rowsUpTo(30), { licence: "CC0-1.0" });
    {
      await using file = await PreferenceFile.open(path);
      assertEquals(file.rowCount, 30);
      assertEquals(file.columns, PREFERENCE_COLUMNS);
      assertEquals(file.metadata.get("licence"), "CC0-1.0");
    }
    const comparisons = await readComparisons(path);
    assertEquals(comparisons.captions.length, 6);
    assertEquals([...comparisons.label0.slice(0, 4)], [1, 0, 0.5, 1]);
    assertEquals(comparisons.createdAt[7], START + 7000);
    assertEquals(comparisons.images[comparisons.image1[0]!], "image-1");
    assert(filteredPairs(comparisons).winner.length > 0);

    const images: string[] = [];
    for await (const { uid, bytes, source } of readImages(path)) {
      const { data } = await decodeImage(bytes, { source });
      assertEquals(uid, `image-${data[0]}`);
      images.push(uid);
    }
    assertEquals(images.length, 31);
    const some = await Array.fromAsync(readImages(path, ["image-30", "image-2"]));
    assertEquals(some.map(({ uid }) => uid), ["image-2", "image-30"]);
    assertEquals(some[0]!.source, `${path}: column "jpg_1", row 1`);
  }));

Deno.test("the file's types are Pick-a-Pic's", () =>
  inFolder(async (folder) => {
    const path = `${folder}/preferences.parquet`;
    await writePreferences(path, rowsUpTo(3));
    const table = arrow.tableFromIPC(
      parquet.readParquet(await Deno.readFile(path)).intoIPCStream(),
    );
    const types = Object.fromEntries(
      table.schema.fields.map(({ name, type }) => [name, String(type)]),
    );
    assertEquals(types, {
      are_different: "Bool",
      best_image_uid: "Utf8",
      caption: "Utf8",
      created_at: "Timestamp<NANOSECOND>",
      has_label: "Bool",
      image_0_uid: "Utf8",
      image_0_url: "Utf8",
      image_1_uid: "Utf8",
      image_1_url: "Utf8",
      jpg_0: "Binary",
      jpg_1: "Binary",
      label_0: "Float64",
      label_1: "Float64",
      model_0: "Utf8",
      model_1: "Utf8",
      ranking_id: "Int64",
      user_id: "Int64",
      num_example_per_prompt: "Int64",
      __index_level_0__: "Int64",
    });
    assertEquals(table.getChild("ranking_id")!.get(2), 2n);
  }));

Deno.test("a folder of files is one dataset; unlabelled rows are left out", () =>
  inFolder(async (folder) => {
    await writePreferences(`${folder}/b.parquet`, rowsUpTo(4, { has_label: false }));
    await writePreferences(`${folder}/a.parquet`, rowsUpTo(6));
    await Deno.writeTextFile(`${folder}/README.md`, "a data card");
    assertEquals((await readComparisons(folder)).label0.length, 6);
    await writePreferences(`${folder}/c.parquet`, []);
    assertEquals((await readComparisons(folder)).label0.length, 6);
  }));

Deno.test("row groups stay bounded; later ones are found", () =>
  inFolder(async (folder) => {
    const path = `${folder}/preferences.parquet`;
    const row = await rowOf(0);
    const rows = Array.from({ length: 4500 }, (_, i) => ({
      ...row,
      image_0_uid: `a${i}`,
      image_1_uid: `b${i}`,
    }));
    await writePreferences(path, rows);
    const file = await Deno.readFile(path);
    assert(file.length < 200_000, "an image that occurs again costs nothing");
    const images = await Array.fromAsync(readImages(path, ["b4499"]));
    assertEquals(images[0]!.source, `${path}: column "jpg_1", row 4499`);
  }));

Deno.test("bad files name what is wrong with them", () =>
  inFolder(async (folder) => {
    const path = `${folder}/x.parquet`;
    await assertRejects(() => readComparisons(path), Error, `Cannot open the preference dataset`);
    await assertRejects(() => readComparisons(folder), Error, "holds no *.parquet file");

    await Deno.writeTextFile(path, "caption,label_0\n");
    await assertRejects(() => readComparisons(path), Error, "not a whole Parquet file");

    await writePreferences(path, rowsUpTo(10));
    const whole = await Deno.readFile(path);
    await Deno.writeFile(path, whole.slice(0, -100));
    await assertRejects(() => readComparisons(path), Error, "cut short");

    const damaged = whole.slice();
    damaged.fill(255, damaged.length - 60, damaged.length - 8);
    await Deno.writeFile(path, damaged);
    await assertRejects(() => readComparisons(path), Error, path);

    const table = new arrow.Table({ caption: arrow.vectorFromArray(["x"], new arrow.Utf8()) });
    await Deno.writeFile(
      path,
      parquet.writeParquet(parquet.Table.fromIPCStream(arrow.tableToIPC(table, "stream"))),
    );
    await assertRejects(() => readComparisons(path), Error, 'no column "image_0_uid"');

    await writePreferences(path, rowsUpTo(3, { label_0: 0.7 }));
    await assertRejects(
      () => readComparisons(path),
      Error,
      'column "label_0", row 0 holds 0.7; 0, 0.5 or 1 is expected',
    );

    await writePreferences(path, rowsUpTo(3, { jpg_1: new Uint8Array() }));
    await assertRejects(
      () => Array.fromAsync(readImages(path)),
      Error,
      'column "jpg_1", row 0 holds no image bytes',
    );
    await assertRejects(
      () => Array.fromAsync(readImages(path, ["absent"])),
      Error,
      "lacks 1 of the wanted images, for example absent",
    );
  }));

Deno.test("a failed write leaves nothing behind", () =>
  inFolder(async (folder) => {
    async function* rows() {
      yield await rowOf(0);
      throw new Error("the generator stopped");
    }
    const path = `${folder}/preferences.parquet`;
    await assertRejects(() => writePreferences(path, rows()), Error, "the generator stopped");
    assertEquals(await Array.fromAsync(Deno.readDir(folder)), []);
    await assertRejects(
      () => writePreferences(`${folder}/none/x.parquet`, rowsUpTo(1)),
      Error,
      "Could not write the preference dataset",
    );
  }));
