/** Figure 3, Table 2, Figure 4, the ablations and the claims from made-up scores whose answers are known. */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { presentAblations } from "../../lib/experiments/ablations.ts";
import {
  type Claim,
  claimSentence,
  verdictAbove,
  withClaims,
} from "../../lib/experiments/claims.ts";
import {
  type Figure3Method,
  figure3Methods,
  type Figure3Results,
  meanOverTime,
  presentFigure3,
} from "../../lib/experiments/figure3.ts";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { presentFigure4, shareTable } from "../../lib/experiments/figure4.ts";
import { presets } from "../../lib/experiments/presets.ts";
import { recordText } from "../../lib/experiments/report.ts";
import { medianTable, presentTable2 } from "../../lib/experiments/table2.ts";

const prompts = 60;
const seeds = [0, 1, 2];
const settings = { ...presets.full, seeds };

/** Scores around a level that differ by prompt. */
function scores(level: number) {
  const values = Array.from({ length: prompts }, (_, i) => level + (i % 7) / 100);
  return { pickscore: values, hps: values, utility: values };
}

/** Every method climbs by its slope per step. */
function courses(slopes: Partial<Record<Figure3Method, number>>, seconds = 1): Figure3Results {
  return {
    backbone: "nano",
    batch: 16,
    stepSeconds: Object.fromEntries(
      figure3Methods.map((method) => [method, method.startsWith("ncp") ? seconds : 1]),
    ) as Figure3Results["stepSeconds"],
    base: scores(20),
    courses: figure3Methods.flatMap((method) =>
      seeds.map((seed) => ({
        method,
        seed,
        checkpoints: [10, 20].map((step) => ({
          step,
          scores: scores(20 + step * (slopes[method] ?? 0)),
        })),
      }))
    ),
  };
}

Deno.test("figure 3: the mean over time is the area under the course", () => {
  const results = courses({ dpo: 0.1 });
  const [first] = meanOverTime(results, "dpo", "pickscore", 20);
  assertAlmostEquals(first![0]!, 20 + 0.1 * 20 / 2);
  // Half of the time: half of the climb.
  assertAlmostEquals(meanOverTime(results, "dpo", "pickscore", 5)[0]![0]!, 20 + 0.1 * 5 / 2);
});

Deno.test("figure 3: a method that is better per step can be slower in time", () => {
  const of = (seconds: number) =>
    presentFigure3(courses({ dpo: 0.1, "ncp-dpo": 0.12, cpo: -0.1 }, seconds), {
      ...settings,
      data: "filtered",
      every: 10,
    }).claims.map(({ verdict }) => verdict);
  // Faster and higher for DPO, the same for SFT, CPO falls, NCP-CPO stays.
  const sft = ["not shown", "not shown"];
  assertEquals(of(1), ["reproduced", "reproduced", ...sft, "reproduced", "reproduced"]);
  assertEquals(of(2), ["contradicted", "reproduced", ...sft, "reproduced", "reproduced"]);
});

Deno.test("figure 3 is drawn with a line and a band for each method in four panels", async () => {
  const { figures: [figure] } = presentFigure3(courses({ dpo: 0.1 }), {
    ...settings,
    data: "filtered",
    every: 10,
  });
  const { figure: drawn, width, height } = figure!.content;
  assertEquals(drawn.data.length, 4 * (2 * figure3Methods.length + 1));
  assertStringIncludes(await figureSvg(drawn, width, height), "NCP-CPO");
});

Deno.test("table 2: medians, and the sets' differences paired by prompt and seed", () => {
  const tuned = seeds.flatMap((seed) =>
    ([["xy", 0.5], ["xy-xz", 0.6], ["xy-yz", 0.6]] as const).map(([data, gain]) => ({
      ...{ data, seed, pairs: 10 },
      scores: scores(20 + gain + seed),
    }))
  );
  const results = { backbone: "nano", base: scores(20), tuned };
  const { claims } = presentTable2(results, settings);
  assertEquals(claims.map(({ verdict }) => verdict), ["reproduced", "not shown"]);
  assertStringIncludes(claims[0]!.ours, "+0.100 (+0.100 to +0.100)");
  assertStringIncludes(claims[0]!.paper, "+0.05 in its first version, +0.07 in its second");
  const table = medianTable(results);
  assertEquals(table.rows.map((row) => row[0]), ["base", "x>y", "x>y ∪ x>z", "x>y ∪ y>z"]);
});

Deno.test("figure 4: shares are of prompts and seeds, by kind too", () => {
  const kinds = Array.from({ length: 4 }, (_, i) => ({
    prompt: `prompt ${i}`,
    kind: i < 2 ? "Basic" : "Complex",
  }));
  const results = {
    backbone: "nano",
    prompts: kinds,
    judged: (["general", "appeal", "alignment"] as const).map((question) => ({
      ...{ incumbent: "dpo" as const, question, kappa: 0.5 },
      outcomes: seeds.map(() => question === "appeal" ? [0, 0, 0, 0] : [1, 1, 1, 0]),
    })),
    people: [],
  };
  const shares = shareTable(results).rows.map((row) =>
    row.slice(2, 5).map((cell) => (cell as { estimate: number }).estimate)
  );
  assertEquals(shares, [[75, 100, 50], [0, 0, 0], [75, 100, 50]]);
  const { claims } = presentFigure4(results, { ...settings, perKind: 2, studied: 1 });
  assertEquals(claims.map(({ verdict }) => verdict)[1], "contradicted");
});

Deno.test("ablations: a variant stands against the base and its group's reference", () => {
  const variant = (name: string, level: number, reference: boolean) => ({
    ...{ group: "rank" as const, variant: name, reference, beta: 1 },
    scores: seeds.map((seed) => scores(level + seed / 10)),
  });
  const { tables: [{ content }], figures: [figure] } = presentAblations({
    backbone: "nano",
    base: scores(20),
    variants: [variant("8", 20.5, true), variant("32", 20.8, false)],
  }, { ...settings, groups: ["rank"] });
  const column = content.columns.findIndex(({ name }) => name === "pickscore_difference");
  const [reference, other] = content.rows.map((row) => row[column]);
  assertEquals(reference, null);
  assertAlmostEquals((other as { estimate: number }).estimate, 0.3);
  assertEquals(figure!.content.figure.data.length, 2);
});

Deno.test("a verdict needs an interval on one side of the line, and more than one seed", () => {
  const interval = (low: number, high: number) => ({ estimate: 0, low, high, level: 0.95 });
  assertEquals(verdictAbove(interval(1, 2), 0, 5), "reproduced");
  assertEquals(verdictAbove(interval(-1, 2), 0, 5), "not shown");
  assertEquals(verdictAbove(interval(-2, -1), 0, 5), "contradicted");
  assertEquals(verdictAbove(interval(1, 2), 0, 1), "not tested");
});

Deno.test("claims stand in the page of results, one row each, and are replaced as a whole", () => {
  const claim: Claim = {
    ...{ claim: "x | y", paper: "60 %", ours: "55 % (51 to 59)", test: "above 50 %" },
    verdict: "reproduced",
  };
  const page = "# Results\n\n<!-- claims:begin -->\nold\n<!-- claims:end -->\n\nAfter.\n";
  const written = withClaims(page, [{ name: "table1", claims: [claim] }]);
  assertStringIncludes(
    written,
    "| [table1](table1/table.md) | x \\| y | 60 % | 55 % (51 to 59) | above 50 % | **reproduced** |",
  );
  assert(!written.includes("old"));
  assertEquals(withClaims(written, [{ name: "table1", claims: [claim] }]), written);
  assertThrows(() => withClaims("# Results", []), Error, "lacks <!-- claims:begin -->");
  assertStringIncludes(claimSentence(claim), "That x | y (the paper: 60 %) was **reproduced");
});

Deno.test("a record keeps lists of numbers on a line and its words as they are", () => {
  const record = { a: [1, 2.5, -3e-7], b: ["[\n 1\n]", { c: [] }], d: [[1], [2]] };
  const text = recordText(record);
  assertEquals(JSON.parse(text), record);
  assertStringIncludes(text, '"a": [1,2.5,-3e-7]');
});
