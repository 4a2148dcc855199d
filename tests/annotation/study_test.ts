/** The study's folder: what is written is read, and what is wrong is named. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import sharp from "sharp";
import { pictureOf } from "../../lib/annotation/picture.ts";
import { imageAt, readStudy, type Study, writeStudy } from "../../lib/annotation/study.ts";
import { makeTinyStudy, side, tinyImages, tinyStudy } from "./tiny_study.ts";

Deno.test("a study is read as it was written", async () => {
  const folder = await makeTinyStudy();
  const { study, images, digest } = await readStudy(folder);
  assertEquals(study, tinyStudy);
  assertEquals(images, tinyImages);
  assertEquals(await writeStudy(folder, tinyStudy, tinyImages), digest);
  assertEquals([...imageAt(study, images, { model: "hidden-second", row: 2 })].slice(0, 3), [
    0,
    120,
    255,
  ]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("the digest follows what people see, and nothing else", async () => {
  const folder = await Deno.makeTempDir();
  const digest = (study: Study, images = tinyImages) => writeStudy(folder, study, images);
  const first = await digest(tinyStudy);
  const { "hidden-first": a, "hidden-second": b } = tinyStudy.models;
  const renamed = (place: { model: string; row: number }) => ({
    ...place,
    model: place.model.replace("hidden", "x"),
  });
  const same = {
    ...tinyStudy,
    title: "another",
    models: { "x-first": { ...a!, file: "x.png" }, "x-second": b! },
    items: tinyStudy.items.map((item) => ({ ...item, a: renamed(item.a), b: renamed(item.b) })),
  };
  const named = {
    "x-first": tinyImages["hidden-first"]!,
    "x-second": tinyImages["hidden-second"]!,
  };
  assertEquals(await digest(same, named), first);

  const [item, ...rest] = tinyStudy.items;
  const swapped = { ...tinyStudy, items: [{ ...item!, a: item!.b, b: item!.a }, ...rest] };
  const worded = { ...tinyStudy, items: [{ ...item!, prompt: "another" }, ...rest] };
  const drawn = { ...tinyImages, "hidden-first": tinyImages["hidden-first"]!.with(0, 254) };
  const others = [await digest(swapped), await digest(worded), await digest(tinyStudy, drawn)];
  assertEquals(new Set([first, ...others]).size, 4);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("what is missing or damaged is named with its remedy", async () => {
  const folder = await makeTinyStudy();
  const refused = async (words: string) => {
    const error = await assertRejects(() => readStudy(folder), Error, words);
    assertStringIncludes(error.message, folder);
  };
  const strip = `${folder}/hidden-file-1.png`;
  const whole = await Deno.readFile(strip);
  await Deno.writeFile(strip, whole.subarray(0, whole.length - 30));
  await refused("hidden-file-1.png is not a readable image");
  await sharp({ create: { width: side, height: side, channels: 3, background: "red" } }).png()
    .toFile(strip);
  await refused("hidden-file-1.png is 8x8, but");
  await Deno.remove(strip);
  await refused("hidden-file-1.png does not exist");
  await Deno.writeTextFile(`${folder}/study.json`, "{");
  await refused("study.json is not JSON");
  await Deno.remove(`${folder}/study.json`);
  await refused('study.json does not exist: make the study with "deno task reproduce figure4"');
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a study that contradicts itself is refused, with the item", async () => {
  const folder = await Deno.makeTempDir();
  const [item, ...rest] = tinyStudy.items, [question] = tinyStudy.questions;
  const withItem = (change: object) => ({ items: [{ ...item, ...change }, ...rest] });
  const withModel = (change: object) => ({
    models: {
      ...tinyStudy.models,
      "hidden-second": { ...tinyStudy.models["hidden-second"], ...change },
    },
  });
  const cases: [object, string][] = [
    [{ title: "" }, "title must be a text"],
    [{ questions: [] }, "questions must be a list of at least one"],
    [{ questions: [{ ...question, id: "beauty" }] }, 'id "beauty"; expected one of general'],
    [{ questions: [question, question] }, 'question "general" is there twice'],
    [{ questions: [{ ...question, showPrompt: 1 }] }, "must be true or false, found 1"],
    [{ items: {} }, "items must be a list"],
    [{ items: [item, item] }, 'item "hidden-item-0" is there twice'],
    [withItem({ prompt: 3 }), 'prompt of item "hidden-item-0" must be a text, found 3'],
    [withItem({ a: undefined }), 'image a of item "hidden-item-0" must be an object'],
    [withItem({ b: { model: "dpo", row: 0 } }), "there are hidden-first, hidden-second"],
    [withItem({ b: { model: "toString", row: 0 } }), 'by model "toString"'],
    [withItem({ a: { model: "hidden-first", row: 4 } }), "whose rows are 0 to 3"],
    [withItem({ a: { model: "hidden-first", row: -1 } }), "whole number of at least 0"],
    [withItem({ a: item!.b }), "with itself"],
    [withModel({ file: "../x.png" }), "expected the name of a PNG in the folder"],
    [withModel({ file: "study.json" }), "expected the name of a PNG in the folder"],
    [withModel({ file: "hidden-file-1.png" }), 'both have the file "hidden-file-1.png"'],
    [withModel({ width: 4 }), "draw all at one size"],
    [withModel({ count: 0 }), "whole number of at least 1, found 0"],
    [{ models: {} }, "there are no models"],
  ];
  for (const [change, words] of cases) {
    await Deno.writeTextFile(`${folder}/study.json`, JSON.stringify({ ...tinyStudy, ...change }));
    await assertRejects(() => readStudy(folder), Error, words);
    // The writer refuses the same, and leaves what is there.
    const study = { ...tinyStudy, ...change } as Study;
    await assertRejects(() => writeStudy(folder, study, tinyImages), Error, words);
  }
  const few = { ...tinyImages, "hidden-second": new Uint8Array(3) };
  await assertRejects(() => writeStudy(folder, tinyStudy, few), Error, '"hidden-second" has 3');
  await Deno.remove(folder, { recursive: true });
});

Deno.test("an interrupted writer leaves no study rather than a mixed one", async () => {
  const folder = await makeTinyStudy();
  // The second strip cannot be written: a folder is in its place.
  await Deno.remove(`${folder}/hidden-file-2.png`);
  await Deno.mkdir(`${folder}/hidden-file-2.png`);
  await assertRejects(() => writeStudy(folder, tinyStudy, tinyImages));
  await assertRejects(() => readStudy(folder), Error, "study.json does not exist");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("small pictures are enlarged by whole multiples, large ones left", async () => {
  const pixels = Uint8Array.from({ length: 3 * 2 * 3 }, (_, i) => 10 * i);
  const { data, info } = await sharp(await pictureOf(pixels, 3, 2)).raw()
    .toBuffer({ resolveWithObject: true });
  assertEquals([info.width, info.height], [510, 340]);
  for (let y = 0; y < 340; y++) {
    for (let x = 0; x < 510; x++) {
      const from = (Math.floor(y / 170) * 3 + Math.floor(x / 170)) * 3;
      const at = (y * 510 + x) * info.channels;
      assert(pixels.subarray(from, from + 3).every((value, c) => data[at + c] === value));
    }
  }
  const large = await sharp(await pictureOf(new Uint8Array(600 * 4 * 3), 600, 4)).metadata();
  assertEquals([large.width, large.height], [600, 4]);
});
