/**
 * The Parquet files that make up a dataset: a file, a folder of shards, or a pattern.
 *
 * @module
 */
import { glob } from "node:fs/promises";

/** `train-00012-of-00645-....parquet`: split, number and count as the Hugging Face Hub names shards. */
const SHARD = /([^/]*)-\d{5}-of-\d{5}[^/]*\.parquet$/;

/**
 * The files of a dataset, in the order of their names.
 *
 * @param path A Parquet file, a folder whose `*.parquet` files are the shards of one split, or a pattern such as
 * `data/train-*.parquet`.
 * @throws {Error} If there is none, or the folder holds several splits, which must not be taken for one.
 */
export async function datasetFiles(path: string): Promise<string[]> {
  const info = await Deno.stat(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound && /[*?[{]/.test(path)) return undefined;
    throw new Error(
      `Cannot open the preference dataset ${path}: ${error.message}. ` +
        "Give a Parquet file in Pick-a-Pic v2's schema, a folder of them or a pattern",
      { cause: error },
    );
  });
  if (info && !info.isDirectory) return [path];
  if (!info) {
    const files = (await Array.fromAsync(glob(path))).sort();
    if (files.length === 0) throw new Error(`No file matches the pattern ${path}`);
    return files;
  }
  const names: string[] = [];
  for await (const { name } of Deno.readDir(path)) if (name.endsWith(".parquet")) names.push(name);
  if (names.length === 0) throw new Error(`The folder ${path} holds no *.parquet file`);
  const splits = [...new Set(names.map((name) => SHARD.exec(name)?.[1]))].sort();
  if (splits.length > 1 && splits.some((split) => split !== undefined)) {
    throw new Error(
      `The folder ${path} holds several splits (${
        splits.map((split) => split ?? "other files").join(", ")
      }): name the files of one, for example "${path}/${splits[0]}-*.parquet"`,
    );
  }
  return names.sort().map((name) => `${path}/${name}`);
}
