/**
 * A cell says by its tags what it shows, so that a notebook whose figure has silently vanished is
 * found out.
 *
 * @module
 */
import { codeCells, type Notebook, type Output } from "./notebook.ts";
import { cellTitle } from "./execute.ts";

/** Each tag, what must stand below a cell that has it, and how that is recognised. */
const expectations: Readonly<
  Record<string, { readonly what: string; readonly found: (output: Output) => boolean }>
> = {
  figure: {
    what: "a figure, as Plotly JSON and as SVG in one output",
    found: (output) =>
      has(output, "application/vnd.plotly.v1+json") && has(output, "image/svg+xml"),
  },
  table: { what: "a table, as text/html", found: (output) => has(output, "text/html") },
  image: { what: "an image, as image/png", found: (output) => has(output, "image/png") },
  text: {
    what: "text: printed, text/plain or text/markdown",
    found: (output) =>
      output.output_type === "stream" || has(output, "text/plain") || has(output, "text/markdown"),
  },
};

/** The tags that stand for an output. */
export const outputTags: readonly string[] = Object.keys(expectations);

/**
 * Lists what a notebook's cells should show and don't.
 *
 * @param notebook An executed notebook.
 * @returns A sentence for each missing output; empty when nothing is missing.
 */
export function missingOutputs(notebook: Notebook): string[] {
  return codeCells(notebook).flatMap((cell, i) =>
    (cell.metadata.tags ?? []).flatMap((tag) => {
      const expected = Object.hasOwn(expectations, tag) ? expectations[tag] : undefined;
      if (!expected || cell.outputs.some(expected.found)) return [];
      return [
        `${cellTitle(i + 1, cell.source)} has the tag "${tag}" but shows no ${tag}: expected ` +
        expected.what,
      ];
    })
  );
}

function has(output: Output, type: string): boolean {
  return "data" in output && output.data[type] !== undefined;
}
