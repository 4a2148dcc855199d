/**
 * Writing a preference dataset: rows to a Parquet file in Pick-a-Pic v2's schema, one row group in memory at a time.
 *
 * @module
 */
import { rename } from "node:fs/promises";
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { type PreferenceRow, tableFromRows } from "./schema.ts";

const ROWS_PER_GROUP = 2000;
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
