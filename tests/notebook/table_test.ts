/** Tables in a notebook: the same words in HTML and plain text, on the right side. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Table } from "../../lib/experiments/report.ts";
import { tableBundle } from "../../lib/notebook/table.ts";

const table: Table = {
  columns: [
    { heading: "Data", name: "data" },
    { heading: "Wins, %", name: "wins", decimals: 1, interval: true },
    { heading: "Change", name: "change", decimals: 2, signed: true },
  ],
  rows: [
    ["full", { estimate: 56.84, low: 51, high: 62.26, level: 0.95 }, 0.123],
    ["a|b <i>", null, -1],
  ],
};

Deno.test("plain text has aligned columns, numbers to the right", () => {
  assertEquals(
    tableBundle(table, "Wins")["text/plain"],
    [
      "Wins",
      "",
      "Data                 Wins, %  Change",
      "full     56.8 (51.0 to 62.3)   +0.12",
      "a|b <i>                        -1.00",
    ].join("\n"),
  );
});

Deno.test("HTML is escaped and says the side twice: as an attribute and as a style", () => {
  const html = tableBundle(table, "Wins & losses")["text/html"] as string;
  assertStringIncludes(html, "<caption>Wins &amp; losses</caption>");
  assertStringIncludes(html, '<th align="left" style="text-align: left">Data</th>');
  assertStringIncludes(html, '<td align="left" style="text-align: left">a|b &lt;i&gt;</td>');
  assertStringIncludes(html, '<td align="right" style="text-align: right"></td>');
  assertStringIncludes(html, '<td align="right" style="text-align: right">-1.00</td>');
});

Deno.test("without a caption there is none, and an empty table keeps its headings", () => {
  const { "text/html": html, "text/plain": plain } = tableBundle({ ...table, rows: [] });
  assert(!(html as string).includes("caption"));
  assertEquals(plain, "Data  Wins, %  Change");
});
