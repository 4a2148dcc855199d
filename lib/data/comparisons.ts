/**
 * The choices of a preference dataset as integers and typed arrays: what curation works on. Image bytes are not read,
 * so that a million choices take seconds and some hundred megabytes.
 *
 * @module
 */
import { datasetFiles } from "./dataset_files.ts";
import { type Fault, FaultCounter, faultLines } from "./faults.ts";
import { PreferenceFile } from "./preference_file.ts";
import type { PreferenceColumn, PreferenceRow } from "./schema.ts";

/** Choices without their images, one entry per choice. */
export interface Comparisons {
  /** Caption texts by caption number. */
  readonly captions: readonly string[];
  /** Image uids by image number. An image shown for two captions has two numbers. */
  readonly images: readonly string[];
  /** Per image number, its caption number. */
  readonly imageCaption: Int32Array;
  /** Per choice, the image numbers of both sides. */
  readonly image0: Int32Array;
  readonly image1: Int32Array;
  /** Per choice 1 (image 0 preferred), 0 (image 1 preferred) or 0.5 (tie). */
  readonly label0: Float32Array;
  /** Per choice its time in milliseconds; -Infinity where the file does not know it. */
  readonly createdAt: Float64Array;
}

/** A file that choices were read from. */
export interface ComparisonsFile {
  readonly path: string;
  /** By which the file is known again, see `PreferenceFile.identity`. */
  readonly identity: string;
  /** The number of its first row among the rows of all files. */
  readonly firstRow: number;
}

/** The choices of a dataset's files, and where they are there. */
export interface StoredComparisons extends Comparisons {
  readonly files: readonly ComparisonsFile[];
  /** Per choice, its row among the rows of all files. */
  readonly row: Int32Array;
  /** Rows in all files. */
  readonly rowCount: number;
  /** Rows with `has_label` false, which are left out. */
  readonly unlabelled: number;
  /** Rows that were left out since they cannot be used, by kind. */
  readonly faults: readonly Fault[];
}

/** A choice by names, as {@linkcode comparisonsOf} takes them. */
export type NamedChoice = Pick<
  PreferenceRow,
  "caption" | "image_0_uid" | "image_1_uid" | "label_0" | "created_at"
>;

/** Numbers captions and images of choices, in order of appearance. */
class Interner {
  readonly captions: string[] = [];
  readonly images: string[] = [];
  readonly imageCaption: number[] = [];
  readonly #captionNumbers = new Map<string, number>();
  readonly #imageNumbers = new Map<string, number>();

  caption(text: string): number {
    let number = this.#captionNumbers.get(text);
    if (number === undefined) {
      number = this.captions.push(text) - 1;
      this.#captionNumbers.set(text, number);
    }
    return number;
  }

  image(uid: string, caption: number): number {
    let key = uid;
    let number = this.#imageNumbers.get(key);
    if (number !== undefined && this.imageCaption[number] !== caption) {
      key = `${uid}\0${caption}`;
      number = this.#imageNumbers.get(key);
    }
    if (number === undefined) {
      number = this.images.push(uid) - 1;
      this.imageCaption.push(caption);
      this.#imageNumbers.set(key, number);
    }
    return number;
  }
}

class ComparisonsBuilder {
  readonly #names = new Interner();
  readonly #image0: number[] = [];
  readonly #image1: number[] = [];
  readonly #label0: number[] = [];
  readonly #createdAt: number[] = [];

  add(caption: string, uid0: string, uid1: string, label0: number, createdAt: number) {
    const number = this.#names.caption(caption);
    this.#image0.push(this.#names.image(uid0, number));
    this.#image1.push(this.#names.image(uid1, number));
    this.#label0.push(label0);
    this.#createdAt.push(createdAt);
  }

  build(): Comparisons {
    return {
      captions: this.#names.captions,
      images: this.#names.images,
      imageCaption: Int32Array.from(this.#names.imageCaption),
      image0: Int32Array.from(this.#image0),
      image1: Int32Array.from(this.#image1),
      label0: Float32Array.from(this.#label0),
      createdAt: Float64Array.from(this.#createdAt),
    };
  }
}

/** The comparisons of choices in memory. */
export function comparisonsOf(choices: Iterable<NamedChoice>): Comparisons {
  const builder = new ComparisonsBuilder();
  for (const choice of choices) {
    const { caption, image_0_uid, image_1_uid, label_0, created_at } = choice;
    builder.add(caption, image_0_uid, image_1_uid, label_0, created_at.getTime());
  }
  return builder.build();
}

const COLUMNS = ["caption", "image_0_uid", "image_1_uid", "label_0", "created_at"] as const;

/**
 * Reads the choices of a dataset. Rows with `has_label` false (a column that may be missing) are left out, and so are
 * rows that cannot be used: without a caption, an image's uid, or a label of 0, 0.5 or 1. These are counted.
 *
 * @param path A Parquet file, a folder of them, or a pattern such as `data/train-*.parquet`.
 * @param onProgress Told how many rows have been read of how many in the files opened so far.
 * @throws {Error} If a file is damaged, a column is missing or of another kind, or more than half of the rows cannot be
 * used; the message names the file.
 */
export async function readComparisons(
  path: string,
  onProgress?: (done: number, total: number) => void,
): Promise<StoredComparisons> {
  const builder = new ComparisonsBuilder();
  const faults = new FaultCounter();
  const files: ComparisonsFile[] = [];
  const row: number[] = [];
  let rowCount = 0, unlabelled = 0;
  const names = await datasetFiles(path);
  for (const name of names) {
    await using file = await PreferenceFile.open(name);
    const firstRow = rowCount;
    files.push({ path: name, identity: await file.identity(), firstRow });
    rowCount += file.rowCount;
    const labels = file.columns.includes("has_label") ? ["has_label"] as const : [];
    for await (const batch of file.batches([...COLUMNS, ...labels])) {
      const column = (name: PreferenceColumn) => batch.table.getChild(name)!;
      const caption = column("caption"), label = column("label_0"), created = column("created_at");
      const uid0 = column("image_0_uid"), uid1 = column("image_1_uid");
      const labelled = batch.table.getChild("has_label");
      for (let i = 0; i < batch.table.numRows; i++) {
        if (labelled?.get(i) === false) {
          unlabelled++;
          continue;
        }
        const fault = (kind: string, column: string, value: unknown, expected: string) =>
          faults.add(
            kind,
            () =>
              `${name}: column "${column}", row ${batch.firstRow + i} holds ${shown(value)}; ` +
              `${expected} is expected`,
          );
        const texts = [caption.get(i), uid0.get(i), uid1.get(i)] as const;
        const given = label.get(i);
        const choice = given === null ? NaN : Number(given);
        if (typeof texts[0] !== "string") {
          fault("rows without a caption", "caption", texts[0], "a text");
        } else if (!texts[1]) {
          fault("rows without an image's uid", "image_0_uid", texts[1], "a uid");
        } else if (!texts[2]) {
          fault("rows without an image's uid", "image_1_uid", texts[2], "a uid");
        } else if (choice !== 0 && choice !== 0.5 && choice !== 1) {
          fault("rows with another label", "label_0", given, "0, 0.5 or 1");
        } else {
          // Arrow's own getter gives milliseconds for every unit.
          const time = created.get(i);
          builder.add(...texts, choice, time === null ? -Infinity : Number(time));
          row.push(firstRow + batch.firstRow + i);
        }
      }
      const done = firstRow + batch.firstRow + batch.table.numRows;
      onProgress?.(done, Math.round(rowCount * names.length / files.length));
    }
  }
  if (2 * faults.total > rowCount - unlabelled) {
    throw new Error(
      `${path}: ${faults.total} of ${
        rowCount - unlabelled
      } labelled rows cannot be used, which is ` +
        `more than half: ${faultLines(faults.list()).join("; ")}. ` +
        "Check that the columns mean what Pick-a-Pic v2's do",
    );
  }
  return {
    ...builder.build(),
    ...{ files, row: Int32Array.from(row), rowCount, unlabelled, faults: faults.list() },
  };
}

function shown(value: unknown): string {
  return typeof value === "bigint" ? `${value}` : JSON.stringify(value) ?? String(value);
}
