import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { readComparisons } from "../../lib/data/comparisons.ts";
import { filteredPairs } from "../../lib/data/curation.ts";
import { decodeImage } from "../../lib/data/images.ts";
import { PreferenceFile } from "../../lib/data/preference_file.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import { PREFERENCE_COLUMNS } from "../../lib/data/schema.ts";
import { readImages } from "../../lib/data/stored_images.ts";
import { inFolder, rowOf, rowsUpTo, START } from "./rows.ts";

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

    const images = await Array.fromAsync(readImages(comparisons));
    for (const { uid, bytes, source } of images) {
      const { data } = await decodeImage(bytes, source);
      assertEquals(uid, `image-${data[0]}`);
    }
    assertEquals(new Set(images.map(({ uid }) => uid)).size, 31);
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
