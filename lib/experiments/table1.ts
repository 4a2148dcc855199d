/**
 * Table 1: does Direct Preference Optimization in the U-Net encoder's features (NCP-DPO) win over
 * the same in latent space (DPO), and is it the features or the weighting of timesteps that they
 * bring along (DPO-tw: latent DPO under that weighting)? On both models, on all choices and on those
 * that an absolute winner won.
 *
 * @module
 */
import type { AxisName, Layout, LayoutAxis, XAxisName, YAxisName } from "plotly.js-dist-min";
import { compare } from "../evaluation/comparison.ts";
import { inPercent, type Interval, mean } from "../evaluation/statistics.ts";
import { type Claim, intervalText, verdictAbove } from "./claims.ts";
import { type PromptScores, type Scorer, scorers } from "./evaluate.ts";
import { defineExperiment, type Presentation } from "./experiment.ts";
import type { Figure } from "./figure.ts";
import { sheetOf } from "./image_grid.ts";
import { colours, labels } from "./labels.ts";
import type { Backbone } from "./materials.ts";
import { presets, type Settings } from "./presets.ts";
import type { Cell, Table } from "./report.ts";
import { writeWhole } from "./run.ts";
import type { Workbench } from "./workbench.ts";

/** The methods, in the order of the tables. */
export const table1Methods = ["dpo", "dpo-tw", "ncp-dpo"] as const;
/** One of {@linkcode table1Methods}. */
export type Table1Method = (typeof table1Methods)[number];

/** The data: every decided comparison, or only those won by an image that never lost. */
export const datasets = ["full", "filtered"] as const;
/** One of {@linkcode datasets}. */
export type Dataset = (typeof datasets)[number];

/** What is run. */
export interface Table1Settings extends Settings {
  readonly data: readonly Dataset[];
}

/** One model's part of the table. */
export interface Table1Part {
  readonly backbone: string;
  readonly layout: Backbone["layout"];
  /** The untuned model. */
  readonly base: PromptScores;
  /** Every tuned model. */
  readonly tuned: readonly {
    readonly method: Table1Method;
    readonly data: Dataset;
    readonly seed: number;
    readonly scores: PromptScores;
  }[];
}

/** What the table is made from. */
export interface Table1Results {
  readonly parts: readonly Table1Part[];
}

/** One line of the table. */
export interface Comparison {
  readonly backbone: string;
  readonly layout: Backbone["layout"];
  readonly data: Dataset;
  readonly challenger: Table1Method;
  readonly incumbent: Table1Method | "base";
  /** Share of prompts won in percent, ties counting half. */
  readonly winRate: Readonly<Record<Scorer, Interval>>;
  /** Mean change of the oracle's utility; null where there is no oracle. */
  readonly utility: Interval | null;
}

/** The comparisons that the table shows: who is measured against whom. */
const pairs: readonly (readonly [Table1Method, Table1Method | "base"])[] = [
  ["ncp-dpo", "dpo"],
  ["ncp-dpo", "dpo-tw"],
  ["dpo-tw", "dpo"],
  ["dpo", "base"],
  ["dpo-tw", "base"],
  ["ncp-dpo", "base"],
];

/** The paper's win rates of NCP-DPO over DPO in percent (arXiv 2406.17636, Table 1). */
export const paperWinRates: Readonly<
  Record<Dataset, Readonly<Record<Scorer, Readonly<Record<Backbone["layout"], number>>>>>
> = {
  full: {
    pickscore: { "SD1.5": 56.8, SDXL: 54.3 },
    hps: { "SD1.5": 59.1, SDXL: 55.7 },
  },
  filtered: {
    pickscore: { "SD1.5": 64.6, SDXL: 65.8 },
    hps: { "SD1.5": 71.3, SDXL: 67.1 },
  },
};

/** Prompts whose images are shown. */
const shownPrompts = 4;

/** Table 1. */
export const table1 = defineExperiment<Table1Settings, Table1Results>({
  name: "table1",
  title: "Table 1: win rate of NCP-DPO over DPO",
  summary: "win rates of NCP-DPO over DPO and the control, full and filtered data, both models",
  split: "test",
  presets: {
    smoke: { ...presets.smoke, data: ["filtered"] },
    quick: { ...presets.quick, data: datasets },
    full: { ...presets.full, data: datasets },
  },
  selections: ({ data }) => data,
  async run(bench, settings, folder) {
    const parts = [];
    for (const backbone of bench.backbones) {
      const { part, sheet } = await runPart(bench, backbone, settings);
      parts.push(part);
      await writeWhole(`${folder}/${sheetName(backbone.name)}`, sheet);
    }
    return { parts };
  },
  present: presentTable1,
});

function sheetName(backbone: string): string {
  return `samples-${backbone}.png`;
}

async function runPart(bench: Workbench, backbone: Backbone, settings: Table1Settings) {
  const { seeds, data, steps, batch, rank } = settings;
  const prompts = bench.prompts.test.slice(0, settings.prompts);
  const { name, layout } = backbone;
  const hyperparameters = new Map();
  for (const method of table1Methods) {
    hyperparameters.set(method, await bench.hyperparameters(backbone, method));
  }
  const base = await bench.evaluate(`${name}, base model`, backbone, prompts);
  const jobs = seeds.flatMap((seed) =>
    data.flatMap((dataset) => table1Methods.map((method) => ({ method, data: dataset, seed })))
  );
  const tuned = [];
  const columns = [{
    heading: labels.base,
    images: await bench.draw(`${name}, base model`, backbone, prompts.slice(0, shownPrompts)),
  }];
  for (const [i, job] of jobs.entries()) {
    const label = `${name} ${i + 1}/${jobs.length} ${labels[job.method]}, ${job.data}, ` +
      `seed ${job.seed}`;
    const tuning = { ...job, ...hyperparameters.get(job.method)!, steps, batch, rank };
    const training = await bench.tune(label, backbone, tuning);
    tuned.push({ ...job, scores: await bench.evaluate(label, backbone, prompts, training) });
    if (job.seed === seeds[0] && job.data === data.at(-1)) {
      const some = prompts.slice(0, shownPrompts);
      const images = await bench.draw(label, backbone, some, training);
      columns.push({ heading: labels[job.method], images });
    }
  }
  const sheet = await sheetOf(prompts.slice(0, shownPrompts), columns);
  return { part: { backbone: name, layout, base, tuned }, sheet };
}

/**
 * Compares the models on the same prompts and the same starting noise. Models tuned with the same
 * seed are compared with each other; the intervals are over seeds and prompts, both resampled.
 *
 * @param part One model's scores.
 * @returns The lines of the table; a comparison whose models are missing is left out.
 */
export function compareMethods(part: Table1Part): Comparison[] {
  const { backbone, layout } = part;
  return datasets.flatMap((data) =>
    pairs.flatMap(([challenger, incumbent]) => {
      const paired = pairedScores(part, data, challenger, incumbent);
      if (paired.length === 0) return [];
      const by = (scorer: string) =>
        compare(
          { method: challenger, scores: paired.map(([ours]) => ours[scorer]!) },
          { method: incumbent, scores: paired.map(([, theirs]) => theirs[scorer]!) },
        );
      return [{
        backbone,
        layout,
        data,
        challenger,
        incumbent,
        winRate: {
          pickscore: inPercent(by("pickscore").winRate),
          hps: inPercent(by("hps").winRate),
        },
        utility: part.base.utility ? by("utility").meanDifference : null,
      }];
    })
  );
}

/** The two models' scores, one pair per seed that both have. */
function pairedScores(
  { base, tuned }: Table1Part,
  data: Dataset,
  challenger: Table1Method,
  incumbent: Table1Method | "base",
): (readonly [PromptScores, PromptScores])[] {
  return tuned.filter((run) => run.method === challenger && run.data === data).flatMap((run) => {
    const other = incumbent === "base"
      ? base
      : tuned.find((candidate) =>
        candidate.method === incumbent && candidate.data === data && candidate.seed === run.seed
      )?.scores;
    return other ? [[run.scores, other] as const] : [];
  });
}

/** From the scores to what is shown. */
export function presentTable1({ parts }: Table1Results, settings: Table1Settings): Presentation {
  const comparisons = parts.flatMap(compareMethods);
  return {
    claims: claimsOf(comparisons, settings.seeds.length),
    remarks: remarksOf(comparisons),
    tables: [
      { caption: "Prompts won, the paper's numbers beside ours", content: winTable(comparisons) },
      {
        caption: "Mean scores (PickScore and HPS are 100 times the cosine)",
        content: meansTable(parts),
      },
    ],
    figures: [{
      caption: "Prompts won, with 95 % intervals",
      content: { figure: winFigure(comparisons), width: 900, height: 140 + 320 * parts.length },
    }],
    images: parts.map(({ backbone }) => ({
      caption: `The same prompts and starting noise drawn by each model, ${backbone}`,
      content: sheetName(backbone),
    })),
  };
}

function claimsOf(comparisons: readonly Comparison[], seeds: number): Claim[] {
  return comparisons.filter((c) => c.challenger === "ncp-dpo" && c.incumbent === "dpo")
    .flatMap((c) =>
      scorers.map((scorer) => ({
        claim: `NCP-DPO wins over DPO on ${c.backbone}, ${c.data} data, by ${labels[scorer]}`,
        paper: `${paperWinRates[c.data][scorer][c.layout].toFixed(1)} % for ${c.layout}`,
        ours: intervalText(c.winRate[scorer], { decimals: 1, unit: " %" }),
        test: "the interval lies above 50 %",
        verdict: verdictAbove(c.winRate[scorer], 50, seeds),
      }))
    );
}

/** What the control says. */
function remarksOf(comparisons: readonly Comparison[]): string[] {
  return comparisons.filter((c) => c.challenger === "ncp-dpo" && c.incumbent === "dpo-tw").map(
    ({ backbone, data, winRate }) =>
      `Against the control, DPO under NCP's weighting of timesteps, NCP-DPO wins ` +
      `${intervalText(winRate.pickscore, { decimals: 1, unit: " %" })} by PickScore and ` +
      `${intervalText(winRate.hps, { decimals: 1, unit: " %" })} by HPS ` +
      `(${backbone}, ${data} data).`,
  );
}

function nameOf({ challenger, incumbent }: Pick<Comparison, "challenger" | "incumbent">): string {
  return `${labels[challenger]} over ${labels[incumbent]}`;
}

/** The table of comparisons, the paper's numbers beside ours. */
export function winTable(comparisons: readonly Comparison[]): Table {
  const hasUtility = comparisons.some((comparison) => comparison.utility !== null);
  const win = { decimals: 1, interval: true };
  return {
    columns: [
      { heading: "Model", name: "model" },
      { heading: "Data", name: "data" },
      { heading: "Comparison", name: "comparison" },
      { heading: "PickScore: wins, %", name: "pickscore_win_rate", ...win },
      { heading: "Paper", name: "paper_pickscore", decimals: 1 },
      { heading: "HPS: wins, %", name: "hps_win_rate", ...win },
      { heading: "Paper", name: "paper_hps", decimals: 1 },
      ...(hasUtility
        ? [{
          heading: "Oracle's utility: change",
          name: "utility_change",
          decimals: 3,
          interval: true,
          signed: true,
        }]
        : []),
    ],
    rows: comparisons.map((c): Cell[] => [
      c.backbone,
      c.data,
      nameOf(c),
      c.winRate.pickscore,
      paperCell(c, "pickscore"),
      c.winRate.hps,
      paperCell(c, "hps"),
      ...(hasUtility ? [c.utility] : []),
    ]),
  };
}

function paperCell({ challenger, incumbent, data, layout }: Comparison, scorer: Scorer): Cell {
  if (challenger !== "ncp-dpo" || incumbent !== "dpo") return null;
  return paperWinRates[data][scorer][layout];
}

/** Mean scores of every model, over prompts and seeds. */
export function meansTable(parts: readonly Table1Part[]): Table {
  const names = Object.keys(parts[0]!.base);
  const row = (backbone: string, method: string, data: string, models: readonly PromptScores[]) => [
    backbone,
    method,
    data,
    ...names.map((name) => mean(models.flatMap((scores) => scores[name]!))),
  ];
  return {
    columns: [
      { heading: "Model", name: "model" },
      { heading: "Tuned by", name: "method" },
      { heading: "Data", name: "data" },
      ...names.map((name) => ({
        heading: labels[name as Scorer] ?? `oracle: ${name}`,
        name,
        decimals: name in labels ? 2 : 3,
      })),
    ],
    rows: parts.flatMap(({ backbone, base, tuned }) => [
      row(backbone, labels.base, "", [base]),
      ...datasets.flatMap((data) =>
        table1Methods.flatMap((method) => {
          const models = tuned.filter((run) => run.method === method && run.data === data)
            .map((run) => run.scores);
          return models.length > 0 ? [row(backbone, labels[method], data, models)] : [];
        })
      ),
    ]),
  };
}

/**
 * The figure: win rates with their intervals, one panel per model and data, around the line of no
 * difference; the paper's numbers as open diamonds.
 */
export function winFigure(comparisons: readonly Comparison[]): Figure {
  const backbones = [...new Set(comparisons.map((c) => c.backbone))];
  const ofData = datasets.filter((data) => comparisons.some((c) => c.data === data));
  const rows = [...pairs].reverse().map(([challenger, incumbent]) =>
    nameOf({ challenger, incumbent })
  );
  const panels = backbones.flatMap((backbone, row) =>
    ofData.map((data, column) => ({
      shown: comparisons.filter((c) => c.backbone === backbone && c.data === data),
      title: `${backbone}, ${data} data`,
      row,
      column,
      suffix: row + column === 0 ? "" : String(row * ofData.length + column + 1),
    }))
  );
  const data = panels.flatMap(({ shown, suffix }) =>
    scorers.flatMap((scorer, k) => {
      const offset = 0.12 - 0.24 * k;
      const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
      const rates = shown.map((c) => c.winRate[scorer]);
      const { data: dataset, layout } = shown[0]!;
      return [{
        type: "scatter" as const,
        mode: "markers" as const,
        name: labels[scorer],
        showlegend: suffix === "",
        x: rates.map((rate) => rate.estimate),
        y: shown.map((c) => rows.indexOf(nameOf(c)) + offset),
        error_x: {
          type: "data" as const,
          symmetric: false,
          array: rates.map((rate) => rate.high - rate.estimate),
          arrayminus: rates.map((rate) => rate.estimate - rate.low),
        },
        marker: { color: colours[scorer], size: 8 },
        ...axes,
      }, {
        type: "scatter" as const,
        mode: "markers" as const,
        name: `${labels[scorer]}, paper`,
        showlegend: suffix === "",
        x: [paperWinRates[dataset][scorer][layout]],
        y: [rows.length - 1 + offset],
        marker: { color: colours[scorer], size: 9, symbol: "diamond-open" as const },
        ...axes,
      }];
    })
  );
  const axes: Record<string, Partial<LayoutAxis>> = {};
  const part = (count: number, i: number, gap: number): [number, number] => [
    i / count + (i > 0 ? gap : 0),
    (i + 1) / count - (i + 1 < count ? gap : 0),
  ];
  for (const { title, row, column, suffix } of panels) {
    axes[`xaxis${suffix}`] = {
      title: { text: title },
      domain: part(ofData.length, column, 0.02),
      anchor: `y${suffix}` as AxisName,
      range: [0, 100],
    };
    axes[`yaxis${suffix}`] = {
      tickvals: rows.map((_, i) => i),
      ticktext: column === 0 ? rows : rows.map(() => ""),
      range: [-0.6, rows.length - 0.4],
      // The first row of panels is on top.
      domain: part(backbones.length, backbones.length - 1 - row, 0.07),
      zeroline: false,
      anchor: `x${suffix}` as AxisName,
    };
  }
  const layout: Partial<Layout> = {
    title: { text: "Table 1: prompts won, % (95 % intervals)" },
    margin: { l: 150, r: 20, t: 90, b: 60 },
    legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0 },
    shapes: panels.map(({ suffix }) => ({
      type: "line",
      xref: `x${suffix}` as XAxisName,
      yref: `y${suffix} domain` as YAxisName,
      x0: 50,
      x1: 50,
      y0: 0,
      y1: 1,
      line: { color: "#999", dash: "dot", width: 1 },
    })),
    ...axes,
  };
  return { data, layout };
}
