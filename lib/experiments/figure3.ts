/**
 * Figure 3: how fast each method learns. Six methods (and the control) are evaluated at checkpoints on
 * the validation prompts, and drawn against training time and against the pairs seen.
 *
 * @module
 */
import type { AxisName, LayoutAxis } from "plotly.js-dist-min";
import { bootstrap, type Interval, mean, median } from "../evaluation/statistics.ts";
import type { MethodName } from "../preference/mod.ts";
import { type Claim, intervalText, verdictAbove } from "./claims.ts";
import { type PromptScores, type Scorer, scorers } from "./evaluate.ts";
import { defineExperiment, type Presentation, type SizedFigure } from "./experiment.ts";
import { colours, faded, labels } from "./labels.ts";
import { presets, type Settings } from "./presets.ts";
import type { Cell, Table } from "./report.ts";
import type { Selection } from "./training_pairs.ts";
import type { Hyperparameters } from "./tune.ts";
import type { Checkpoint } from "./workbench.ts";

/** The methods in the order of the tables: each latent one before its perceptual twin. */
export const figure3Methods = [
  "sft",
  "ncp-sft",
  "dpo",
  "ncp-dpo",
  "cpo",
  "ncp-cpo",
  "dpo-tw",
] as const satisfies readonly MethodName[];
/** One of {@linkcode figure3Methods}. */
export type Figure3Method = (typeof figure3Methods)[number];

/** What is run. */
export interface Figure3Settings extends Settings {
  readonly data: Selection;
  /** Steps between evaluations. */
  readonly every: number;
}

/** What the figure is made from. */
export interface Figure3Results {
  readonly backbone: string;
  /** Pairs per step. */
  readonly batch: number;
  /** How long a step takes, in seconds. */
  readonly stepSeconds: Readonly<Record<Figure3Method, number>>;
  /** The untuned model. */
  readonly base: PromptScores;
  readonly courses: readonly {
    readonly method: Figure3Method;
    readonly seed: number;
    readonly checkpoints: readonly Checkpoint[];
  }[];
}

type Course = Figure3Results["courses"][number];

/** Figure 3. */
export const figure3 = defineExperiment<Figure3Settings, Figure3Results>({
  name: "figure3",
  title: "Figure 3: training speed",
  summary: "PickScore and HPS against training time and pairs seen, six methods and the control",
  split: "validation",
  presets: {
    smoke: { ...presets.smoke, data: "filtered", every: 2 },
    quick: { ...presets.quick, steps: 60, prompts: 40, data: "filtered", every: 20 },
    full: { ...presets.full, prompts: 100, data: "filtered", every: 30 },
  },
  selections: ({ data }) => [data],
  async run(bench, settings) {
    const { seeds, steps, batch, rank, data, every } = settings;
    const [backbone] = bench.backbones as [typeof bench.backbones[number]];
    const prompts = bench.prompts.validation.slice(0, settings.prompts);
    const jobs: { method: Figure3Method; seed: number; hyperparameters: Hyperparameters }[] = [];
    for (const method of figure3Methods) {
      const hyperparameters = await bench.hyperparameters(backbone, method);
      for (const seed of seeds) jobs.push({ method, seed, hyperparameters });
    }
    const base = await bench.evaluate("base model on validation prompts", backbone, prompts);
    const tuningOf = ({ method, seed, hyperparameters }: typeof jobs[number]) => ({
      ...{ method, seed, data, steps, batch, rank },
      ...hyperparameters,
    });
    const courses: Course[] = [];
    for (const [i, job] of jobs.entries()) {
      const { method, seed } = job;
      const label = `${i + 1}/${jobs.length} ${labels[method]}, seed ${seed}`;
      const checkpoints = await bench.course(label, backbone, tuningOf(job), every, prompts);
      courses.push({ method, seed, checkpoints });
    }
    const times = await bench.stepSeconds(
      backbone,
      jobs.filter(({ seed }) => seed === seeds[0]).map(tuningOf),
    );
    const stepSeconds = Object.fromEntries(
      figure3Methods.map((method, i) => [method, times[i]!]),
    ) as Record<Figure3Method, number>;
    return { backbone: backbone.name, batch, stepSeconds, base, courses };
  },
  present: presentFigure3,
});

/** From the scores to what is shown. */
export function presentFigure3(results: Figure3Results, settings: Figure3Settings): Presentation {
  return {
    claims: claimsOf(results, settings.seeds.length),
    remarks: [
      "Time is the number of steps times the median duration of a step, evaluation left out; the " +
      "durations were measured in turns. The prompts are those by which the hyperparameters were chosen, as many trials for each method.",
    ],
    tables: [{ caption: "Scores at the end, and their course", content: courseTable(results) }],
    figures: [{
      caption: "Mean scores against training time and against pairs seen; 95 % bands of the " +
        "change over the base model",
      content: speedFigure(results, ["time", "pairs"], (values) => mean(values)),
    }, {
      caption: "Median scores against training time and against pairs seen",
      content: speedFigure(results, ["time", "pairs"], (values) => median(values)),
    }],
    images: [],
  };
}

/** A method's trainings. */
function coursesOf({ courses }: Figure3Results, method: Figure3Method): Course[] {
  return courses.filter((course) => course.method === method);
}

/** Scores per seed and prompt after some steps; 0 is the base model's. */
function scoresAt(results: Figure3Results, method: Figure3Method, step: number, scorer: Scorer) {
  if (step === 0) return [results.base[scorer]!];
  return coursesOf(results, method).map(({ checkpoints }) =>
    checkpoints.find((checkpoint) => checkpoint.step === step)!.scores[scorer]!
  );
}

function stepsOf(results: Figure3Results): number[] {
  return [0, ...results.courses[0]!.checkpoints.map(({ step }) => step)];
}

/**
 * Per seed and prompt the mean score over a stretch of training time: the area under the polygon through
 * the checkpoints, the base model's score at time 0, divided by the time.
 *
 * @param seconds The stretch; the training lasts as long or longer.
 */
export function meanOverTime(
  results: Figure3Results,
  method: Figure3Method,
  scorer: Scorer,
  seconds: number,
): number[][] {
  const perStep = results.stepSeconds[method];
  return coursesOf(results, method).map(({ checkpoints }) =>
    results.base[scorer]!.map((start, prompt) => {
      let area = 0, from = 0, before = start;
      for (const { step, scores } of checkpoints) {
        const to = step * perStep, after = scores[scorer]![prompt]!;
        const until = Math.min(to, seconds);
        if (until <= from) break;
        const there = before + (after - before) * (until - from) / (to - from);
        area += (before + there) / 2 * (until - from);
        from = to;
        before = after;
      }
      return area / seconds;
    })
  );
}

function difference(a: number[][], b: readonly (readonly number[])[]): Interval {
  return bootstrap([a, b], ([x, y]) => mean(x) - mean(y));
}

function claimsOf(results: Figure3Results, seeds: number): Claim[] {
  const last = stepsOf(results).at(-1)!;
  const atEnd = (method: Figure3Method) =>
    scoresAt(results, method, last, "pickscore").map((row) => [...row]);
  const shown = { decimals: 2, signed: true };
  const versus = (ncp: Figure3Method, latent: Figure3Method): Claim[] => {
    const time = Math.min(...[ncp, latent].map((m) => last * results.stepSeconds[m]));
    const [faster, higher] = [
      difference(
        meanOverTime(results, ncp, "pickscore", time),
        meanOverTime(results, latent, "pickscore", time),
      ),
      difference(atEnd(ncp), atEnd(latent)),
    ] as const;
    return [{
      claim: `${labels[ncp]} learns faster than ${labels[latent]} (mean PickScore over equal ` +
        "training time, difference)",
      paper: "faster",
      ours: intervalText(faster, shown),
      test: "the interval lies above 0",
      verdict: verdictAbove(faster, 0, seeds),
    }, {
      claim: `${labels[ncp]} ends higher than ${labels[latent]} (PickScore after equal steps, ` +
        "difference)",
      paper: "higher",
      ours: intervalText(higher, shown),
      test: "the interval lies above 0",
      verdict: verdictAbove(higher, 0, seeds),
    }];
  };
  const base = [results.base.pickscore!];
  const [cpo, ncpCpo] = [difference(atEnd("cpo"), base), difference(atEnd("ncp-cpo"), base)];
  const fall: Interval = { ...cpo, estimate: -cpo.estimate, low: -cpo.high, high: -cpo.low };
  return [
    ...versus("ncp-dpo", "dpo"),
    ...versus("ncp-sft", "sft"),
    {
      claim: "CPO diverges without NCP (fall of PickScore below the base model)",
      paper: "diverges",
      ours: intervalText(fall, shown),
      test: "the interval lies above 0",
      verdict: verdictAbove(fall, 0, seeds),
    },
    {
      claim: "NCP-CPO does not diverge (change of PickScore over the base model)",
      paper: "does not diverge",
      ours: intervalText(ncpCpo, shown),
      test: "the interval does not lie below 0; it contradicts the claim if it does",
      verdict: seeds < 2 ? "not tested" : ncpCpo.high < 0 ? "contradicted" : "reproduced",
    },
  ];
}

/** A statistic's change over the base model after some steps, paired by prompt. */
function changeAt(
  results: Figure3Results,
  method: Figure3Method,
  step: number,
  scorer: Scorer,
  statistic: Statistic,
): Interval {
  return bootstrap(
    [scoresAt(results, method, step, scorer), [results.base[scorer]!]],
    ([tuned, base]) => statistic(tuned) - statistic(base),
  );
}

type Statistic = (values: ArrayLike<number>) => number;

/** End and course of every method. */
export function courseTable(results: Figure3Results): Table {
  const last = stepsOf(results).at(-1)!;
  const time = Math.min(...figure3Methods.map((method) => last * results.stepSeconds[method]));
  const change = { heading: "over base", decimals: 2, interval: true, signed: true };
  const statistics = [["mean", mean], ["median", median]] as const;
  const all = (method: Figure3Method, scorer: Scorer) =>
    scoresAt(results, method, last, scorer).flatMap((row) => [...row]);
  const row = (method: Figure3Method): Cell[] => [
    labels[method],
    results.stepSeconds[method],
    ...scorers.flatMap((scorer) =>
      statistics.flatMap(([, of]) => [
        of(all(method, scorer)),
        changeAt(results, method, last, scorer, of),
      ])
    ),
    difference(meanOverTime(results, method, "pickscore", time), [results.base.pickscore!]),
  ];
  return {
    columns: [
      { heading: "Method", name: "method" },
      { heading: "Seconds per step", name: "seconds_per_step", decimals: 3 },
      ...scorers.flatMap((scorer) =>
        statistics.flatMap(([name]) => [
          { heading: `${labels[scorer]}, ${name}`, name: `${scorer}_${name}`, decimals: 2 },
          { ...change, name: `${scorer}_${name}_change` },
        ])
      ),
      {
        ...change,
        heading: "PickScore over base, mean over equal time",
        name: "pickscore_change_over_time",
      },
    ],
    rows: [
      [
        labels.base,
        null,
        ...scorers.flatMap((scorer) =>
          statistics.flatMap(([, of]): Cell[] => [of(results.base[scorer]!), null])
        ),
        null,
      ],
      ...figure3Methods.map(row),
    ],
  };
}

function dashOf(method: Figure3Method): "dot" | "solid" {
  return method === "dpo-tw" ? "dot" : "solid";
}

/**
 * Scores (rows of panels) against time or pairs (columns): a line per method, the band of its change over
 * the base model, and the base model as a line.
 */
function speedFigure(
  results: Figure3Results,
  against: readonly ("time" | "pairs")[],
  statistic: Statistic,
): SizedFigure {
  const steps = stepsOf(results);
  const panels = scorers.flatMap((scorer, row) =>
    against.map((axis, column) => {
      const i = row * against.length + column;
      return { scorer, axis, row, column, suffix: i === 0 ? "" : String(i + 1) };
    })
  );
  const lines = new Map(scorers.flatMap((scorer) =>
    figure3Methods.map((method) => [
      `${scorer} ${method}`,
      steps.map((step) => {
        // Around the base model's level: how prompts differ among each other is no matter here.
        const level = statistic(results.base[scorer]!);
        const { estimate, low, high } = changeAt(results, method, step, scorer, statistic);
        return { estimate: level + estimate, low: level + low, high: level + high };
      }),
    ])
  ));
  const data = panels.flatMap(({ scorer, axis, suffix }) => {
    const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
    const methods = figure3Methods.flatMap((method) => {
      const perStep = axis === "time" ? results.stepSeconds[method] : results.batch;
      const x = steps.map((step) => step * perStep);
      const points = lines.get(`${scorer} ${method}`)!;
      return [{
        type: "scatter" as const,
        mode: "lines" as const,
        x: [...x, ...x.toReversed()],
        y: [...points.map((p) => p.high), ...points.toReversed().map((p) => p.low)],
        fill: "toself" as const,
        fillcolor: faded(colours[method], 0.12),
        line: { width: 0, color: faded(colours[method], 0) },
        hoverinfo: "skip" as const,
        legendgroup: method,
        showlegend: false,
        ...axes,
      }, {
        type: "scatter" as const,
        mode: "lines+markers" as const,
        name: labels[method],
        legendgroup: method,
        showlegend: suffix === "",
        x,
        y: points.map((p) => p.estimate),
        line: { color: colours[method], width: 2, dash: dashOf(method) },
        marker: { size: 5, color: colours[method] },
        ...axes,
      }];
    });
    const longest = Math.max(
      ...figure3Methods.map((m) =>
        steps.at(-1)! * (axis === "time" ? results.stepSeconds[m] : results.batch)
      ),
    );
    const level = statistic(results.base[scorer]!);
    return [...methods, {
      type: "scatter" as const,
      mode: "lines" as const,
      name: labels.base,
      showlegend: suffix === "",
      x: [0, longest],
      y: [level, level],
      line: { color: colours.base, width: 1, dash: "dash" as const },
      ...axes,
    }];
  });
  const layoutAxes: Record<string, Partial<LayoutAxis>> = {};
  for (const { scorer, axis, row, column, suffix } of panels) {
    const gap = 0.05;
    layoutAxes[`xaxis${suffix}`] = {
      title: { text: axis === "time" ? "training time, s" : "pairs seen" },
      domain: [column / against.length + (column > 0 ? gap : 0), (column + 1) / against.length],
      anchor: `y${suffix}` as AxisName,
      zeroline: false,
    };
    layoutAxes[`yaxis${suffix}`] = {
      title: { text: column === 0 ? labels[scorer] : "" },
      domain: [
        (scorers.length - 1 - row) / scorers.length + (row === 0 ? 0.09 : 0),
        (scorers.length - row) / scorers.length - (row > 0 ? 0.05 : 0),
      ],
      anchor: `x${suffix}` as AxisName,
      zeroline: false,
    };
  }
  return {
    width: 980,
    height: 780,
    figure: {
      data,
      layout: {
        title: { text: `Figure 3: training speed, ${results.backbone}` },
        margin: { l: 60, r: 20, t: 100, b: 60 },
        legend: { orientation: "h", y: 1.01, yanchor: "bottom", x: 0 },
        ...layoutAxes,
      },
    },
  };
}
