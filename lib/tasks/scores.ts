/**
 * Scores as files: a row per image with its prompt and its score.
 *
 * @module
 */
import * as arrow from "apache-arrow";
import * as parquet from "parquet-wasm";
import { quote } from "../experiments/report.ts";

/** A row. */
export interface ScoredImage {
  /** The image's file name. */
  readonly image: string;
  readonly prompt: string;
  /** Null where the image could not be read. */
  readonly score: number | null;
}

/** Rows as CSV under the header `image,prompt,score`; a missing score is an empty field. */
export function scoresAsCsv(rows: readonly ScoredImage[]): string {
  return [
    "image,prompt,score",
    ...rows.map(({ image, prompt, score }) =>
      [image, prompt, `${score ?? ""}`].map(quote).join(",")
    ),
  ].join("\r\n") + "\r\n";
}

/**
 * Rows as a Parquet file: columns `image` and `prompt` (text) and `score` (float, null where missing).
 *
 * @param metadata What the file says of all scores, such as the scorer.
 */
export function scoresAsParquet(
  rows: readonly ScoredImage[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const table = new arrow.Table({
    image: arrow.vectorFromArray(rows.map(({ image }) => image), new arrow.Utf8()),
    prompt: arrow.vectorFromArray(rows.map(({ prompt }) => prompt), new arrow.Utf8()),
    score: arrow.vectorFromArray(rows.map(({ score }) => score), new arrow.Float32()),
  });
  const properties = new parquet.WriterPropertiesBuilder()
    .setKeyValueMetadata(new Map(Object.entries(metadata)))
    .build();
  return parquet.writeParquet(
    parquet.Table.fromIPCStream(arrow.tableToIPC(table, "stream")),
    properties,
  );
}
