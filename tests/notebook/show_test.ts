/** What cells show, outside a notebook: plain text. What stands in the bundles is checked too. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  enterRepository,
  interruptCheck,
  notebookPreset,
  presetVariable,
  show,
  showFigure,
  showImage,
  showMarkdown,
  showTable,
} from "../../lib/notebook/mod.ts";
import { figureBundle } from "../../lib/notebook/figure.ts";

/** What is printed while something runs. */
async function printed(work: () => Promise<void>): Promise<string[]> {
  const lines: string[] = [];
  const log = console.log;
  console.log = (...words) => lines.push(words.join(" "));
  try {
    await work();
  } finally {
    console.log = log;
  }
  return lines;
}

const png = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 1, 2);

const figure = { data: [{ type: "scatter" as const, y: Float32Array.of(1, 2) }], layout: {} };

Deno.test("outside a notebook, what is shown is printed as text", async () => {
  const lines = await printed(async () => {
    await show({ "text/plain": "words" });
    await show({ "image/png": "AAAA" });
    await showMarkdown("a **b**");
    await showImage(png, "a picture");
    await showFigure(figure, { caption: "a curve" });
    await showTable({ columns: [{ heading: "A", name: "a" }], rows: [["x"]] }, "a table");
  });
  assertEquals(lines, ["words", "image/png", "a **b**", "a picture", "a curve", "a table\n\nA\nx"]);
});

Deno.test("a figure is Plotly's JSON, as wide as the page, SVG and words, without HTML", async () => {
  const bundle = await figureBundle(figure, { caption: "a curve", width: 300, height: 200 });
  assertEquals(Object.keys(bundle).sort(), [
    "application/vnd.plotly.v1+json",
    "image/svg+xml",
    "text/plain",
  ]);
  assertEquals(bundle["application/vnd.plotly.v1+json"], {
    data: [{ type: "scatter", y: [1, 2] }],
    layout: { height: 200, autosize: true },
  });
  const svg = bundle["image/svg+xml"] as string;
  assert(svg.includes('width="300" height="200"'), svg.slice(0, 200));
  assertEquals(figure.layout, {});
});

Deno.test("bytes that are no PNG file are refused", async () => {
  const { message } = await assertRejects(() => showImage(png.subarray(1), "x"), TypeError);
  assertEquals(message.slice(0, 29), "these 9 bytes are no PNG file");
});

Deno.test("the repository's folder is found from anywhere, again and again", () => {
  const before = Deno.cwd();
  try {
    Deno.chdir(Deno.build.os === "windows" ? "C:\\" : "/");
    enterRepository();
    enterRepository();
    assert(Deno.statSync("deno.json").isFile);
  } finally {
    Deno.chdir(before);
  }
});

Deno.test("the preset comes from the environment, else from the notebook", () => {
  const before = Deno.env.get(presetVariable);
  try {
    Deno.env.delete(presetVariable);
    assertEquals([notebookPreset(), notebookPreset("smoke")], ["quick", "smoke"]);
    Deno.env.set(presetVariable, "full");
    assertEquals(notebookPreset(), "full");
    Deno.env.set(presetVariable, "fulll");
    assertThrows(() => notebookPreset(), TypeError, 'NCP_PRESET is "fulll", but must be smoke');
  } finally {
    if (before === undefined) Deno.env.delete(presetVariable);
    else Deno.env.set(presetVariable, before);
  }
});

Deno.test("outside a notebook nothing is interrupted", () => {
  interruptCheck()();
});
