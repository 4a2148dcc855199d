/**
 * One Parquet file of a preference dataset, open for reading: the footer says where each row group's columns are, and
 * only the columns asked for are read, one row group at a time.
 *
 * @module
 */
import { createHash } from "node:crypto";
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { FileBlob } from "./file_blob.ts";
import { PanicWatch } from "./panic_watch.ts";
import { columnFault, PREFERENCE_COLUMNS, type PreferenceColumn } from "./schema.ts";

const MAGIC = "PAR1";
/** Bytes at the end of a file: the footer's length and the magic. */
const TAIL_BYTES = 8;
const ROWS_PER_BATCH = 1024;

/** A stretch of rows that is stored, and read, as one. */
export interface RowGroup {
  /** Its number in the file. */
  readonly number: number;
  /** Its first row in the file. */
  readonly firstRow: number;
  readonly rows: number;
}

/** What {@linkcode PreferenceFile.batches} reads. */
export interface BatchOptions {
  /** Default: all of the file. */
  readonly rowGroups?: readonly RowGroup[];
  /** The most rows that come at once; default 1,024. */
  readonly batchRows?: number;
}

/** Rows of some columns. */
export interface RowBatch {
  /** The first row's number in the file. */
  readonly firstRow: number;
  readonly table: arrow.Table;
}

/** One Parquet file, open for reading. */
export class PreferenceFile {
  /** The file's path. */
  readonly path: string;
  /** Rows in the file. */
  readonly rowCount: number;
  /** Names of the columns in the file. */
  readonly columns: readonly string[];
  readonly rowGroups: readonly RowGroup[];
  /** Key-value pairs of the footer. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly #types: ReadonlyMap<string, arrow.DataType>;
  readonly #blob: FileBlob;
  readonly #file: parquet.ParquetFile;

  private constructor(path: string, blob: FileBlob, file: parquet.ParquetFile) {
    this.path = path;
    this.#blob = blob;
    this.#file = file;
    using metadata = file.metadata();
    using footer = metadata.fileMetadata();
    this.rowCount = footer.numRows();
    this.metadata = footer.keyValueMetadata();
    const { fields } = arrow.tableFromIPC(file.schema().intoIPCStream()).schema;
    this.#types = new Map(fields.map(({ name, type }) => [name as string, type]));
    this.columns = [...this.#types.keys()];
    let firstRow = 0;
    this.rowGroups = Array.from({ length: metadata.numRowGroups() }, (_, number) => {
      using group = metadata.rowGroup(number);
      const rows = group.numRows();
      firstRow += rows;
      return { number, firstRow: firstRow - rows, rows };
    });
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
      try {
        using watch = new PanicWatch();
        return new PreferenceFile(
          path,
          blob,
          await watch.orPanic(parquet.ParquetFile.fromFile(blob)),
        );
      } catch (cause) {
        throw new Error(`${path} has a damaged Parquet footer (${cause}). Fetch it again`, {
          cause,
        });
      }
    } catch (error) {
      await blob.close();
      throw error;
    }
  }

  /**
   * Streams some columns as Arrow tables of a few rows each; only their bytes are read, and those of one row group at a
   * time.
   *
   * @throws {Error} If a column is missing or of another kind, or the data are damaged; the message names the file and
   * column.
   */
  async *batches(
    columns: readonly PreferenceColumn[],
    { rowGroups = this.rowGroups, batchRows = ROWS_PER_BATCH }: BatchOptions = {},
  ): AsyncGenerator<RowBatch> {
    for (const column of columns) {
      const type = this.#types.get(column);
      if (!type) {
        throw new Error(
          `${this.path} has no column "${column}"; it has ${this.columns.join(", ")}. ` +
            `Pick-a-Pic v2's columns are expected: ${PREFERENCE_COLUMNS.join(", ")}`,
        );
      }
      const fault = columnFault(column, type);
      if (fault) throw new Error(`${this.path}: ${fault}`);
    }
    for (const { number, firstRow, rows } of rowGroups) {
      using watch = new PanicWatch();
      let done = 0;
      let reader: ReadableStreamDefaultReader<parquet.RecordBatch> | undefined;
      try {
        const stream: ReadableStream<parquet.RecordBatch> = await watch.orPanic(this.#file.stream({
          columns: [...columns],
          rowGroups: [number],
          batchSize: batchRows,
          concurrency: 1,
        }));
        reader = stream.getReader();
        for (;;) {
          const { value } = await watch.orPanic(reader.read());
          if (!value) break;
          const table = arrow.tableFromIPC(value.intoIPCStream());
          yield { firstRow: firstRow + done, table };
          done += table.numRows;
        }
        if (done !== rows) throw new Error(`row group ${number} has ${rows} rows and gave ${done}`);
      } catch (cause) {
        // A reader that has stopped must not be asked for anything.
        reader = undefined;
        throw new Error(
          `${this.path}: column${columns.length > 1 ? "s" : ""} ${
            columns.join(", ")
          } cannot be read after row ${firstRow + done} (${(cause as Error).message ?? cause}). ` +
            "The file may be damaged: fetch it again",
          { cause },
        );
      } finally {
        await reader?.cancel();
      }
    }
  }

  /**
   * A digest by which the file is known again without its rows being read: of its footer, which says where every column
   * of every row group is and what it ranges over, its size, and when it was last changed.
   */
  async identity(): Promise<string> {
    const tail = new DataView(await this.#blob.slice(-TAIL_BYTES).arrayBuffer());
    const footer = await this.#blob.slice(-TAIL_BYTES - tail.getUint32(0, true)).arrayBuffer();
    return createHash("sha256").update(new Uint8Array(footer))
      .update(`${this.#blob.size} ${this.#blob.modified}`).digest("hex");
  }

  /** Closes the file. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#file.free();
    await this.#blob.close();
  }
}
