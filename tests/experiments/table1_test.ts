/** Table 1 from made-up scores whose answers are known. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { csvTable } from "../../lib/experiments/report.ts";
import type { PromptScores } from "../../lib/experiments/evaluate.ts";
import { presets } from "../../lib/experiments/presets.ts";
import {
  compareMethods,
  meansTable,
  presentTable1,
  type Table1Method,
  type Table1Part,
  winFigure,
  winTable,
} from "../../lib/experiments/table1.ts";

const prompts = 200;

/** Scores whose value is `level` on all prompts but the first `losses`, where it is a point lower. */
function scores(level: number, losses = 0): PromptScores {
  const values = Array.from({ length: prompts }, (_, i) => i < losses ? level - 1 : level);
  return { pickscore: values, hps: values.map((v) => 2 * v), utility: values.map((v) => v / 10) };
}

/** NCP-DPO beats DPO on 75 % of the prompts, ties with DPO-tw; each seed shifts all models. */
function results(data: "full" | "filtered" = "full"): Table1Part {
  const run = (method: Table1Method, seed: number, s: PromptScores) => ({
    method,
    data,
    seed,
    scores: s,
  });
  return {
    backbone: "nano",
    layout: "SD1.5",
    base: scores(20),
    tuned: [0, 1, 2].flatMap((seed) => [
      run("dpo", seed, scores(20.5 + seed / 100)),
      run("dpo-tw", seed, scores(21 + seed / 100, 50)),
      run("ncp-dpo", seed, scores(21 + seed / 100, 50)),
    ]),
  };
}

function find(table: ReturnType<typeof compareMethods>, challenger: string, incumbent: string) {
  return table.find((c) => c.challenger === challenger && c.incumbent === incumbent)!;
}

Deno.test("win rates are shares of prompts, and ties count half", () => {
  const table = compareMethods(results());
  assertEquals(table.length, 6);
  assertAlmostEquals(find(table, "ncp-dpo", "dpo").winRate.pickscore.estimate, 75);
  assertAlmostEquals(find(table, "ncp-dpo", "dpo").winRate.hps.estimate, 75);
  assertAlmostEquals(find(table, "ncp-dpo", "dpo-tw").winRate.pickscore.estimate, 50);
  assertAlmostEquals(find(table, "dpo", "base").winRate.pickscore.estimate, 100);
  assertAlmostEquals(find(table, "ncp-dpo", "dpo").utility!.estimate, (0.5 - 0.25) / 10);
});

Deno.test("intervals come from resampling prompts and seeds", () => {
  const { low, high } = find(compareMethods(results()), "ncp-dpo", "dpo").winRate.pickscore;
  // The seeds agree, so that the binomial spread over the prompts is all there is.
  const spread = 1.96 * Math.sqrt(0.75 * 0.25 / prompts) * 100;
  assertAlmostEquals(low, 75 - spread, 1.2);
  assertAlmostEquals(high, 75 + spread, 1.2);
  assertEquals(find(compareMethods(results()), "dpo", "base").winRate.hps, {
    estimate: 100,
    low: 100,
    high: 100,
    level: 0.95,
  });
});

Deno.test("models are compared within their seed", () => {
  const part = results();
  const shifted = part.tuned.map((run) => ({
    ...run,
    scores: run.seed === 0 ? run.scores : {
      ...run.scores,
      pickscore: run.scores.pickscore!.map((v) => v + 100 * run.seed),
    },
  }));
  const rate =
    find(compareMethods({ ...part, tuned: shifted }), "ncp-dpo", "dpo").winRate.pickscore;
  assertAlmostEquals(rate.estimate, 75);
});

Deno.test("a comparison whose models are missing is left out", () => {
  const part = results();
  const some = { ...part, tuned: part.tuned.filter((run) => run.method !== "dpo-tw") };
  assertEquals(compareMethods(some).map((c) => `${c.challenger} ${c.incumbent}`), [
    "ncp-dpo dpo",
    "dpo base",
    "ncp-dpo base",
  ]);
});

Deno.test("the verdict follows the test stated before", () => {
  const settings = { ...presets.full, data: ["full"] as const };
  const claims = (part: Table1Part, seeds = [0, 1, 2]) =>
    presentTable1({ parts: [part] }, { ...settings, seeds }).claims;
  const [byPickScore, byHps] = claims(results());
  assertStringIncludes(byPickScore!.claim, "on nano, full data, by PickScore");
  assertEquals(byPickScore!.paper, "56.8 % for SD1.5");
  assertStringIncludes(byPickScore!.ours, "75.0 % (");
  assertEquals([byPickScore!.verdict, byHps!.verdict], ["reproduced", "reproduced"]);
  const swap = { dpo: "ncp-dpo", "ncp-dpo": "dpo", "dpo-tw": "dpo-tw" } as const;
  const part = results();
  const swapped = part.tuned.map((run) => ({ ...run, method: swap[run.method] }));
  assertEquals(claims({ ...part, tuned: swapped })[0]!.verdict, "contradicted");
  const same = part.tuned.map((run) => ({ ...run, scores: part.tuned[0]!.scores }));
  assertEquals(claims({ ...part, tuned: same })[0]!.verdict, "not shown");
  assertEquals(claims(part, [0])[0]!.verdict, "not tested");
});

Deno.test("the paper's numbers stand beside ours, only where the paper has them", () => {
  const table = winTable(compareMethods({ ...results("filtered"), layout: "SDXL" }));
  const paper = table.columns.findIndex((column) => column.name === "paper_hps");
  assertEquals(table.rows.map((row) => row[paper]), [67.1, null, null, null, null, null]);
  assertStringIncludes(csvTable(table), "nano,filtered,NCP-DPO over DPO,75,");
});

Deno.test("without an oracle there is no column for it", () => {
  const strip = ({ utility: _, ...rest }: PromptScores): PromptScores => rest;
  const part = results();
  const table = winTable(compareMethods({
    ...part,
    base: strip(part.base),
    tuned: part.tuned.map((run) => ({ ...run, scores: strip(run.scores) })),
  }));
  assert(!table.columns.some((column) => column.name === "utility_change"));
  assert(table.rows.every((row) => row.length === table.columns.length));
});

Deno.test("the means are over prompts and seeds", () => {
  const table = meansTable([results()]);
  assertEquals(table.rows.map((row) => row.slice(0, 3)), [
    ["nano", "base", ""],
    ["nano", "DPO", "full"],
    ["nano", "DPO-tw", "full"],
    ["nano", "NCP-DPO", "full"],
  ]);
  assertAlmostEquals(table.rows[1]![3] as number, 20.51);
  assertAlmostEquals(table.rows[3]![3] as number, 21.01 - 0.25);
});

Deno.test("the figure has a panel for each model and each kind of data", async () => {
  const parts = (["nano", "nano-xl"] as const).flatMap((backbone) =>
    (["full", "filtered"] as const).map((data) => ({ ...results(data), backbone }))
  );
  const svg = await figureSvg(winFigure(parts.flatMap(compareMethods)), 900, 780);
  assertStringIncludes(svg, "NCP-DPO over DPO-tw");
  assertStringIncludes(svg, "nano-xl, filtered data");
  assertEquals(svg.match(/<path class="point"/g)?.length, 4 * 2 * (6 + 1));
});
