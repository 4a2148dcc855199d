/**
 * A preference dataset is one or more Parquet files in Pick-a-Pic v2's schema, read by row group and column.
 *
 * @module
 */
import { rename } from "node:fs/promises";
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { FileBlob } from "./file_blob.ts";
import {
  PREFERENCE_COLUMNS,
  type PreferenceColumn,
  type PreferenceRow,
  tableFromRows,
} from "./schema.ts";

const MAGIC = "PAR1";
const ROWS_PER_GROUP = 2000;
const ROWS_PER_BATCH = 1024;
/** Room for all images of a row group, so that an image which occurs again costs nothing. */
const DICTIONARY_BYTES = 2 ** 28;

/**
 * Writes rows to a Parquet file, ZSTD-compressed, in row groups of 2,000; memory stays bounded by a row group.
 *
 * The file appears under its name only when it is complete.
 *
 * @param metadata Key-value pairs for the file's footer, for example licence and provenance.
 * @throws Whatever `rows` throws, or an error that names the file if it cannot be written.
 */
export async function writePreferences(
  path: string,
  rows: Iterable<PreferenceRow> | AsyncIterable<PreferenceRow>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const partial = path + ".partial";
  const failure: RowFailure = {};
  try {
    const properties = new parquet.WriterPropertiesBuilder()
      .setCompression(parquet.Compression.ZSTD)
      .setDictionaryEnabled(true)
      .setDictionaryPageSizeLimit(DICTIONARY_BYTES)
      .setMaxRowGroupSize(ROWS_PER_GROUP)
      .setKeyValueMetadata(new Map(Object.entries(metadata)))
      .build();
    const bytes = await parquet.transformParquetStream(recordBatches(rows, failure), properties);
    await Deno.writeFile(partial, bytes as ReadableStream<Uint8Array>);
    await rename(partial, path);
  } catch (cause) {
    await Deno.remove(partial).catch(() => {});
    if (failure.error !== undefined) throw failure.error;
    throw new Error(
      `Could not write the preference dataset ${path}: ${
        (cause as Error).message ?? cause
      }. Check the folder, its permissions and the free space`,
      { cause },
    );
  }
}

/** Keeps an error of the rows past the Parquet writer, which replaces it by one of its own. */
interface RowFailure {
  error?: unknown;
}

function recordBatches(
  rows: Iterable<PreferenceRow> | AsyncIterable<PreferenceRow>,
  failure: RowFailure,
): ReadableStream<parquet.RecordBatch> {
  async function* groups() {
    let group: PreferenceRow[] = [];
    let any = false;
    for await (const row of rows) {
      group.push(row);
      if (group.length < ROWS_PER_GROUP) continue;
      yield group;
      any = true;
      group = [];
    }
    if (group.length > 0 || !any) yield group;
  }
  const source = groups();
  return new ReadableStream({
    async pull(controller) {
      try {
        const { value, done } = await source.next();
        if (done) return controller.close();
        const stream = arrow.tableToIPC(tableFromRows(value), "stream");
        for (const batch of parquet.Table.fromIPCStream(stream).recordBatches()) {
          controller.enqueue(batch);
        }
      } catch (error) {
        failure.error = error;
        controller.error(error);
      }
    },
  });
}

/** One Parquet file, open for reading. */
export class PreferenceFile {
  /** The file's path. */
  readonly path: string;
  /** Rows in the file. */
  readonly rowCount: number;
  /** Names of the columns in the file. */
  readonly columns: readonly string[];
  /** Key-value pairs of the footer. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly #blob: FileBlob;
  readonly #file: parquet.ParquetFile;

  private constructor(path: string, blob: FileBlob, file: parquet.ParquetFile) {
    this.path = path;
    this.#blob = blob;
    this.#file = file;
    const footer = file.metadata().fileMetadata();
    this.rowCount = footer.numRows();
    this.metadata = footer.keyValueMetadata();
    this.columns = arrow.tableFromIPC(file.schema().intoIPCStream()).schema.names as string[];
  }

  /**
   * Opens a file and reads its footer.
   *
   * @throws {Error} If it is missing or not Parquet.
   */
  static async open(path: string): Promise<PreferenceFile> {
    let blob: FileBlob;
    try {
      blob = await FileBlob.open(path);
    } catch (cause) {
      throw new Error(
        `Cannot open the preference dataset ${path}: ${(cause as Error).message}. ` +
          "Give a Parquet file in Pick-a-Pic v2's schema",
        { cause },
      );
    }
    try {
      const text = async (start: number, end?: number) =>
        new TextDecoder("latin1").decode(await blob.slice(start, end).arrayBuffer());
      const head = await text(0, 4), tail = blob.size < 12 ? "" : await text(-4);
      if (head !== MAGIC || tail !== MAGIC) {
        throw new Error(
          `${path} is not a whole Parquet file: it has ${blob.size} bytes, begins with ${
            JSON.stringify(head)
          } and ends with ${JSON.stringify(tail)}, and a Parquet file begins and ends with ` +
            `${JSON.stringify(MAGIC)}. Fetch it again if it may be cut short`,
        );
      }
      let file: parquet.ParquetFile;
      try {
        file = await parquet.ParquetFile.fromFile(blob);
      } catch (cause) {
        throw new Error(`${path} has a damaged Parquet footer (${cause}). Fetch it again`, {
          cause,
        });
      }
      return new PreferenceFile(path, blob, file);
    } catch (error) {
      await blob.close();
      throw error;
    }
  }

  /**
   * Streams some columns as Arrow tables of a few rows each; only their bytes are read.
   *
   * @throws {Error} If a column is missing or the data are damaged; the message names the file and column.
   */
  async *batches(
    columns: readonly PreferenceColumn[],
  ): AsyncGenerator<{ firstRow: number; table: arrow.Table }> {
    for (const column of columns) {
      if (this.columns.includes(column)) continue;
      throw new Error(
        `${this.path} has no column "${column}"; it has ${this.columns.join(", ")}. ` +
          `Pick-a-Pic v2's columns are expected: ${PREFERENCE_COLUMNS.join(", ")}`,
      );
    }
    let firstRow = 0;
    try {
      const stream = await this.#file.stream({
        columns: [...columns],
        batchSize: ROWS_PER_BATCH,
        concurrency: 1,
      });
      for await (const batch of stream as ReadableStream<parquet.RecordBatch>) {
        const table = arrow.tableFromIPC(batch.intoIPCStream());
        yield { firstRow, table };
        firstRow += table.numRows;
      }
    } catch (cause) {
      throw new Error(
        `${this.path}: column${columns.length > 1 ? "s" : ""} ${
          columns.join(", ")
        } cannot be read after row ${firstRow} (${(cause as Error).message ?? cause}). ` +
          "The file may be damaged: fetch it again",
        { cause },
      );
    }
  }

  /** Closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#file.free();
    await this.#blob.close();
  }
}

/** The Parquet files of a dataset: the file itself, or every `*.parquet` of a folder in the order of their names. */
export async function datasetFiles(path: string): Promise<string[]> {
  const info = await Deno.stat(path).catch((cause) => {
    throw new Error(
      `Cannot open the preference dataset ${path}: ${cause.message}. ` +
        "Give a Parquet file in Pick-a-Pic v2's schema, or a folder of them",
      { cause },
    );
  });
  if (!info.isDirectory) return [path];
  const names: string[] = [];
  for await (const { name } of Deno.readDir(path)) if (name.endsWith(".parquet")) names.push(name);
  if (names.length === 0) throw new Error(`The folder ${path} holds no *.parquet file`);
  return names.sort().map((name) => `${path}/${name}`);
}

/** The choices of a dataset without its images: integers and typed arrays, one entry per row. */
export interface Comparisons {
  /** Caption texts by caption number. */
  readonly captions: readonly string[];
  /** Image uids by image number. An image shown for two captions has two numbers. */
  readonly images: readonly string[];
  /** Per image number, its caption number. */
  readonly imageCaption: Int32Array;
  /** Per row, the image numbers of both sides. */
  readonly image0: Int32Array;
  readonly image1: Int32Array;
  /** Per row 1 (image 0 preferred), 0 (image 1 preferred) or 0.5 (tie). */
  readonly label0: Float32Array;
  /** Per row, the time of the choice in milliseconds. */
  readonly createdAt: Float64Array;
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

/**
 * Reads the choices of a dataset; image bytes are not touched. Rows with `has_label` false are left out.
 *
 * @param path A Parquet file or a folder of them.
 * @throws {Error} If a column is missing or a value is not allowed; the message names file, column and row.
 */
export async function readComparisons(path: string): Promise<Comparisons> {
  const builder = new ComparisonsBuilder();
  for (const name of await datasetFiles(path)) {
    await using file = await PreferenceFile.open(name);
    const columns = [
      "caption",
      "image_0_uid",
      "image_1_uid",
      "label_0",
      "created_at",
      "has_label",
    ] as const;
    for await (const { firstRow, table } of file.batches(columns)) {
      const [caption, uid0, uid1, label, created, labelled] = columns.map((column) =>
        table.getChild(column)!
      ) as Vectors<typeof columns>;
      const toTime = timesOf(created, name);
      for (let i = 0; i < table.numRows; i++) {
        if (labelled.get(i) === false) continue;
        const where = (column: string) => `${name}: column "${column}", row ${firstRow + i}`;
        const text = (column: string, value: unknown) => {
          if (typeof value === "string") return value;
          throw new Error(`${where(column)} holds ${shown(value)}; a text is expected`);
        };
        const value = label.get(i);
        if (value !== 0 && value !== 0.5 && value !== 1) {
          throw new Error(`${where("label_0")} holds ${shown(value)}; 0, 0.5 or 1 is expected`);
        }
        builder.add(
          text("caption", caption.get(i)),
          text("image_0_uid", uid0.get(i)),
          text("image_1_uid", uid1.get(i)),
          value,
          toTime(i),
        );
      }
    }
  }
  return builder.build();
}

/** The columns of a batch, as many as there are names. */
type Vectors<T extends readonly string[]> = { -readonly [K in keyof T]: arrow.Vector };

/** Reads a timestamp column of any unit in milliseconds. */
function timesOf(vector: arrow.Vector, path: string): (row: number) => number {
  if (!arrow.DataType.isTimestamp(vector.type)) {
    throw new Error(`${path}: column "created_at" is ${vector.type}; a timestamp is expected`);
  }
  // Arrow's own getter gives milliseconds for every unit.
  return (row) => Number(vector.get(row));
}

function shown(value: unknown): string {
  return typeof value === "bigint" ? `${value}` : JSON.stringify(value) ?? String(value);
}

/** An image as the dataset holds it. */
export interface StoredImage {
  readonly uid: string;
  /** Encoded bytes, for `decodeImage`. */
  readonly bytes: Uint8Array;
  /** File, column and row, for error messages. */
  readonly source: string;
}

/**
 * Streams the images of a dataset, each uid once, in order of appearance.
 *
 * @param path A Parquet file or a folder of them.
 * @param wanted Only these uids; all if left out. The stream ends early once all of them were found.
 * @throws {Error} If an image's bytes are missing, or wanted images are nowhere in the dataset.
 */
export async function* readImages(
  path: string,
  wanted?: Iterable<string>,
): AsyncGenerator<StoredImage> {
  const missing = wanted ? new Set(wanted) : undefined;
  const seen = new Set<string>();
  for (const name of await datasetFiles(path)) {
    if (missing?.size === 0) return;
    await using file = await PreferenceFile.open(name);
    const columns = ["image_0_uid", "image_1_uid", "jpg_0", "jpg_1"] as const;
    for await (const { firstRow, table } of file.batches(columns)) {
      const [uid0, uid1, jpg0, jpg1] = columns.map((column) => table.getChild(column)!) as Vectors<
        typeof columns
      >;
      for (let i = 0; i < table.numRows; i++) {
        for (const [side, uids, images] of [[0, uid0, jpg0], [1, uid1, jpg1]] as const) {
          const uid: string = uids.get(i);
          if (seen.has(uid) || missing && !missing.has(uid)) continue;
          const source = `${name}: column "jpg_${side}", row ${firstRow + i}`;
          const bytes: Uint8Array | null = images.get(i);
          if (!(bytes instanceof Uint8Array) || bytes.length === 0) {
            throw new Error(`${source} holds no image bytes for image ${uid}`);
          }
          seen.add(uid);
          missing?.delete(uid);
          yield { uid, bytes: bytes.slice(), source };
        }
      }
      if (missing?.size === 0) return;
    }
  }
  if (missing && missing.size > 0) {
    const [example] = missing;
    throw new Error(`${path} lacks ${missing.size} of the wanted images, for example ${example}`);
  }
}
