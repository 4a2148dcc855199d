/**
 * Table 1: does Direct Preference Optimization in the U-Net encoder's features (NCP-DPO) win over
 * the same in latent space (DPO), and is it the features or the weighting of timesteps that they
 * bring along (DPO-tw: latent DPO under that weighting)?
 *
 * @module
 */
import { compare } from "../evaluation/comparison.ts";
import { type Interval, mean } from "../evaluation/statistics.ts";
import type { AxisName, Layout, LayoutAxis, XAxisName } from "plotly.js-dist-min";
import type { Figure } from "./figure.ts";
import { type Cell, markdownTable, type Table } from "./report.ts";

/** The methods, in the order of the tables. */
export const methods = ["dpo", "dpo-tw", "ncp-dpo"] as const;
/** One of {@linkcode methods}. */
export type Table1Method = (typeof methods)[number];

/** The data: every decided comparison, or only those won by an image that never lost. */
export const datasets = ["full", "filtered"] as const;
/** One of {@linkcode datasets}. */
export type Table1Data = (typeof datasets)[number];

/** The scorers by which a win is decided. */
export const scorers = ["pickscore", "hps"] as const;
/** One of {@linkcode scorers}. */
export type Table1Scorer = (typeof scorers)[number];

/** Scores of one model's images, one per held-out prompt, by the name of the scorer. */
export type PromptScores = Readonly<Record<string, readonly number[]>>;

/** What the table is made from. */
export interface Table1Results {
  /** The untuned model. */
  readonly base: PromptScores;
  /** Every tuned model. */
  readonly tuned: readonly {
    readonly method: Table1Method;
    readonly data: Table1Data;
    readonly seed: number;
    readonly scores: PromptScores;
  }[];
}

/** One line of the table. */
export interface Comparison {
  readonly data: Table1Data;
  readonly challenger: Table1Method;
  readonly incumbent: Table1Method | "base";
  /** Share of prompts won in percent, ties counting half. */
  readonly winRate: Readonly<Record<Table1Scorer, Interval>>;
  /** Mean change of the oracle's utility; null where there is no oracle. */
  readonly utility: Interval | null;
}

/** Names for reading. */
export const labels: Readonly<Record<Table1Method | Table1Data | Table1Scorer | "base", string>> = {
  base: "base",
  dpo: "DPO",
  "dpo-tw": "DPO-tw",
  "ncp-dpo": "NCP-DPO",
  full: "full",
  filtered: "filtered",
  pickscore: "PickScore",
  hps: "HPS",
};

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
  Record<Table1Data, Readonly<Record<Table1Scorer, { sd15: number; sdxl: number }>>>
> = {
  full: { pickscore: { sd15: 56.8, sdxl: 54.3 }, hps: { sd15: 59.1, sdxl: 55.7 } },
  filtered: { pickscore: { sd15: 64.6, sdxl: 65.8 }, hps: { sd15: 71.3, sdxl: 67.1 } },
};

/**
 * Compares the models on the same prompts and the same starting noise. Models tuned with the same
 * seed are compared with each other; the intervals are over seeds and prompts, both resampled.
 *
 * @param results The scores.
 * @returns The lines of the table; a comparison whose models are missing is left out.
 */
export function compareMethods(results: Table1Results): Comparison[] {
  return datasets.flatMap((data) =>
    pairs.flatMap(([challenger, incumbent]) => {
      const paired = pairedScores(results, data, challenger, incumbent);
      if (paired.length === 0) return [];
      const by = (scorer: string) =>
        compare(
          { method: challenger, scores: paired.map(([ours]) => ours[scorer]!) },
          { method: incumbent, scores: paired.map(([, theirs]) => theirs[scorer]!) },
        );
      return [{
        data,
        challenger,
        incumbent,
        winRate: {
          pickscore: inPercent(by("pickscore").winRate),
          hps: inPercent(by("hps").winRate),
        },
        utility: results.base.utility ? by("utility").meanDifference : null,
      }];
    })
  );
}

function inPercent({ estimate, low, high, level }: Interval): Interval {
  return { estimate: 100 * estimate, low: 100 * low, high: 100 * high, level };
}

/** The two models' scores, one pair per seed that both have. */
function pairedScores(
  { base, tuned }: Table1Results,
  data: Table1Data,
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

/**
 * The table of comparisons, the paper's numbers beside ours.
 *
 * @param comparisons From {@linkcode compareMethods}.
 */
export function comparisonTable(comparisons: readonly Comparison[]): Table {
  const hasUtility = comparisons.some((comparison) => comparison.utility !== null);
  return {
    columns: [
      { heading: "Data", name: "data" },
      { heading: "Comparison", name: "comparison" },
      { heading: "PickScore: wins, %", name: "pickscore_win_rate", decimals: 1, interval: true },
      { heading: "Paper", name: "paper_pickscore" },
      { heading: "HPS: wins, %", name: "hps_win_rate", decimals: 1, interval: true },
      { heading: "Paper", name: "paper_hps" },
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
      labels[c.data],
      `${labels[c.challenger]} over ${labels[c.incumbent]}`,
      c.winRate.pickscore,
      paperCell(c, "pickscore"),
      c.winRate.hps,
      paperCell(c, "hps"),
      ...(hasUtility ? [c.utility] : []),
    ]),
  };
}

function paperCell(comparison: Comparison, scorer: Table1Scorer): Cell {
  if (comparison.challenger !== "ncp-dpo" || comparison.incumbent !== "dpo") return null;
  const { sd15, sdxl } = paperWinRates[comparison.data][scorer];
  return `SD1.5 ${sd15.toFixed(1)}, SDXL ${sdxl.toFixed(1)}`;
}

/**
 * Mean scores of every model, over prompts and seeds.
 *
 * @param results The scores.
 */
export function meansTable(results: Table1Results): Table {
  const names = Object.keys(results.base);
  const row = (method: string, data: string, models: readonly PromptScores[]): Cell[] => [
    method,
    data,
    ...names.map((name) => mean(models.flatMap((scores) => scores[name]!))),
  ];
  return {
    columns: [
      { heading: "Model", name: "model" },
      { heading: "Data", name: "data" },
      ...names.map((name) => ({
        heading: labels[name as Table1Scorer] ?? `oracle: ${name}`,
        name,
        decimals: name in labels ? 2 : 3,
      })),
    ],
    rows: [
      row(labels.base, "", [results.base]),
      ...datasets.flatMap((data) =>
        methods.flatMap((method) => {
          const models = results.tuned.filter((run) => run.method === method && run.data === data)
            .map((run) => run.scores);
          return models.length > 0 ? [row(labels[method], labels[data], models)] : [];
        })
      ),
    ],
  };
}

/**
 * What the comparisons say about the paper's claim, by the test stated before the runs: it is
 * reproduced where the 95 % interval of NCP-DPO's win rate over DPO lies above 50 %. A single seed
 * tests nothing: its interval leaves out the spread between trainings.
 *
 * @param comparisons From {@linkcode compareMethods}.
 * @param seeds How many trainings they are over.
 * @returns One sentence per data set and scorer, and one on the control.
 */
export function verdict(comparisons: readonly Comparison[], seeds: number): string[] {
  const find = (data: Table1Data, challenger: Table1Method, incumbent: Table1Method) =>
    comparisons.find((c) =>
      c.data === data && c.challenger === challenger && c.incumbent === incumbent
    );
  return datasets.flatMap((data) => {
    const claim = find(data, "ncp-dpo", "dpo");
    if (!claim) return [];
    const control = find(data, "ncp-dpo", "dpo-tw");
    return [
      ...scorers.map((scorer) =>
        `On the ${data} data, by ${labels[scorer]}, the claim that NCP-DPO wins over DPO was ` +
        `${judge(claim.winRate[scorer], seeds)}.`
      ),
      ...(control
        ? [
          `Against the control, DPO under NCP's weighting of timesteps, NCP-DPO wins ` +
          `${percent(control.winRate.pickscore)} by PickScore and ` +
          `${percent(control.winRate.hps)} by HPS (${data} data).`,
        ]
        : []),
    ];
  });
}

function judge(rate: Interval, seeds: number): string {
  if (seeds === 1) {
    return `**not tested**, as one training says nothing of the spread between them: ${
      percent(rate)
    }`;
  }
  if (rate.low > 50) return `**reproduced at this scale**: ${percent(rate)}`;
  if (rate.high < 50) return `**contradicted at this scale**: ${percent(rate)}`;
  return `**not shown at this scale**: ${percent(rate)}, an interval that includes 50 %`;
}

function percent({ estimate, low, high }: Interval): string {
  return `${estimate.toFixed(1)} % (95 % interval ${low.toFixed(1)} to ${high.toFixed(1)})`;
}

/** What the page says of how the numbers came about. */
export interface Table1Setting {
  readonly preset: string;
  readonly model: string;
  readonly seeds: readonly number[];
  readonly prompts: number;
  readonly steps: number;
  readonly batch: number;
  readonly device: string;
  readonly minutes: number;
  /** Learning rate and beta per method. */
  readonly hyperparameters: Readonly<Record<Table1Method, { lr: number; beta: number }>>;
  /** Where the hyperparameters come from, in words. */
  readonly hyperparametersFrom: string;
}

/**
 * The page: the verdict, both tables, and how the numbers came about.
 *
 * @param results The scores.
 * @param setting How they came about.
 */
export function table1Page(results: Table1Results, setting: Table1Setting): string {
  const comparisons = compareMethods(results);
  const seeds = setting.seeds.length;
  const tuning = methods.map((method) => {
    const { lr, beta } = setting.hyperparameters[method];
    return `${labels[method]} learning rate ${lr}, beta ${beta}`;
  });
  return [
    "# Table 1: win rate of NCP-DPO over DPO",
    "",
    `Model: ${setting.model}. Preset \`${setting.preset}\`: ${setting.steps} steps of ` +
    `${setting.batch} pairs, ${seeds} ${seeds === 1 ? "seed" : "seeds"}, ${setting.prompts} ` +
    `held-out prompts, the same starting noise for every model.`,
    "",
    ...(setting.preset === "smoke"
      ? ["This preset only shows that everything runs: its numbers answer nothing."]
      : verdict(comparisons, seeds).map((sentence) => `- ${sentence}`)),
    "",
    markdownTable(comparisonTable(comparisons)),
    "In brackets: 95 % bootstrap intervals over " +
    (seeds === 1
      ? "prompts; with a single seed they leave out the spread between trainings."
      : "prompts and seeds."),
    "The paper's models, data and scorers are larger ones: its numbers stand beside ours for the " +
    "direction of the effect, not for its size.",
    "",
    "Mean scores (PickScore and HPS are 100 times the cosine):",
    "",
    markdownTable(meansTable(results)),
    `Hyperparameters, ${setting.hyperparametersFrom}: ${tuning.join("; ")}.`,
    "",
    `Computed on ${setting.device} in ${setting.minutes.toFixed(1)} minutes of training and ` +
    `evaluation; \`record.json\` holds the scores of every prompt.`,
    "",
  ].join("\n");
}

/**
 * The figure: win rates with their intervals, by scorer and data, around the line of no difference;
 * the paper's numbers as open diamonds.
 *
 * @param comparisons From {@linkcode compareMethods}.
 */
export function table1Figure(comparisons: readonly Comparison[]): Figure {
  const colours: Record<Table1Scorer, string> = { pickscore: "#1f77b4", hps: "#d95f02" };
  const ofData = datasets.filter((data) => comparisons.some((c) => c.data === data));
  const panel = (i: number) => (i === 0 ? "" : String(i + 1));
  const rows = [...pairs].reverse().map(([a, b]) => `${labels[a]} over ${labels[b]}`);
  const data = ofData.flatMap((dataset, i) =>
    scorers.flatMap((scorer, k) => {
      const shown = comparisons.filter((c) => c.data === dataset);
      const y = shown.map((c) =>
        rows.indexOf(`${labels[c.challenger]} over ${labels[c.incumbent]}`) + 0.12 - 0.24 * k
      );
      const axes = { xaxis: `x${panel(i)}`, yaxis: `y${panel(i)}` };
      const rates = shown.map((c) => c.winRate[scorer]);
      const paper = paperWinRates[dataset][scorer];
      return [{
        type: "scatter" as const,
        mode: "markers" as const,
        name: labels[scorer],
        showlegend: i === 0,
        x: rates.map((rate) => rate.estimate),
        y,
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
        name: `${labels[scorer]}, paper (SD1.5, SDXL)`,
        showlegend: i === 0,
        x: [paper.sd15, paper.sdxl],
        y: [0, 0].map(() => rows.length - 1 + 0.12 - 0.24 * k),
        marker: { color: colours[scorer], size: 9, symbol: "diamond-open" as const },
        ...axes,
      }];
    })
  );
  const width = 1 / Math.max(1, ofData.length);
  const axes: Record<string, Partial<LayoutAxis>> = {};
  ofData.forEach((dataset, i) => {
    const gap = 0.02;
    axes[`xaxis${panel(i)}`] = {
      title: { text: `${dataset} data` },
      domain: [i * width + (i > 0 ? gap : 0), (i + 1) * width - (i + 1 < ofData.length ? gap : 0)],
      anchor: `y${panel(i)}` as AxisName,
      range: [0, 100],
    };
    axes[`yaxis${panel(i)}`] = {
      tickvals: rows.map((_, row) => row),
      ticktext: i === 0 ? rows : rows.map(() => ""),
      range: [-0.6, rows.length - 0.4],
      zeroline: false,
      anchor: `x${panel(i)}` as AxisName,
    };
  });
  const layout: Partial<Layout> = {
    title: { text: "Table 1: prompts won, % (95 % intervals)" },
    margin: { l: 150, r: 20, t: 90, b: 60 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    shapes: ofData.map((_, i) => ({
      type: "line",
      xref: `x${panel(i)}` as XAxisName,
      yref: "paper",
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
