/**
 * Rows in Pick-a-Pic v2's schema, made up.
 *
 * @module
 */
import { encodeImage } from "../../lib/data/images.ts";
import { choiceRow, type PreferenceRow } from "../../lib/data/schema.ts";

/** The time of row 0. */
export const START = Date.parse("2026-01-01T00:00:00Z");

/** A picture of 4 x 4 pixels, all of one grey. */
export async function imageOf(number: number): Promise<Uint8Array> {
  const data = new Uint8Array(4 * 4 * 3).fill(number % 256);
  return await encodeImage({ width: 4, height: 4, data });
}

/** Row i: prompt i/5, image i against i+1, three kinds of label in turn. */
export async function rowOf(i: number): Promise<PreferenceRow> {
  const image = async (number: number) => ({
    ...{ uid: `image-${number}`, model: "nano", bytes: await imageOf(number) },
  });
  return choiceRow({
    caption: `prompt ${Math.floor(i / 5)}`,
    images: [await image(i), await image(i + 1)],
    label0: ([1, 0, 0.5] as const)[i % 3]!,
    time: new Date(START + 1000 * i),
    user: i % 4,
    perPrompt: 5,
  }, i);
}

/** Rows 0 to n - 1, each with the same change. */
export async function* rowsUpTo(n: number, change: Partial<PreferenceRow> = {}) {
  for (let i = 0; i < n; i++) yield { ...await rowOf(i), ...change };
}

/** Runs a test with a folder of its own. */
export async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
