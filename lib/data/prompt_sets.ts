/**
 * Sets of prompts to compare models by, in the formats that they are published in: a text file with
 * one prompt per line; PartiPrompts, a table of tab-separated values with a column `Prompt`; HPDv2's
 * benchmark, a JSON list for each of four styles; Pick-a-Pic's `validation_unique`, Parquet with a
 * column `caption`.
 *
 * @module
 */
import { parse } from "csv-parse/sync";
import { datasetFiles } from "./dataset_files.ts";
import { PreferenceFile } from "./preference_file.ts";

/** Prompts in the order of their file. */
export interface PromptSet {
  readonly prompts: readonly string[];
  /** What each prompt is of, where the set says so: PartiPrompts' category, HPDv2's style. */
  readonly categories?: readonly string[];
}

/** Names of the column that holds the prompts, in any case. */
const PROMPT_COLUMNS = ["prompt", "caption"];
const CATEGORY_COLUMN = "category";

/** More than any set of prompts has, and little enough to be read at once. */
const MAX_BYTES = 2 ** 28;
/** A row that is longer has an opening quote that nothing closes. */
const MAX_ROW_BYTES = 2 ** 20;

/**
 * Reads a set of prompts. The file's ending tells its format: `.tsv` and `.csv` are tables with a
 * header, `.json` is a list of texts, `.parquet` preference data, of which each caption counts once;
 * any other file has one prompt per line. A folder holds JSON lists, or Parquet files.
 *
 * @param path A file or folder.
 * @throws {Error} Naming the file, the line or entry, and the column: for a missing or damaged file,
 * a column or a prompt that is not there, and a set without prompts.
 * @example
 * ```ts ignore
 * const { prompts, categories } = await readPromptSet("PartiPrompts.tsv");
 * ```
 */
export async function readPromptSet(path: string): Promise<PromptSet> {
  const set = await read(path);
  if (set.prompts.length === 0) throw new Error(`${path} has no prompt`);
  return set;
}

async function read(path: string): Promise<PromptSet> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Deno.errors.NotFound(`no such file or folder: ${path}`);
  }
  if (info.isDirectory) return await readFolder(path);
  switch (/\.([^./\\]+)$/.exec(path)?.[1]?.toLowerCase()) {
    case "parquet":
      return await readCaptions(path);
    case "json":
      return { prompts: parseList(path, await readText(path, info.size)) };
    case "tsv":
      return parseTable(path, await readText(path, info.size), "\t");
    case "csv":
      return parseTable(path, await readText(path, info.size), ",");
    default:
      return { prompts: parseLines(await readText(path, info.size)) };
  }
}

async function readText(path: string, size: number): Promise<string> {
  if (size > MAX_BYTES) {
    throw new Error(`${path} has ${size} bytes: sets of prompts have ${MAX_BYTES} at most`);
  }
  try {
    // Without the mark that some programs put at the beginning.
    return new TextDecoder("utf-8", { fatal: true }).decode(await Deno.readFile(path));
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    throw new Error(`${path} is not a text in UTF-8: save it again as one`, { cause });
  }
}

function parseLines(text: string): string[] {
  return text.split(/\r?\n/).map((line) => line.trim()).filter((line) => line !== "");
}

/** HPDv2: a list of texts. */
function parseList(path: string, text: string): string[] {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (!Array.isArray(list)) throw new Error(`${path} is no JSON list of prompts`);
  return list.map((prompt, i) => {
    if (typeof prompt === "string" && prompt.trim() !== "") return prompt.trim();
    throw new Error(
      `${path}: entry ${i + 1} is ${JSON.stringify(prompt).slice(0, 80)}; expected a prompt`,
    );
  });
}

/** PartiPrompts and its like: a table with a header. Quotes within a field are part of it. */
function parseTable(path: string, text: string, delimiter: string): PromptSet {
  type Row = { record: string[]; info: { lines: number } };
  let rows: Row[];
  try {
    rows = parse(text, {
      delimiter,
      info: true,
      max_record_size: MAX_ROW_BYTES,
      relax_quotes: true,
      skip_empty_lines: true,
    }) as unknown as Row[];
  } catch (cause) {
    // The library's messages say the line.
    throw new Error(`${path}: ${(cause as Error).message}`, { cause });
  }
  const header = rows[0]?.record ?? [];
  const column = (names: readonly string[]) =>
    header.findIndex((name) => names.includes(name.trim().toLowerCase()));
  const [prompt, category] = [column(PROMPT_COLUMNS), column([CATEGORY_COLUMN])];
  if (prompt < 0) {
    throw new Error(
      `${path} has no column "Prompt" or "caption" in its first line; it has ` +
        header.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 40))).join(", "),
    );
  }
  const body = rows.slice(1);
  const prompts = body.map(({ record, info }) => {
    const text = record[prompt]!.trim();
    if (text !== "") return text;
    throw new Error(`${path}: line ${info.lines} has nothing in the column "${header[prompt]}"`);
  });
  if (category < 0) return { prompts };
  return { prompts, categories: body.map(({ record }) => record[category]!.trim()) };
}

/** Pick-a-Pic: a prompt has as many rows as pairs of images. */
async function readCaptions(path: string): Promise<PromptSet> {
  const captions = new Set<string>();
  for (const name of await datasetFiles(path)) {
    await using file = await PreferenceFile.open(name);
    for await (const { firstRow, table } of file.batches(["caption"])) {
      const column = table.getChild("caption")!;
      for (let i = 0; i < table.numRows; i++) {
        const caption = column.get(i);
        if (typeof caption === "string") captions.add(caption);
        else {
          throw new Error(
            `${name}: column "caption", row ${firstRow + i} holds ${caption}; a text is expected`,
          );
        }
      }
    }
  }
  return { prompts: [...captions] };
}

/** HPDv2's four lists, or Pick-a-Pic's shards. */
async function readFolder(path: string): Promise<PromptSet> {
  const names: string[] = [];
  for await (const { name, isFile } of Deno.readDir(path)) if (isFile) names.push(name);
  const lists = names.filter((name) => name.endsWith(".json")).sort();
  if (lists.length === 0) {
    if (names.some((name) => name.endsWith(".parquet"))) return await readCaptions(path);
    throw new Error(
      `the folder ${path} holds neither JSON lists of prompts nor Parquet files: give one of ` +
        `its files, or HPDv2's or Pick-a-Pic's folder`,
    );
  }
  const prompts: string[] = [];
  const categories: string[] = [];
  for (const name of lists) {
    const list = await readPromptSet(`${path}/${name}`);
    prompts.push(...list.prompts);
    categories.push(...list.prompts.map(() => name.slice(0, -".json".length)));
  }
  return { prompts, categories };
}
