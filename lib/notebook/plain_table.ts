/**
 * Tables as plain text, for a terminal and for notebooks that show no HTML.
 *
 * @module
 */

/**
 * A table as lines of text with aligned columns.
 *
 * @param rows The headings, then the cells.
 * @param toTheRight Which columns are aligned at their end.
 * @param caption Stands above it.
 */
export function plainTable(
  rows: readonly (readonly string[])[],
  toTheRight: readonly boolean[],
  caption?: string,
): string {
  const widths = toTheRight.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const lines = rows.map((row) =>
    row.map((cell, i) => toTheRight[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))
      .join("  ").trimEnd()
  );
  return [...(caption === undefined ? [] : [caption, ""]), ...lines].join("\n");
}
