/**
 * A table of results as Markdown for reading and CSV for computing, written together with its figure
 * and its record.
 *
 * @module
 */
import type { Interval } from "../evaluation/statistics.ts";
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
    ...table.rows.map((row) => row.map((cell, i) => cellText(cell, table.columns[i]!))),
  ];
  return rows.map((row) => `| ${row.join(" | ")} |`).join("\n") + "\n";
}

function cellText(cell: Cell, column: Column): string {
  if (cell === null) return "";
  if (typeof cell === "string") return cell.replaceAll("|", "\\|");
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

/** What an experiment leaves behind. */
export interface Report {
  /** The page: headline, words, table. */
  readonly markdown: string;
  readonly table: Table;
  /** SVG. */
  readonly figure: string;
  /** The record with its provenance, as JSON. */
  readonly record: unknown;
}

/**
 * Writes `table.md`, `table.csv`, `figure.svg` and `record.json`.
 *
 * @param folder Where; made if missing.
 * @param report What.
 */
export async function writeReport(folder: string, report: Report): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await writeWhole(`${folder}/table.md`, report.markdown);
  await writeWhole(`${folder}/table.csv`, csvTable(report.table));
  await writeWhole(`${folder}/figure.svg`, report.figure);
  await writeWhole(`${folder}/record.json`, JSON.stringify(report.record, null, 1) + "\n");
}
