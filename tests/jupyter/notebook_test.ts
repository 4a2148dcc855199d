/** Notebook files: read, checked, and written as Jupyter writes them. */
import { assertEquals, assertRejects } from "@std/assert";
import { missingOutputs } from "../../lib/jupyter/expected_outputs.ts";
import {
  codeCells,
  newNotebook,
  notebookText,
  type Output,
  readNotebook,
  writeNotebook,
} from "../../lib/jupyter/notebook.ts";

/** Does something with a temporary file. */
async function withFile(work: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempFile({ suffix: ".ipynb" });
  try {
    await work(path);
  } finally {
    await Deno.remove(path);
  }
}

const shown = (data: Record<string, unknown>): Output => ({
  output_type: "display_data",
  data,
  metadata: {},
});

Deno.test("the file has sorted keys, an indent of one and lists of lines", () => {
  const notebook = newNotebook([{ source: "const é = 1;\nawait f();", tags: ["text"] }]);
  codeCells(notebook)[0]!.outputs = [
    shown({ "text/plain": "a\nb\n", "image/png": "AA\n", "application/json": { b: 1, a: "x\ny" } }),
    { output_type: "stream", name: "stdout", text: "c\n" },
  ];
  assertEquals(
    notebookText(notebook),
    `{
 "cells": [
  {
   "cell_type": "code",
   "execution_count": null,
   "id": "cell-1",
   "metadata": {
    "tags": [
     "text"
    ]
   },
   "outputs": [
    {
     "data": {
      "application/json": {
       "a": "x\\ny",
       "b": 1
      },
      "image/png": "AA\\n",
      "text/plain": [
       "a\\n",
       "b\\n"
      ]
     },
     "metadata": {},
     "output_type": "display_data"
    },
    {
     "name": "stdout",
     "output_type": "stream",
     "text": [
      "c\\n"
     ]
    }
   ],
   "source": [
    "const é = 1;\\n",
    "await f();"
   ]
  }
 ],
 "metadata": {
  "kernelspec": {
   "display_name": "Deno",
   "language": "typescript",
   "name": "deno"
  },
  "language_info": {
   "name": "typescript"
  }
 },
 "nbformat": 4,
 "nbformat_minor": 5
}
`,
  );
});

Deno.test("what is written is read back the same, and written again the same", async () => {
  await withFile(async (path) => {
    const notebook = newNotebook(["a\nb", ""]);
    codeCells(notebook)[0]!.outputs = [shown({ "image/svg+xml": "<svg>\n</svg>" })];
    notebook.cells.push({ cell_type: "markdown", id: "words", metadata: {}, source: "# A\n" });
    await writeNotebook(path, notebook);
    const back = await readNotebook(path);
    assertEquals(back, notebook);
    assertEquals(notebookText(back), await Deno.readTextFile(path));
  });
});

Deno.test("what is no notebook, or an old one, is explained", async () => {
  await withFile(async (path) => {
    const fails = async (text: string, expected: string) => {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => readNotebook(path), Error, expected);
    };
    await fails("{", `${path} can't be read as a notebook`);
    await fails('{"nbformat": 4, "nbformat_minor": 2, "cells": []}', "is in nbformat 4.2, but");
    const text = notebookText(newNotebook(["1", "2"]));
    await fails(text.replace("cell-2", "cell-1"), 'cell 2 of 2 has the id "cell-1"');
    await fails(text.replace("cell-2", "a b"), 'has the id "a b"');
  });
  await assertRejects(() => readNotebook("none.ipynb"), Error, "none.ipynb can't be read");
});

Deno.test("a tagged cell without its output is listed by number, line and tag", () => {
  const source = "\nawait show();";
  const notebook = newNotebook(
    ["figure", "figure", "table", "image", "text", "text", "note"].map((tag) => ({
      source,
      tags: [tag],
    })),
  );
  const svg = { "image/svg+xml": "<svg/>", "text/plain": "a figure" };
  const outputs = [
    [shown({ ...svg, "application/vnd.plotly.v1+json": {} })],
    [shown(svg)],
    [shown({ "text/html": "<table>" })],
    [],
    [{ output_type: "stream", name: "stdout", text: "a" } as const],
    [],
    [],
  ];
  codeCells(notebook).forEach((cell, i) => cell.outputs = outputs[i]!);
  const missing = missingOutputs(notebook);
  assertEquals(missing.map((words) => words.slice(0, 50)), [
    'cell 2 (await show();) has the tag "figure" but sh',
    'cell 4 (await show();) has the tag "image" but sho',
    'cell 6 (await show();) has the tag "text" but show',
  ]);
  assertEquals(
    missing[0]!.split("expected ")[1],
    "a figure, as Plotly JSON and as SVG in one output",
  );
});
