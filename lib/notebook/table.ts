/**
 * Tables in a notebook.
 *
 * They are HTML, with plain text beside it, and no Markdown: JupyterLab, VS Code and GitHub all set
 * HTML tables and all prefer them to Markdown, so a third form would be read by nobody.
 *
 * @module
 */
import { cellText, type Table } from "../experiments/report.ts";
import type { MimeBundle } from "./kernel.ts";
import { plainTable } from "./plain_table.ts";
import { show } from "./show.ts";

/**
 * Shows a table: numbers and intervals to the right, words to the left.
 *
 * @param table The table.
 * @param caption Stands above it.
 */
export async function showTable(table: Table, caption?: string): Promise<void> {
  await show(tableBundle(table, caption));
}

/**
 * All forms of a table.
 *
 * @param table The table.
 * @param caption Stands above it.
 */
export function tableBundle(table: Table, caption?: string): MimeBundle {
  const rows = texts(table);
  const toTheRight = table.columns.map((_, i) =>
    table.rows.every((row) => typeof row[i] !== "string") &&
    table.rows.some((row) => row[i] !== null)
  );
  return {
    "text/html": htmlTable(rows, toTheRight, caption),
    "text/plain": plainTable(rows, toTheRight, caption),
  };
}

/** Headings and cells, worded as in a report's Markdown, so that a number reads the same everywhere. */
function texts({ columns, rows }: Table): string[][] {
  return [
    columns.map((column) => column.heading),
    ...rows.map((row) => row.map((cell, i) => cellText(cell, columns[i]!))),
  ];
}

function htmlTable(rows: string[][], toTheRight: boolean[], caption?: string): string {
  const line = (cells: string[], tag: "th" | "td") => {
    const cell = (text: string, i: number) => {
      const side = toTheRight[i] ? "right" : "left";
      // The attribute is for GitHub, which takes styles out; the style is for JupyterLab, whose own
      // style sheet puts everything to the right.
      return `<${tag} align="${side}" style="text-align: ${side}">${escapeHtml(text)}</${tag}>`;
    };
    return `<tr>${cells.map(cell).join("")}</tr>`;
  };
  const [headings, ...body] = rows;
  return [
    "<table>",
    ...(caption === undefined ? [] : [`<caption>${escapeHtml(caption)}</caption>`]),
    "<thead>",
    line(headings!, "th"),
    "</thead>",
    "<tbody>",
    ...body.map((cells) => line(cells, "td")),
    "</tbody>",
    "</table>",
  ].join("\n");
}

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
