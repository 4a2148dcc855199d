/**
 * Notebook files in nbformat 4.5: read into plain values, written as Jupyter itself writes them, so
 * that saving a notebook here or there gives the same lines.
 *
 * @module
 */
import { writeWhole } from "../experiments/run.ts";
import type { MimeBundle } from "../notebook/kernel.ts";
import { kernelMetadata } from "./kernel_spec.ts";

/** Text that a cell printed. */
export interface StreamOutput {
  output_type: "stream";
  name: "stdout" | "stderr";
  text: string;
}

/** Something that a cell showed. */
export interface DisplayOutput {
  output_type: "display_data";
  data: MimeBundle;
  metadata: Record<string, unknown>;
}

/** The value of a cell's last expression. */
export interface ResultOutput {
  output_type: "execute_result";
  data: MimeBundle;
  metadata: Record<string, unknown>;
  execution_count: number | null;
}

/** What ended a cell early. */
export interface ErrorOutput {
  output_type: "error";
  ename: string;
  evalue: string;
  traceback: string[];
}

/** What stands below a code cell. */
export type Output = StreamOutput | DisplayOutput | ResultOutput | ErrorOutput;

/** What all cells have. */
interface CellBase {
  /** Unique in the notebook: 1 to 64 letters, digits, `-` and `_`. */
  id: string;
  metadata: { tags?: string[] } & Record<string, unknown>;
  source: string;
}

/** A cell with code. */
export interface CodeCell extends CellBase {
  cell_type: "code";
  execution_count: number | null;
  outputs: Output[];
}

/** A cell with words. */
export interface TextCell extends CellBase {
  cell_type: "markdown" | "raw";
  /** Pictures pasted into the cell. */
  attachments?: Record<string, MimeBundle>;
}

/** A cell. */
export type Cell = CodeCell | TextCell;

/** A notebook. */
export interface Notebook {
  cells: Cell[];
  metadata: Record<string, unknown>;
  nbformat: 4;
  nbformat_minor: number;
}

/**
 * A notebook for Deno's kernel.
 *
 * @param cells Its cells; each a text for a code cell, or text and tags.
 */
export function newNotebook(
  cells: readonly (string | { source: string; tags: string[] })[],
): Notebook {
  return {
    cells: cells.map((cell, i) => ({
      cell_type: "code",
      execution_count: null,
      id: `cell-${i + 1}`,
      metadata: typeof cell === "string" ? {} : { tags: cell.tags },
      outputs: [],
      source: typeof cell === "string" ? cell : cell.source,
    })),
    metadata: { kernelspec: { ...kernelMetadata }, language_info: { name: "typescript" } },
    nbformat: 4,
    nbformat_minor: 5,
  };
}

/**
 * The code cells in their order. A cell is known by its number among them, starting at 1: Jupyter
 * shows the same number in brackets when a notebook is run from its beginning.
 *
 * @param notebook The notebook.
 */
export function codeCells(notebook: Notebook): CodeCell[] {
  return notebook.cells.filter((cell) => cell.cell_type === "code");
}

/**
 * Reads a notebook.
 *
 * @param path The file.
 * @throws {Error} if it is no notebook in nbformat 4.5 or later.
 */
export async function readNotebook(path: string): Promise<Notebook> {
  let content: unknown;
  try {
    content = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new Error(`${path} can't be read as a notebook: ${(cause as Error).message}`, { cause });
  }
  const { nbformat, nbformat_minor, cells } = content as Partial<Notebook>;
  if (nbformat !== 4 || !(nbformat_minor! >= 5) || !Array.isArray(cells)) {
    throw new Error(
      `${path} is in nbformat ${nbformat}.${nbformat_minor}, but it must be in 4.5 or later: ` +
        `open it in JupyterLab and save it`,
    );
  }
  const names = new Set<string>();
  cells.forEach((cell, i) => {
    if (!/^[\w-]{1,64}$/.test(cell.id) || names.has(cell.id)) {
      throw new Error(
        `${path}: cell ${i + 1} of ${cells.length} has the id ${JSON.stringify(cell.id)}, but it ` +
          `must be unique and consist of 1 to 64 letters, digits, "-" and "_"`,
      );
    }
    names.add(cell.id);
  });
  return mapTexts(content, joinLines) as Notebook;
}

/**
 * A notebook as the text of its file.
 *
 * @param notebook The notebook.
 */
export function notebookText(notebook: Notebook): string {
  return JSON.stringify(sortKeys(mapTexts(notebook, splitLines)), null, 1) + "\n";
}

/**
 * Writes a notebook.
 *
 * @param path The file.
 * @param notebook The notebook.
 */
export async function writeNotebook(path: string, notebook: Notebook): Promise<void> {
  await writeWhole(path, notebookText(notebook));
}

/** Applies a function wherever the format has text that may be a list of lines in the file. */
function mapTexts(notebook: unknown, map: (text: unknown) => unknown): unknown {
  const { cells, ...rest } = notebook as Notebook;
  const bundle = (data: MimeBundle) =>
    Object.fromEntries(
      Object.entries(data).map(([type, value]) => [type, isLines(type) ? map(value) : value]),
    );
  return {
    ...rest,
    cells: cells.map((cell) => ({
      ...cell,
      source: map(cell.source),
      ...("outputs" in cell
        ? {
          outputs: cell.outputs.map((output) => {
            if (output.output_type === "stream") return { ...output, text: map(output.text) };
            return "data" in output ? { ...output, data: bundle(output.data) } : output;
          }),
        }
        : {}),
    })),
  };
}

/** Types whose contents Jupyter writes as a list of lines; base64 stays one text, JSON is values. */
function isLines(type: string): boolean {
  return type.startsWith("text/") || type === "image/svg+xml";
}

function joinLines(text: unknown): unknown {
  return Array.isArray(text) ? text.join("") : text;
}

function splitLines(text: unknown): unknown {
  if (typeof text !== "string") return text;
  return text === "" ? [] : text.split(/(?<=\n)/);
}

/** Jupyter sorts the keys of every object. */
function sortKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortKeys);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1).map(([k, v]) => [k, sortKeys(v)]),
  );
}
