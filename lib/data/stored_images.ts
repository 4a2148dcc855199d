/**
 * The images of a preference dataset, read where they are wanted: of hundreds of gigabytes only the row groups and
 * columns that hold a wanted image.
 *
 * @module
 */
import type * as arrow from "apache-arrow";
import type { StoredComparisons } from "./comparisons.ts";
import { PreferenceFile, type RowGroup } from "./preference_file.ts";

/** Rows whose images are in memory at once; a row holds some hundred kilobytes. */
const BATCH_ROWS = 32;

/** An image as the dataset holds it. */
export interface StoredImage {
  /** Its number among the comparisons' images. */
  readonly number: number;
  readonly uid: string;
  /** Encoded bytes, for `decodeImage`; none where the file has none. */
  readonly bytes: Uint8Array;
  /** File, column and row, for messages. */
  readonly source: string;
}

/** Where images' bytes are: of each, the first row that shows it. */
export interface ImagePlaces {
  /** Per image number, a row among those of all files. */
  readonly row: Int32Array;
  /** Per image number, which of the row's images it is. */
  readonly side: Uint8Array;
}

/** Finds the images of choices in their files. */
export function imagePlaces({ images, image0, image1, row }: StoredComparisons): ImagePlaces {
  const places = { row: new Int32Array(images.length), side: new Uint8Array(images.length) };
  // Backwards, so that the first row has the last word.
  for (let i = row.length - 1; i >= 0; i--) {
    for (const [side, image] of [[1, image1[i]!], [0, image0[i]!]] as const) {
      places.row[image] = row[i]!;
      places.side[image] = side;
    }
  }
  return places;
}

/**
 * Streams images in the order of the files' rows. An image that occurs in many rows is read from the first; it has one
 * number, whatever the other rows hold.
 *
 * @param comparisons Of the dataset.
 * @param wanted Image numbers; all if left out.
 * @throws {Error} If the columns are missing or damaged; the message names the file.
 */
export async function* readImages(
  comparisons: StoredComparisons,
  wanted: Iterable<number> = comparisons.images.keys(),
): AsyncGenerator<StoredImage> {
  const places = imagePlaces(comparisons);
  const { files } = comparisons;
  const order = [...new Set(wanted)].sort((a, b) =>
    places.row[a]! - places.row[b]! || places.side[a]! - places.side[b]! || a - b
  );
  for (let next = 0, f = 0; f < files.length && next < order.length; f++) {
    const { path, firstRow } = files[f]!;
    const after = files[f + 1]?.firstRow ?? Infinity;
    if (places.row[order[next]!]! >= after) continue;
    await using file = await PreferenceFile.open(path);
    for (const group of file.rowGroups) {
      const end = firstRow + group.firstRow + group.rows;
      let last = next;
      while (last < order.length && places.row[order[last]!]! < end) last++;
      if (last === next) continue;
      yield* groupImages(file, group, firstRow, order.slice(next, last), places, comparisons);
      next = last;
    }
  }
}

/** The images of one row group. */
async function* groupImages(
  file: PreferenceFile,
  group: RowGroup,
  fileRow: number,
  numbers: readonly number[],
  places: ImagePlaces,
  { images }: StoredComparisons,
): AsyncGenerator<StoredImage> {
  const sides = ([0, 1] as const).filter((side) => numbers.some((n) => places.side[n] === side));
  const columns = sides.map((side) => `jpg_${side}` as const);
  let next = 0;
  for await (
    const { firstRow, table } of file.batches(columns, {
      rowGroups: [group],
      batchRows: BATCH_ROWS,
    })
  ) {
    const bytes: (arrow.Vector | null)[] = [table.getChild("jpg_0"), table.getChild("jpg_1")];
    for (; next < numbers.length; next++) {
      const number = numbers[next]!, side = places.side[number]!;
      const row = places.row[number]! - fileRow;
      if (row >= firstRow + table.numRows) break;
      const value: Uint8Array | null = bytes[side]!.get(row - firstRow);
      yield {
        number,
        uid: images[number]!,
        // A copy, so that one image does not keep a whole batch in memory.
        bytes: value?.slice() ?? new Uint8Array(),
        source: `${file.path}: column "jpg_${side}", row ${row}`,
      };
    }
    if (next === numbers.length) return;
  }
}
