/**
 * A table of results as Markdown for reading and CSV for computing, written together with its figures
 * and its record.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import sharp from "sharp";
import type { Interval } from "../evaluation/statistics.ts";
import { type Figure, figureSvg } from "./figure.ts";
import { writeWhole } from "./run.ts";

/** What stands in a cell. */
export type Cell = string | number | Interval | null;

/** A column: its heading, and how many decimals its numbers have in the Markdown. */
export interface Column {
  readonly heading: string;
  /** Name in the CSV; an interval becomes `name`, `name_low`, `name_high`. */
  readonly name: string;
  readonly decimals?: number;
  /** Whether its cells are intervals. */
  readonly interval?: boolean;
  /** Whether a plus sign marks positive numbers, as for changes. */
  readonly signed?: boolean;
}

/** A table: columns, and rows with one cell per column. */
export interface Table {
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly Cell[])[];
}

/**
 * The table in Markdown; an interval reads `56.8 (51.0 to 62.5)`, an empty cell stays empty.
 *
 * @param table The table.
 */
export function markdownTable(table: Table): string {
  const rows = [
    table.columns.map((column) => column.heading),
    table.columns.map((column) => column.decimals === undefined ? "---" : "---:"),
    ...table.rows.map((row) =>
      row.map((cell, i) => cellText(cell, table.columns[i]!).replaceAll("|", "\\|"))
    ),
  ];
  return rows.map((row) => `| ${row.join(" | ")} |`).join("\n") + "\n";
}

/** A cell for reading: words as they are, numbers with the column's decimals. */
export function cellText(cell: Cell, column: Column): string {
  if (cell === null || typeof cell === "string") return cell ?? "";
  const show = (value: number) => {
    const text = value.toFixed(column.decimals ?? 2).replace(/^-(?=[0.]+$)/, "");
    return column.signed && Number(text) > 0 ? `+${text}` : text;
  };
  if (typeof cell === "number") return show(cell);
  return `${show(cell.estimate)} (${show(cell.low)} to ${show(cell.high)})`;
}

/**
 * The table as CSV (RFC 4180), numbers unrounded, empty cells empty.
 *
 * @param table The table.
 */
export function csvTable(table: Table): string {
  const header = table.columns.flatMap((column) =>
    column.interval ? [column.name, `${column.name}_low`, `${column.name}_high`] : [column.name]
  );
  const rows = table.rows.map((row) =>
    table.columns.flatMap((column, i) => {
      const cell = row[i];
      if (!column.interval) return [cell === null ? "" : String(cell)];
      if (cell === null) return ["", "", ""];
      const { estimate, low, high } = cell as Interval;
      return [estimate, low, high].map(String);
    })
  );
  return [header, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
}

/**
 * Quotes a CSV field where it must be.
 *
 * @param field The text of the field.
 */
export function quote(field: string): string {
  return /[",\r\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}

/** A figure and the name of its files. */
export interface FigureFile {
  readonly name: string;
  readonly figure: Figure;
  /** In pixels. */
  readonly width: number;
  readonly height: number;
}

/** What is written of an experiment. */
export interface Report {
  /** The page. */
  readonly markdown: string;
  readonly presentation: { readonly tables: readonly [{ readonly content: Table }, ...unknown[]] };
  readonly figures: readonly FigureFile[];
  /** The record with its provenance, as JSON. */
  readonly record: unknown;
}

/**
 * Writes `table.md`, `table.csv`, each figure as SVG and PNG, and `record.json`.
 *
 * @param folder Where; it exists.
 * @param report What.
 */
export async function writeReport(folder: string, report: Report): Promise<void> {
  const { markdown, presentation: { tables: [{ content }] }, figures, record } = report;
  for (const { name, figure, width, height } of figures) {
    const svg = await figureSvg(figure, width, height);
    await writeWhole(`${folder}/${name}.svg`, svg);
    await writeWhole(`${folder}/${name}.png`, await rasterise(svg));
  }
  await writeWhole(`${folder}/table.csv`, csvTable(content));
  await writeWhole(`${folder}/record.json`, recordText(record));
  await writeWhole(`${folder}/table.md`, markdown);
}

/** Twice the size, for displays of high density. */
async function rasterise(svg: string): Promise<Uint8Array> {
  return await sharp(Buffer.from(svg), { density: 144 }).flatten({ background: "#ffffff" }).png({
    palette: true,
  }).toBuffer();
}

/** JSON with lists of numbers on one line each, scores being lists of hundreds. */
export function recordText(record: unknown): string {
  const text = JSON.stringify(record, null, 1);
  // A line break cannot stand in a JSON string, so that only lists are met.
  return text.replace(
    /\[\n\s*(-?\d[^\[\]{}"]*?)\n\s*\]/g,
    (_, numbers: string) => `[${numbers.replace(/\s+/g, "")}]`,
  ) + "\n";
}
