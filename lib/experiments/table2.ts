/**
 * Table 2: what absolute winners and losers' losers are worth. NCP-DPO is tuned on three small sets made
 * from absolute winners x, their latest losers y, and the latest losers z of those: {x>y}, {x>y, x>z} and
 * {x>y, y>z}, all with the same steps and hyperparameters.
 *
 * @module
 */
import { bootstrap, type Interval, median } from "../evaluation/statistics.ts";
import { type Claim, intervalText, verdictAbove } from "./claims.ts";
import { type PromptScores, type Scorer, scorers } from "./evaluate.ts";
import { defineExperiment, type Presentation, type SizedFigure } from "./experiment.ts";
import { colours, labels } from "./labels.ts";
import { presets, type Settings } from "./presets.ts";
import type { Cell, Table } from "./report.ts";

/** The sets, in the paper's order. */
export const chainSelections = ["xy", "xy-xz", "xy-yz"] as const;
/** One of {@linkcode chainSelections}. */
export type ChainSelection = (typeof chainSelections)[number];

const setNames: Readonly<Record<ChainSelection, string>> = {
  xy: "x>y",
  "xy-xz": "x>y ∪ x>z",
  "xy-yz": "x>y ∪ y>z",
};

/** The paper's median PickScores: its first version after 200 steps, its second after 250. */
export const paperMedians: Readonly<Record<ChainSelection, { v1: number; v2: number }>> = {
  xy: { v1: 21.94, v2: 21.98 },
  "xy-xz": { v1: 21.99, v2: 22.05 },
  "xy-yz": { v1: 21.95, v2: 21.96 },
};

/** What the table is made from. */
export interface Table2Results {
  readonly backbone: string;
  /** The untuned model. */
  readonly base: PromptScores;
  readonly tuned: readonly {
    readonly data: ChainSelection;
    readonly pairs: number;
    readonly seed: number;
    readonly scores: PromptScores;
  }[];
}

/** Table 2. */
export const table2 = defineExperiment<Settings, Table2Results>({
  name: "table2",
  title: "Table 2: absolute winners and losers' losers",
  summary: "median PickScore of NCP-DPO on the mini-datasets x>y, x>y with x>z, x>y with y>z",
  split: "test",
  presets: {
    smoke: presets.smoke,
    quick: presets.quick,
    // The differences are small: more seeds and prompts than elsewhere.
    full: { ...presets.full, seeds: [0, 1, 2, 3, 4, 5, 6, 7], prompts: 500 },
  },
  selections: () => chainSelections,
  async run(bench, settings) {
    const { seeds, steps, batch, rank } = settings;
    const [backbone] = bench.backbones as [typeof bench.backbones[number]];
    const prompts = bench.prompts.test.slice(0, settings.prompts);
    const hyperparameters = await bench.hyperparameters(backbone, "ncp-dpo");
    const base = await bench.evaluate("base model", backbone, prompts);
    const jobs = seeds.flatMap((seed) => chainSelections.map((data) => ({ data, seed })));
    const tuned = [];
    for (const [i, job] of jobs.entries()) {
      const label = `${i + 1}/${jobs.length} ${setNames[job.data]}, seed ${job.seed}`;
      const tuning = { method: "ncp-dpo", ...job, steps, batch, rank, ...hyperparameters } as const;
      const training = await bench.tune(label, backbone, tuning);
      const scores = await bench.evaluate(label, backbone, prompts, training);
      tuned.push({ ...job, pairs: training.result.pairs, scores });
    }
    return { backbone: backbone.name, base, tuned };
  },
  present: presentTable2,
});

/** From the scores to what is shown. */
export function presentTable2(results: Table2Results, settings: Settings): Presentation {
  return {
    claims: claimsOf(results, settings.seeds.length),
    remarks: [
      "All sets are trained for the same number of steps with the same hyperparameters; a larger " +
      "set is seen fewer times over.",
    ],
    tables: [{ caption: "Median scores", content: medianTable(results) }],
    figures: [{
      caption: "Change of the median PickScore over the base model, 95 % intervals",
      content: medianFigure(results),
    }],
    images: [],
  };
}

function scoresOf({ tuned }: Table2Results, data: ChainSelection, scorer: Scorer) {
  return tuned.filter((run) => run.data === data).map(({ scores }) => scores[scorer]!);
}

/** Difference of the medians of two sets' scores, paired by seed and prompt. */
function medianDifference(
  results: Table2Results,
  a: ChainSelection,
  b: ChainSelection | "base",
  scorer: Scorer,
): Interval {
  const other = b === "base" ? [results.base[scorer]!] : scoresOf(results, b, scorer);
  return bootstrap([scoresOf(results, a, scorer), other], ([x, y]) => median(x) - median(y));
}

function claimsOf(results: Table2Results, seeds: number): Claim[] {
  return (["xy", "xy-yz"] as const).map((other): Claim => {
    const ours = medianDifference(results, "xy-xz", other, "pickscore");
    const gain = (version: "v1" | "v2") =>
      `+${(paperMedians["xy-xz"][version] - paperMedians[other][version]).toFixed(2)}`;
    return {
      claim: `pairs of the absolute winner with its losers' losers help: ${setNames["xy-xz"]} ` +
        `over ${setNames[other]} in median PickScore`,
      paper: `${gain("v1")} in its first version, ${gain("v2")} in its second, no interval`,
      ours: intervalText(ours, { decimals: 3, signed: true }),
      test: "the interval of the difference lies above 0",
      verdict: verdictAbove(ours, 0, seeds),
    };
  });
}

/** Medians and their changes. */
export function medianTable(results: Table2Results): Table {
  const numbers = { decimals: 2, interval: true };
  const changes = { decimals: 3, interval: true, signed: true };
  const medians = (scores: readonly (readonly number[])[]) =>
    bootstrap([scores], ([values]) => median(values));
  const row = (data: ChainSelection): Cell[] => [
    setNames[data],
    results.tuned.find((run) => run.data === data)!.pairs,
    ...scorers.flatMap((scorer) => [
      medians(scoresOf(results, data, scorer)),
      medianDifference(results, data, "base", scorer),
    ]),
    paperMedians[data].v1,
    paperMedians[data].v2,
  ];
  return {
    columns: [
      { heading: "Set", name: "set" },
      { heading: "Pairs", name: "pairs", decimals: 0 },
      ...scorers.flatMap((scorer) => [
        { heading: `Median ${labels[scorer]}`, name: `${scorer}_median`, ...numbers },
        { heading: "over the base", name: `${scorer}_change`, ...changes },
      ]),
      { heading: "Paper v1, 200 steps", name: "paper_v1", decimals: 2 },
      { heading: "Paper v2, 250 steps", name: "paper_v2", decimals: 2 },
    ],
    rows: [
      [
        labels.base,
        null,
        ...scorers.flatMap((scorer) => [medians([results.base[scorer]!]), null]),
        null,
        null,
      ],
      ...chainSelections.map(row),
    ],
  };
}

/** The change of the median over the base model, a dot per seed beside the whole. */
function medianFigure(results: Table2Results): SizedFigure {
  const names = chainSelections.map((data) => setNames[data]);
  const base = median(results.base.pickscore!);
  const all = chainSelections.map((data) => medianDifference(results, data, "base", "pickscore"));
  const dots = results.tuned.map(({ data, scores }) => ({
    x: chainSelections.indexOf(data),
    y: median(scores.pickscore!) - base,
  }));
  return {
    width: 640,
    height: 420,
    figure: {
      data: [{
        type: "scatter",
        mode: "markers",
        name: "each seed",
        x: dots.map(({ x }) => x + 0.12),
        y: dots.map(({ y }) => y),
        marker: { color: colours.base, size: 6, opacity: 0.6 },
      }, {
        type: "scatter",
        mode: "markers",
        name: "all, 95 % interval",
        x: chainSelections.map((_, i) => i - 0.05),
        y: all.map(({ estimate }) => estimate),
        error_y: {
          type: "data",
          symmetric: false,
          array: all.map(({ estimate, high }) => high - estimate),
          arrayminus: all.map(({ estimate, low }) => estimate - low),
        },
        marker: { color: colours["ncp-dpo"], size: 10 },
      }],
      layout: {
        title: { text: `Table 2: median PickScore over the base model, ${results.backbone}` },
        xaxis: { tickvals: names.map((_, i) => i), ticktext: names, range: [-0.5, 2.5] },
        yaxis: { title: { text: "change of the median" }, zeroline: true },
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        margin: { l: 70, r: 20, t: 90, b: 50 },
      },
    },
  };
}
