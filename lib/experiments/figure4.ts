/**
 * Figure 4: side-by-side judgements of NCP-DPO against DPO and against the base model on prompts of four
 * kinds. Three annotators answer three questions about every pair of images, and the majority counts.
 *
 * The annotators are simulated: the oracle with the noise that the preference data have. People vote on
 * the same study with `deno task annotate`, and their votes are reported beside the simulated ones.
 *
 * @module
 */
import {
  type QuestionId,
  questions,
  readStudy,
  type Study,
  type StudyImages,
  summarize,
  type SummaryRow,
  type Vote,
  VoteStore,
  writeStudy,
} from "../annotation/mod.ts";
import type { Images } from "../diffusion/mod.ts";
import { fleissKappa, majority } from "../evaluation/agreement.ts";
import { bootstrap, inPercent, type Interval, mean } from "../evaluation/statistics.ts";
import { ALIGNMENT_WEIGHT, APPEAL_WEIGHT, choosesFirst, type Judgement } from "../nano/mod.ts";
import { generator, stream } from "../tensor/mod.ts";
import { type Claim, intervalText, verdictAbove } from "./claims.ts";
import { judgeImages } from "./evaluate.ts";
import { defineExperiment, type Presentation, type SizedFigure } from "./experiment.ts";
import { labels } from "./labels.ts";
import type { Backbone } from "./materials.ts";
import { presets, type Settings } from "./presets.ts";
import { type KindOfPrompt, promptsByKind } from "./prompt_kinds.ts";
import type { Cell, Table } from "./report.ts";
import type { Workbench } from "./workbench.ts";

/** Annotators who judge every pair. */
const annotators = 3;
const VOTE = stream("experiments.figure4.vote");

const models = ["base", "dpo", "ncp-dpo"] as const;
type Model = (typeof models)[number];
const incumbents = ["dpo", "base"] as const;

/** The questions in short. */
const asked: Readonly<Record<QuestionId, string>> = {
  general: "general preference",
  appeal: "visual appeal",
  alignment: "prompt alignment",
};

/** The paper's shares of prompts on which NCP-DPO was preferred over DPO, SDXL, percent. */
const paperShares: Readonly<Record<QuestionId, string>> = {
  general: "60.8 % (v1, over the published DPO-SDXL), 64.6 % (v2, over their own DPO)",
  appeal: "62.2 % (v1)",
  alignment: "52.1 % (v1)",
};

/** What is run. */
export interface Figure4Settings extends Settings {
  /** Prompts of every kind. */
  readonly perKind: number;
  /** Of these the first go into the study for people. */
  readonly studied: number;
}

/** Majorities of one comparison and question. */
export interface Judged {
  readonly incumbent: (typeof incumbents)[number];
  readonly question: QuestionId;
  /** Per seed and prompt: 1 where NCP-DPO won, 0 where it lost. */
  readonly outcomes: readonly (readonly number[])[];
  /** Fleiss' kappa of the annotators. */
  readonly kappa: number;
}

/** What the figure is made from. */
export interface Figure4Results {
  readonly backbone: string;
  readonly prompts: readonly KindOfPrompt[];
  /** Simulated annotators' majorities; empty where no oracle can judge the prompts. */
  readonly judged: readonly Judged[];
  /** People's votes, if there are any. */
  readonly people: readonly SummaryRow[];
}

/** Figure 4. */
export const figure4 = defineExperiment<Figure4Settings, Figure4Results>({
  name: "figure4",
  title: "Figure 4: side by side",
  summary:
    "NCP-DPO against DPO and base: preference, appeal, alignment; three annotators' majority",
  split: "test",
  presets: {
    smoke: { ...presets.smoke, prompts: 4, perKind: 1, studied: 1 },
    quick: { ...presets.quick, prompts: 40, perKind: 10, studied: 3 },
    full: { ...presets.full, prompts: 144, perKind: 36, studied: 12 },
  },
  selections: () => ["filtered"],
  async run(bench, settings, folder) {
    const { seeds, steps, batch, rank, perKind, studied } = settings;
    const [backbone] = bench.backbones as [Backbone];
    const prompts = promptsByKind(bench.prompts.test, bench.oracle, perKind);
    const texts = prompts.map(({ prompt }) => prompt);
    const drawings: Record<Model, Images[]> = { base: [], dpo: [], "ncp-dpo": [] };
    drawings.base.push(await bench.draw("base model", backbone, texts));
    for (const seed of seeds) {
      for (const method of ["dpo", "ncp-dpo"] as const) {
        const label = `${labels[method]}, seed ${seed}`;
        const tuned = await bench.tune(label, backbone, {
          ...{ method, data: "filtered", seed, steps, batch, rank },
          ...await bench.hyperparameters(backbone, method),
        });
        drawings[method].push(await bench.draw(label, backbone, texts, tuned));
      }
    }
    const study = studyOf(backbone.name, prompts, studied, drawings);
    const studyFolder = `${folder}/study`;
    await writeStudy(studyFolder, study.study, study.images);
    return {
      backbone: backbone.name,
      prompts,
      judged: bench.oracle ? simulate(texts, drawings) : [],
      people: await peoplesVotes(bench, studyFolder),
    };
  },
  present: presentFigure4,
});

/** The seed's drawings; the base model has one set for all. */
function of(drawings: readonly Images[], seed: number): Images {
  return drawings[drawings.length === 1 ? 0 : seed]!;
}

/** What a question asks for, in units of utility, so that the noise of all three is the annotators'. */
const measures: Readonly<Record<QuestionId, (judgement: Judgement) => number>> = {
  general: ({ utility }) => utility,
  appeal: ({ appeal }) => APPEAL_WEIGHT * appeal,
  alignment: ({ alignment }) => ALIGNMENT_WEIGHT * alignment,
};

/** Three annotators who see what the oracle sees, with noise. */
function simulate(
  prompts: readonly string[],
  drawings: Readonly<Record<Model, readonly Images[]>>,
): Judged[] {
  const judgements = Object.fromEntries(
    models.map((model) => [model, drawings[model].map((images) => judgeImages(prompts, images))]),
  ) as Record<Model, Judgement[][]>;
  return incumbents.flatMap((incumbent, against) =>
    questions.map(({ id }, which) => {
      const counts: [number, number][] = [];
      const outcomes = judgements["ncp-dpo"].map((ours, seed) => {
        const theirs = judgements[incumbent][judgements[incumbent].length === 1 ? 0 : seed]!;
        return prompts.map((_, prompt) => {
          const difference = measures[id](ours[prompt]!) - measures[id](theirs[prompt]!);
          const random = generator({
            seed,
            stream: VOTE,
            step: (against * questions.length + which) * 100_000 + prompt,
          });
          const votes = Array.from(
            { length: annotators },
            () => choosesFirst(difference, random) ? 1 : 0,
          );
          const won = votes.filter((vote) => vote === 1).length;
          counts.push([won, annotators - won]);
          return majority(votes);
        });
      });
      return { incumbent, question: id, outcomes, kappa: fleissKappa(counts) };
    })
  );
}

/** The study for people: the first prompts of each kind, the first seed's images. */
function studyOf(
  backbone: string,
  prompts: readonly KindOfPrompt[],
  studied: number,
  drawings: Readonly<Record<Model, readonly Images[]>>,
): { study: Study; images: StudyImages } {
  const taken = new Map<string, number>();
  const rows = prompts.flatMap(({ kind }, row) => {
    const before = taken.get(kind) ?? 0;
    taken.set(kind, before + 1);
    return before < studied ? [row] : [];
  });
  const images: Record<string, Uint8Array> = {};
  const strips: Record<string, Study["models"][string]> = {};
  for (const model of models) {
    const { data, width, height } = of(drawings[model], 0);
    const bytes = width * height * 3;
    const strip = new Uint8Array(rows.length * bytes);
    rows.forEach((row, i) => strip.set(data.subarray(row * bytes, (row + 1) * bytes), i * bytes));
    images[model] = strip;
    strips[model] = { file: `${model}.png`, width, height, count: rows.length };
  }
  const items = incumbents.flatMap((incumbent) =>
    rows.map((row, i) => ({
      id: `${incumbent}-${String(i + 1).padStart(3, "0")}`,
      comparison: comparisonName(incumbent),
      kind: prompts[row]!.kind,
      prompt: prompts[row]!.prompt,
      a: { model: "ncp-dpo", row: i },
      b: { model: incumbent, row: i },
    }))
  );
  const title = `Side by side: NCP-DPO against DPO and base, ${backbone}`;
  return { study: { title, questions, models: strips, items }, images };
}

function comparisonName(incumbent: (typeof incumbents)[number]): string {
  return `${labels["ncp-dpo"]} over ${labels[incumbent]}`;
}

/** What people said of this study, if a file of votes was named. */
async function peoplesVotes(bench: Workbench, studyFolder: string): Promise<SummaryRow[]> {
  if (bench.votes === undefined) return [];
  const { study, digest } = await readStudy(studyFolder);
  using store = new VoteStore(bench.votes, { readOnly: true });
  const votes: Vote[] = store.of(digest);
  if (votes.length === 0) {
    throw new Error(
      `${bench.votes} has no vote on this study: vote with deno task annotate --study ` +
        `${studyFolder} --votes ${bench.votes}`,
    );
  }
  return summarize(study, votes);
}

/** From the majorities to what is shown. */
export function presentFigure4(
  results: Figure4Results,
  settings: Figure4Settings,
): Presentation {
  const kappas = results.judged.map(({ kappa }) => kappa);
  return {
    claims: claimsOf(results, settings.seeds.length),
    remarks: [
      ...results.judged.length > 0
        ? [
          `Simulated annotators: the oracle with logistic noise, ${annotators} to a pair, forced ` +
          `choice, majority; Fleiss' kappa ${Math.min(...kappas).toFixed(2)} to ` +
          `${Math.max(...kappas).toFixed(2)}.`,
        ]
        : ["No oracle can judge these prompts: only people's votes count."],
      ...results.people.length > 0
        ? ["People's votes are on the first seed's images: their intervals are over prompts only."]
        : ["No people's votes: deno task annotate collects them, and --votes FILE reports them."],
    ],
    tables: [
      { caption: "Prompts won by NCP-DPO", content: shareTable(results) },
      ...results.people.length > 0
        ? [{ caption: "Prompts won by NCP-DPO, people's majority", content: peopleTable(results) }]
        : [],
    ],
    figures: results.judged.length > 0
      ? [{
        caption: "Prompts won by NCP-DPO by question and kind of prompt, 95 % intervals",
        content: shareFigure(results),
      }]
      : [],
    images: [],
  };
}

/** Share of prompts won in percent, of one kind or of all. */
function shareOf({ prompts }: Figure4Results, { outcomes }: Judged, kind?: string): Interval {
  const chosen = prompts.flatMap((prompt, i) =>
    kind === undefined || prompt.kind === kind ? i : []
  );
  const table = outcomes.map((row) => chosen.map((i) => 100 * row[i]!));
  return bootstrap([table], ([values]) => mean(values));
}

function kindsOf({ prompts }: Figure4Results): string[] {
  return [...new Set(prompts.map(({ kind }) => kind))];
}

function claimsOf(results: Figure4Results, seeds: number): Claim[] {
  return results.judged.filter(({ incumbent }) => incumbent === "dpo").map((judged): Claim => {
    const ours = shareOf(results, judged);
    return {
      claim: `annotators prefer NCP-DPO over DPO, ${asked[judged.question]}`,
      paper: paperShares[judged.question],
      ours: intervalText(ours, { decimals: 1, unit: " %" }),
      test: "the interval lies above 50 %",
      verdict: verdictAbove(ours, 50, seeds),
    };
  });
}

/** Shares by comparison and question, of all prompts and of each kind. */
export function shareTable(results: Figure4Results): Table {
  const kinds = kindsOf(results);
  const share = { decimals: 1, interval: true };
  return {
    columns: [
      { heading: "Comparison", name: "comparison" },
      { heading: "Question", name: "question" },
      { heading: "Won, %", name: "share", ...share },
      ...kinds.map((kind) => ({
        heading: kind,
        name: kind.toLowerCase().replaceAll(/[^a-z]+/g, "_"),
        ...share,
      })),
      { heading: "Fleiss' kappa", name: "kappa", decimals: 2 },
    ],
    rows: results.judged.map((judged): Cell[] => [
      comparisonName(judged.incumbent),
      questions.find(({ id }) => id === judged.question)!.text,
      shareOf(results, judged),
      ...kinds.map((kind) => shareOf(results, judged, kind)),
      judged.kappa,
    ]),
  };
}

/** What people said. */
export function peopleTable({ people }: Figure4Results): Table {
  return {
    columns: [
      { heading: "Comparison", name: "comparison" },
      { heading: "Kind", name: "kind" },
      { heading: "Question", name: "question" },
      { heading: "Votes", name: "votes", decimals: 0 },
      { heading: "People", name: "annotators", decimals: 0 },
      { heading: "Won, %", name: "share", decimals: 1, interval: true },
      { heading: "Fleiss' kappa", name: "kappa", decimals: 2 },
    ],
    rows: people.map((row): Cell[] => [
      row.comparison,
      row.kind ?? "all",
      questions.find(({ id }) => id === row.question)!.text,
      row.votes,
      row.annotators,
      row.share && inPercent(row.share),
      row.kappa,
    ]),
  };
}

/** A panel per comparison: a row per kind, a mark per question. */
function shareFigure(results: Figure4Results): SizedFigure {
  const rows = ["all", ...kindsOf(results)].toReversed();
  const hues: Readonly<Record<QuestionId, string>> = {
    general: "#333333",
    appeal: "#1f77b4",
    alignment: "#d95f02",
  };
  const data = results.judged.map((judged) => {
    const panel = incumbents.indexOf(judged.incumbent);
    const k = questions.findIndex(({ id }) => id === judged.question);
    const suffix = panel === 0 ? "" : String(panel + 1);
    const shares = rows.map((kind) => shareOf(results, judged, kind === "all" ? undefined : kind));
    return {
      type: "scatter" as const,
      mode: "markers" as const,
      name: asked[judged.question],
      legendgroup: judged.question,
      showlegend: panel === 0,
      x: shares.map(({ estimate }) => estimate),
      y: rows.map((_, i) => i + 0.22 * (1 - k)),
      error_x: {
        type: "data" as const,
        symmetric: false,
        array: shares.map(({ estimate, high }) => high - estimate),
        arrayminus: shares.map(({ estimate, low }) => estimate - low),
      },
      marker: { color: hues[judged.question], size: 8 },
      xaxis: `x${suffix}`,
      yaxis: `y${suffix}`,
    };
  });
  const range: [number, number] = [-0.6, rows.length - 0.4];
  const y = { tickvals: rows.map((_, i) => i), range, zeroline: false };
  const line = (panel: "" | "2") => ({
    type: "line" as const,
    xref: `x${panel}` as "x",
    yref: "paper" as const,
    ...{ x0: 50, x1: 50, y0: 0, y1: 1 },
    line: { color: "#999", dash: "dot" as const, width: 1 },
  });
  return {
    width: 940,
    height: 480,
    figure: {
      data,
      layout: {
        title: { text: `Figure 4: prompts won by NCP-DPO, %, ${results.backbone}` },
        margin: { l: 190, r: 20, t: 90, b: 60 },
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        xaxis: { title: { text: comparisonName("dpo") }, domain: [0, 0.48], range: [-3, 103] },
        yaxis: { ...y, ticktext: rows },
        xaxis2: {
          title: { text: comparisonName("base") },
          domain: [0.52, 1],
          range: [-3, 103],
          anchor: "y2",
        },
        yaxis2: { ...y, ticktext: rows.map(() => ""), anchor: "x2" },
        shapes: [line(""), line("2")],
      },
    },
  };
}
