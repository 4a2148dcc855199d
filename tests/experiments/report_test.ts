/** Tables, the figure, and the files of a report. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { csvTable, markdownTable, quote, type Table } from "../../lib/experiments/report.ts";

const table: Table = {
  columns: [
    { heading: "Data", name: "data" },
    { heading: "Win rate, %", name: "win_rate", decimals: 1, interval: true },
    { heading: "Change", name: "change", decimals: 2, signed: true },
  ],
  rows: [
    ["full", { estimate: 56.84, low: 51, high: 62.26, level: 0.95 }, 0.123],
    ['a|b, "c"', null, -0.001],
  ],
};

Deno.test("Markdown rounds, signs and shows intervals", () => {
  assertEquals(
    markdownTable(table),
    "| Data | Win rate, % | Change |\n" +
      "| --- | ---: | ---: |\n" +
      "| full | 56.8 (51.0 to 62.3) | +0.12 |\n" +
      '| a\\|b, "c" |  | 0.00 |\n',
  );
});

Deno.test("CSV keeps every digit and quotes what needs it", () => {
  assertEquals(
    csvTable(table),
    "data,win_rate,win_rate_low,win_rate_high,change\r\n" +
      "full,56.84,51,62.26,0.123\r\n" +
      '"a|b, ""c""",,,,-0.001\r\n',
  );
  assertEquals(quote("plain"), "plain");
});

Deno.test("a figure is drawn, with its words, and the same each time", async () => {
  const figure = {
    data: [{
      type: "scatter" as const,
      mode: "markers" as const,
      x: [56.8, 64.6],
      y: ["full", "filtered"],
      error_x: { type: "data" as const, array: [3, 2] },
    }],
    layout: { title: { text: "Win rate" } },
  };
  const svg = await figureSvg(figure, 400, 300);
  assert(svg.startsWith("<svg"));
  assertStringIncludes(svg, "Win rate");
  assertStringIncludes(svg, "filtered");
  assertEquals(await figureSvg(figure, 400, 300), svg);
  assertEquals(svg.match(/<path class="point"/g)?.length, 2);
});

Deno.test("Plotly's own check names a wrong attribute", async () => {
  const data = [{ type: "scatter", modes: "markers" }];
  await assertRejects(() => figureSvg({ data: data as never, layout: {} }), TypeError, "modes");
});
