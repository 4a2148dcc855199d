/** From files of preferences to pairs that can be trained on: in memory, through a cache, and with bad rows. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { encodeImage } from "../../lib/data/images.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import { choiceRow, type PreferenceRow } from "../../lib/data/schema.ts";
import { loadPipeline } from "../../lib/diffusion/mod.ts";
import { trainingPairs, type TrainingPairsOptions } from "../../lib/experiments/training_pairs.ts";
import type { PreferencePairs } from "../../lib/preference/mod.ts";
import { setDevice } from "../../lib/tensor/mod.ts";
import { device } from "../tensor/devices.ts";
import { makeTinyLineage } from "./tiny_lineage.ts";

setDevice(await device("cpu"));
const tiny = await makeTinyLineage(2);
const data = `${tiny.folder}/data`;
await Deno.mkdir(data);
const bytesOf = (i: number, width = 64, height = 64) =>
  encodeImage({
    ...{ width, height },
    data: Uint8Array.from({ length: width * height * 3 }, (_, j) => (j * (i + 2)) % 251),
  });
const caption = tiny.prompts.test[0]!;

/** Image i beats image i + 1, but for odd i the second is preferred. */
async function row(i: number, images: Record<number, Uint8Array> = {}): Promise<PreferenceRow> {
  const image = async (n: number) => ({
    ...{ uid: `image-${n}`, model: "tiny", bytes: images[n] ?? await bytesOf(n) },
  });
  return choiceRow({
    ...{ caption, time: new Date(1e12 + 1000 * i), label0: i % 2 === 0 ? 1 : 0 },
    images: [await image(i), await image(i + 1)],
  }, i);
}

/** Ten choices in two files; image 3 is cut short and image 8 has no bytes. */
const broken = { 3: (await bytesOf(3)).slice(0, 60), 8: new Uint8Array() };
const rows = await Promise.all(Array.from({ length: 10 }, (_, i) => row(i, broken)));
rows.push({ ...await row(10), label_0: 7 });
await writePreferences(`${data}/part-0.parquet`, rows.slice(0, 5));
await writePreferences(`${data}/part-1.parquet`, rows.slice(5));

/** Pairs of the full data, what was reported, and the first and last progress. */
async function read(base: string, path: string, options: TrainingPairsOptions = {}) {
  const pipeline = await loadPipeline(base);
  const progress: [number, number][] = [];
  let report: readonly string[] = [];
  try {
    const { full } = await trainingPairs(pipeline, path, ["full"], {
      ...options,
      onProgress: (done, total) => {
        progress.push([done, total]);
        options.onProgress?.(done, total);
      },
      onReport: (lines) => report = lines,
    });
    return { full, report, first: progress[0], last: progress.at(-1), progress };
  } finally {
    pipeline.dispose();
  }
}

async function valuesOf(pairs: PreferencePairs): Promise<number[]> {
  const { winner, loser, context, added } = await pairs.read([...Array(pairs.length).keys()]);
  return [winner, loser, context, added?.textEmbeds ?? [], added?.timeIds ?? []]
    .flatMap((part) => [...part]);
}

const cacheIn = (folder: string, flip: "none" | "independent" | "shared" = "none") => ({
  cache: { folder: `${tiny.folder}/${folder}`, flip, seed: 0 },
});

/** Of the two broken images' five neighbours, in files and rows of their own. */
const expectedReport = (folder: string) => [
  `1 rows with another label; the first: ${folder}/part-1.parquet: column "label_0", row 5 holds 7; ` +
  "0, 0.5 or 1 is expected",
  `2 images that cannot be read; the first: ${folder}/part-0.parquet: column "jpg_1", row 2: 60 bytes ` +
  "are not a readable image",
  "4 of 10 pairs are left out for their images",
];

function assertReport(found: readonly string[], folder: string): void {
  assertEquals(found.length, 3, found.join("\n"));
  expectedReport(folder).forEach((line, i) => assertStringIncludes(found[i]!, line));
}

Deno.test("in memory: bad rows and images are left out and reported", async () => {
  const { full, report, last } = await read(tiny.base, data);
  assertEquals(full.length, 6);
  assertReport(report, data);
  assertEquals(last, [10, 10], "nine images and a prompt");
});

Deno.test("through a cache: the same pairs, encoded once", async () => {
  const first = await read(tiny.base, data, cacheIn("shared"));
  assertEquals([first.full.length, first.first, first.last], [6, [0, 12], [12, 12]]);
  assertReport(first.report, data);
  const values = await valuesOf(first.full);
  // Again: nothing is left to do, the broken images included.
  const again = await read(tiny.base, data, cacheIn("shared"));
  assertEquals(again.progress, [[11, 12], [12, 12]]);
  assertReport(again.report, data);
  assertEquals(await valuesOf(again.full), values);
  // The same files elsewhere: images are read anew and known by their content.
  const copy = `${tiny.folder}/copy`;
  await Deno.mkdir(copy);
  for (const name of ["part-0.parquet", "part-1.parquet"]) {
    await Deno.copyFile(`${data}/${name}`, `${copy}/${name}`);
    await Deno.utime(`${copy}/${name}`, 1e9, 1e9);
  }
  const before = pictureBytes(`${tiny.folder}/shared`);
  const copied = await read(tiny.base, copy, cacheIn("shared"));
  assertEquals(copied.first, [0, 12]);
  assertEquals(await valuesOf(copied.full), values);
  assertEquals(pictureBytes(`${tiny.folder}/shared`), before);
  // Mirrored ones are another encoding of the same images.
  const flipped = await read(tiny.base, data, cacheIn("shared", "independent"));
  assertEquals([flipped.full.length, flipped.first], [6, [2, 12]]);
  assertEquals(pictureBytes(`${tiny.folder}/shared`), 2 * before);
});

function pictureBytes(folder: string): number {
  return [...Deno.readDirSync(`${folder}/pictures`)].reduce(
    (sum, { name }) => sum + Deno.statSync(`${folder}/pictures/${name}/records.bin`).size,
    0,
  );
}

Deno.test("stopped at any image, the cache goes on where it was, to the same numbers", async () => {
  const whole = await valuesOf((await read(tiny.base, data, cacheIn("whole"))).full);
  const wider = await Promise.all(Array.from({ length: 24 }, (_, i) => row(i)));
  await writePreferences(`${tiny.folder}/wider.parquet`, wider);
  const stop = async (path: string, options: TrainingPairsOptions, at: number) =>
    await assertRejects(
      () =>
        read(tiny.base, path, {
          ...options,
          onProgress: (done) => {
            if (done >= at) throw new Error("stopped");
          },
        }),
      Error,
      "stopped",
    );
  const options = cacheIn("stopped");
  await stop(data, options, 1);
  await stop(data, options, 11);
  const { full, report } = await read(tiny.base, data, options);
  assertEquals(await valuesOf(full), whole);
  assertReport(report, data);

  // Sixteen are encoded at once: the rest is what remains after a stop.
  await stop(`${tiny.folder}/wider.parquet`, cacheIn("wider"), 16);
  const rest = await read(tiny.base, `${tiny.folder}/wider.parquet`, cacheIn("wider"));
  assertEquals(rest.first, [16, 26]);
});

Deno.test("SDXL: a row's first image gives the size, whichever won; both are mirrored or none", async () => {
  const images = {
    0: await bytesOf(0, 96, 72),
    1: await bytesOf(1, 50, 80),
    2: await bytesOf(2, 70, 64),
  };
  const path = `${tiny.folder}/sizes.parquet`;
  await writePreferences(path, [await row(0, images), await row(1, images)]);
  const timeIds = async (options: TrainingPairsOptions) => {
    const { full } = await read(tiny.baseXl, path, options);
    const { added } = await full.read([0, 1]);
    assertEquals(added!.textEmbeds.length % 2, 0);
    return [...added!.timeIds];
  };
  assertEquals(await timeIds({ fit: "stretch", ...cacheIn("xl", "shared") }), [
    ...[72, 96, 0, 0, 64, 64],
    ...[80, 50, 0, 0, 64, 64],
  ]);
  assertEquals(await timeIds({ fit: "crop", ...cacheIn("xl", "shared") }), [
    ...[72, 96, 0, 10, 64, 64],
    ...[80, 50, 19, 0, 64, 64],
  ]);
  // In memory the pictures' own size stands for the original's.
  assertEquals((await timeIds({})).slice(0, 6), [64, 64, 0, 0, 64, 64]);
});

Deno.test("a limit takes the first pairs and reads the images of no other", async () => {
  const path = `${tiny.folder}/limited`;
  await Deno.mkdir(path);
  for (const [i, part] of ["part-0.parquet", "part-1.parquet"].entries()) {
    const some = await Promise.all([0, 1, 2, 3, 4].map((j) => row(20 * i + j)));
    await writePreferences(`${path}/${part}`, some);
  }
  const { full, last } = await read(tiny.base, path, { limit: 3, ...cacheIn("limited") });
  assertEquals([full.length, last], [3, [5, 5]]);
  assertEquals((await read(tiny.base, path, { limit: 99 })).full.length, 10);
});

Deno.test("long prompts are cut and counted; data of which most cannot be used are refused", async () => {
  const long = `${tiny.folder}/long.parquet`;
  await writePreferences(long, [{ ...await row(0), caption: `${caption} ${caption}` }]);
  const { full, report } = await read(tiny.base, long);
  assertEquals([full.length, report], [1, ["1 prompts are too long and lose their end"]]);

  const bad = `${tiny.folder}/bad.parquet`;
  const images = { 1: Uint8Array.of(1), 3: Uint8Array.of(2) };
  await writePreferences(bad, await Promise.all([0, 1, 2].map((i) => row(i, images))));
  for (const options of [{}, cacheIn("bad")]) {
    const { message } = await assertRejects(() => read(tiny.base, bad, options), Error);
    assertStringIncludes(message, `${bad}: more than half of the pairs cannot be used`);
    assertStringIncludes(message, "2 images that cannot be read");
  }
  const list = await Deno.readTextFile(`${tiny.folder}/bad/images/unreadable.jsonl`);
  assertEquals(list.trim().split("\n").length, 2);
  assert(JSON.parse(list.split("\n")[0]!).reason.startsWith(`${bad}: column "jpg_1", row 0`));
});

Deno.test({
  name: "the lineage is removed",
  fn: () => Deno.remove(tiny.folder, { recursive: true }),
});
