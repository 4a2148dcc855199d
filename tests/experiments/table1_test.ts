/** Table 1 from made-up scores whose answers are known. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { csvTable } from "../../lib/experiments/report.ts";
import {
  compareMethods,
  comparisonTable,
  meansTable,
  type PromptScores,
  table1Figure,
  type Table1Method,
  table1Page,
  type Table1Results,
  verdict,
} from "../../lib/experiments/table1.ts";

const prompts = 200;

/** Scores whose value is `level` on all prompts but the first `losses`, where it is a point lower. */
function scores(level: number, losses = 0): PromptScores {
  const values = Array.from({ length: prompts }, (_, i) => i < losses ? level - 1 : level);
  return { pickscore: values, hps: values.map((v) => 2 * v), utility: values.map((v) => v / 10) };
}

/** NCP-DPO beats DPO on 75 % of the prompts, ties with DPO-tw; each seed shifts all models. */
function results(data: "full" | "filtered" = "full"): Table1Results {
  const run = (method: Table1Method, seed: number, s: PromptScores) => ({
    method,
    data,
    seed,
    scores: s,
  });
  return {
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
  const { base, tuned } = results();
  const shifted = tuned.map((run) => ({
    ...run,
    scores: run.seed === 0 ? run.scores : {
      ...run.scores,
      pickscore: run.scores.pickscore!.map((v) => v + 100 * run.seed),
    },
  }));
  const rate = find(compareMethods({ base, tuned: shifted }), "ncp-dpo", "dpo").winRate.pickscore;
  assertAlmostEquals(rate.estimate, 75);
});

Deno.test("a comparison whose models are missing is left out", () => {
  const { base, tuned } = results();
  const some = { base, tuned: tuned.filter((run) => run.method !== "dpo-tw") };
  assertEquals(compareMethods(some).map((c) => `${c.challenger} ${c.incumbent}`), [
    "ncp-dpo dpo",
    "dpo base",
    "ncp-dpo base",
  ]);
});

Deno.test("the verdict follows the test stated before", () => {
  const words = (r: Table1Results, seeds = 2) => verdict(compareMethods(r), seeds);
  const claim = words(results());
  assertStringIncludes(claim[0]!, "On the full data, by PickScore");
  assertStringIncludes(claim[0]!, "**reproduced at this scale**: 75.0 %");
  assertStringIncludes(claim[2]!, "DPO under NCP's weighting of timesteps");
  const swap = { dpo: "ncp-dpo", "ncp-dpo": "dpo", "dpo-tw": "dpo-tw" } as const;
  const { base, tuned } = results();
  const swapped = tuned.map((run) => ({ ...run, method: swap[run.method] }));
  assertStringIncludes(
    words({ base, tuned: swapped })[0]!,
    "**contradicted at this scale**: 25.0 %",
  );
  const same = tuned.map((run) => ({ ...run, scores: tuned[0]!.scores }));
  assertStringIncludes(words({ base, tuned: same })[0]!, "**not shown at this scale**: 50.0 %");
  const [alone] = words(results(), 1);
  assertStringIncludes(alone!, "**not tested**, as one training says nothing of the spread");
});

Deno.test("the paper's numbers stand beside ours, only where the paper has them", () => {
  const table = comparisonTable(compareMethods(results("filtered")));
  const paper = table.columns.findIndex((column) => column.name === "paper_hps");
  assertEquals(table.rows.map((row) => row[paper]), [
    "SD1.5 71.3, SDXL 67.1",
    null,
    null,
    null,
    null,
    null,
  ]);
  assertStringIncludes(csvTable(table), "filtered,NCP-DPO over DPO,75,");
});

Deno.test("without an oracle there is no column for it", () => {
  const strip = ({ utility: _, ...rest }: PromptScores): PromptScores => rest;
  const { base, tuned } = results();
  const table = comparisonTable(compareMethods({
    base: strip(base),
    tuned: tuned.map((run) => ({ ...run, scores: strip(run.scores) })),
  }));
  assert(!table.columns.some((column) => column.name === "utility_change"));
  assert(table.rows.every((row) => row.length === table.columns.length));
});

Deno.test("the means are over prompts and seeds", () => {
  const table = meansTable(results());
  assertEquals(table.rows.map((row) => row.slice(0, 2)), [
    ["base", ""],
    ["DPO", "full"],
    ["DPO-tw", "full"],
    ["NCP-DPO", "full"],
  ]);
  assertAlmostEquals(table.rows[1]![2] as number, 20.51);
  assertAlmostEquals(table.rows[3]![2] as number, 21.01 - 0.25);
});

Deno.test("the page and the figure hold the outcome", async () => {
  const value = { lr: 0.001, beta: 2000 };
  const page = table1Page(results(), {
    preset: "quick",
    model: "nano, weak",
    seeds: [0, 1, 2],
    prompts,
    steps: 100,
    batch: 8,
    device: "test device",
    minutes: 1.5,
    hyperparameters: { dpo: value, "dpo-tw": value, "ncp-dpo": value },
    hyperparametersFrom: "of the preset",
  });
  assertStringIncludes(page, "| full | NCP-DPO over DPO | 75.0 (");
  assertStringIncludes(page, "3 seeds, 200 held-out prompts");
  const svg = await figureSvg(table1Figure(compareMethods(results())));
  assertStringIncludes(svg, "NCP-DPO over DPO-tw");
  assertEquals(svg.match(/<path class="point"/g)?.length, 2 * (6 + 2));
});
