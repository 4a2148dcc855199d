/**
 * Preference pairs for people to look at: winners beside losers.
 *
 * @module
 */
import { decodeImage, type Image, readComparisons, readImages } from "../data/mod.ts";
import { imageGrid } from "./image_grid.ts";
import { type Selection, selections } from "./training_pairs.ts";

/**
 * Draws pairs, two in a row, the winner on the left of each.
 *
 * @param path A Parquet file in Pick-a-Pic v2's schema, a folder of them, or a pattern.
 * @param selection Which pairs.
 * @param count How many, evenly spaced over all.
 * @returns A PNG file's bytes.
 */
export async function preferenceSheet(
  path: string,
  selection: Selection,
  count: number,
): Promise<Uint8Array> {
  const comparisons = await readComparisons(path);
  const { captions, imageCaption } = comparisons;
  const { winner, loser } = selections[selection](comparisons);
  const shown = Array.from(
    { length: Math.min(count, winner.length) },
    (_, i) => Math.floor(i * winner.length / count),
  );
  const numbers = shown.flatMap((pair) => [winner[pair]!, loser[pair]!]);
  const decoded = new Map<number, Image>();
  for await (const { number, bytes, source } of readImages(comparisons, numbers)) {
    decoded.set(number, await decodeImage(bytes, source));
  }
  const pictures = numbers.map((number) => {
    const { data, width, height } = decoded.get(number)!;
    return { pixels: data, width, height, caption: captions[imageCaption[number]!]! };
  });
  return await imageGrid(pictures, {
    columns: 4,
    headings: ["winner", "loser", "winner", "loser"],
  });
}
