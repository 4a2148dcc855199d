/**
 * Ablations: which part of NCP-DPO does what. One thing at a time is changed of the training that Table 1
 * has on the filtered data: the features, the timestep they are seen at, the weighting of timesteps
 * without features, beta, the LoRA's rank and layers, and the share of contradictory choices.
 *
 * @module
 */
import { compare } from "../evaluation/comparison.ts";
import { bootstrap, inPercent, type Interval, mean } from "../evaluation/statistics.ts";
import { type Claim, intervalText, verdictAbove } from "./claims.ts";
import { type PromptScores, type Scorer, scorers } from "./evaluate.ts";
import { defineExperiment, type Presentation, type SizedFigure } from "./experiment.ts";
import { colours, labels } from "./labels.ts";
import type { Backbone } from "./materials.ts";
import { presets, type Settings } from "./presets.ts";
import type { Cell, Table } from "./report.ts";
import type { Hyperparameters, Tuning } from "./tune.ts";
import type { Workbench } from "./workbench.ts";

/** What is changed, in the order of the table. */
export const ablationGroups = [
  "features",
  "next timestep",
  "weighting",
  "beta",
  "rank",
  "layers",
  "contradictory share, NCP-DPO",
  "contradictory share, DPO",
] as const;
/** One of {@linkcode ablationGroups}. */
export type AblationGroup = (typeof ablationGroups)[number];

/** What is run. */
export interface AblationSettings extends Settings {
  readonly groups: readonly AblationGroup[];
}

/** One variant's scores. */
export interface VariantScores {
  readonly group: AblationGroup;
  readonly variant: string;
  /** Whether it is the group's point of reference, which is as in Table 1. */
  readonly reference: boolean;
  readonly beta: number;
  /** By seed. */
  readonly scores: readonly PromptScores[];
}

/** What the table is made from. */
export interface AblationResults {
  readonly backbone: string;
  readonly base: PromptScores;
  readonly variants: readonly VariantScores[];
}

/** A change of the training in Table 1. */
interface Variant {
  readonly group: AblationGroup;
  readonly name: string;
  readonly change: Partial<Omit<Tuning, "seed">>;
  /** Whether it is the group's point of reference. */
  readonly reference?: true;
  /** Whether its errors have another size, for which beta has to make up. */
  readonly scaleBeta?: true;
}

/** Ablations. */
export const ablations = defineExperiment<AblationSettings, AblationResults>({
  name: "ablations",
  title: "Ablations: what does what",
  summary: "features, t', weighting, beta, rank, layers, contradictory data: one change at a time",
  split: "test",
  presets: {
    smoke: { ...presets.smoke, groups: ["features", "next timestep", "weighting"] },
    quick: {
      ...presets.quick,
      groups: ["features", "next timestep", "weighting", "contradictory share, NCP-DPO"],
    },
    full: { ...presets.full, groups: ablationGroups },
  },
  selections: ({ groups }) =>
    groups.some((group) => group.startsWith("contradictory"))
      ? ["filtered", "contradictory-50", "contradictory-100"]
      : ["filtered"],
  async run(bench, settings) {
    const { seeds, steps, batch, rank, groups } = settings;
    const [backbone] = bench.backbones as [Backbone];
    const prompts = bench.prompts.test.slice(0, settings.prompts);
    const base = await bench.evaluate("base model", backbone, prompts);
    const found = {
      "ncp-dpo": await bench.hyperparameters(backbone, "ncp-dpo"),
      dpo: await bench.hyperparameters(backbone, "dpo"),
      "dpo-tw": await bench.hyperparameters(backbone, "dpo-tw"),
    };
    const start = { method: "ncp-dpo", data: "filtered", steps, batch, rank } as const;
    const chosen = variants(found).filter(({ group }) => groups.includes(group));
    const results: VariantScores[] = [];
    for (const [i, variant] of chosen.entries()) {
      const { group, name, change } = variant;
      const label = `${i + 1}/${chosen.length} ${group}: ${name}`;
      const tuning = { ...start, ...found["ncp-dpo"], ...change };
      const beta = variant.scaleBeta
        ? await scaledBeta(bench, label, backbone, tuning)
        : tuning.beta;
      const scores = [];
      for (const seed of seeds) {
        const tuned = await bench.tune(`${label}, seed ${seed}`, backbone, {
          ...tuning,
          beta,
          seed,
        });
        scores.push(await bench.evaluate(`${label}, seed ${seed}`, backbone, prompts, tuned));
      }
      results.push({ group, variant: name, reference: !!variant.reference, beta, scores });
    }
    return { backbone: backbone.name, base, variants: results };
  },
  present: presentAblations,
});

/** All variants; one without a change is Table 1's NCP-DPO on the filtered data. */
function variants(
  { "ncp-dpo": ncp, dpo, "dpo-tw": weighted }: Readonly<
    Record<"ncp-dpo" | "dpo" | "dpo-tw", Hyperparameters>
  >,
): Variant[] {
  const plain = { method: "dpo", ...dpo } as const;
  const same = { change: {}, reference: true } as const;
  return [
    { group: "features", name: "last down block", ...same },
    { group: "features", name: "mid block", change: { features: "mid" }, scaleBeta: true },
    { group: "features", name: "all levels", change: { features: "levels" }, scaleBeta: true },
    {
      group: "features",
      name: "all levels, normalised",
      change: { features: "normalised-levels" },
      scaleBeta: true,
    },
    { group: "next timestep", name: "t' = t - 1", ...same },
    {
      group: "next timestep",
      name: "t' uniform",
      change: { nextTimestep: "uniform" },
      scaleBeta: true,
    },
    { group: "weighting", name: "NCP-DPO", ...same },
    { group: "weighting", name: "DPO-tw: no features", change: { method: "dpo-tw", ...weighted } },
    { group: "weighting", name: "DPO: neither", change: plain },
    ...betas(ncp.beta),
    { group: "rank", name: "2", change: { rank: 2 } },
    { group: "rank", name: "as in Table 1", ...same },
    { group: "rank", name: "32", change: { rank: 32 } },
    { group: "layers", name: "attention, feed-forward, convolutions", ...same },
    { group: "layers", name: "attention only", change: { targets: "attention" } },
    ...shares("contradictory share, NCP-DPO", {}),
    ...shares("contradictory share, DPO", plain),
  ];
}

/** A sixteenth, a quarter and four times of what Table 1 has. */
function betas(beta: number): Variant[] {
  return [1 / 16, 1 / 4, 1, 4].map((factor) => ({
    group: "beta",
    name: (factor * beta).toExponential().replace("e+", "e"),
    change: { beta: factor * beta },
    ...factor === 1 && { reference: true },
  }));
}

/** As many pairs, of which some are won by an image that lost or tied elsewhere. */
function shares(group: AblationGroup, change: Variant["change"]): Variant[] {
  return [
    { group, name: "0 %", change: { ...change, data: "filtered" }, reference: true },
    { group, name: "50 %", change: { ...change, data: "contradictory-50" } },
    { group, name: "100 %", change: { ...change, data: "contradictory-100" } },
  ];
}

/**
 * The beta that gives a variant's errors the size that the reference's have under its own: errors of both
 * are measured on the same pairs, timesteps and noise before anything is learnt.
 */
async function scaledBeta(
  bench: Workbench,
  label: string,
  backbone: Backbone,
  { features, nextTimestep, ...reference }: Omit<Tuning, "seed">,
): Promise<number> {
  const errorOf = (change: Partial<Tuning>) =>
    bench.winnerError(label, backbone, { ...reference, ...change, seed: 0 });
  const usual = await errorOf({});
  const found = await errorOf({
    ...features !== undefined && { features },
    ...nextTimestep !== undefined && { nextTimestep },
  });
  return Number((reference.beta * usual / found).toPrecision(3));
}

/** From the scores to what is shown. */
export function presentAblations(
  results: AblationResults,
  settings: AblationSettings,
): Presentation {
  return {
    claims: claimsOf(results, settings.seeds.length),
    remarks: [
      "One thing at a time is changed of Table 1's NCP-DPO (or DPO) on the filtered data. Where a change " +
      "alters the size of the errors, beta makes up for it: errors are measured before training, on the " +
      "same pairs and noise.",
      "A contradictory pair is a choice whose winner lost or tied elsewhere; the number of pairs stays.",
    ],
    tables: [{ caption: "Variants against the base model", content: variantTable(results) }],
    figures: [{
      caption: "Change of the mean PickScore over the base model, 95 % intervals",
      content: variantFigure(results),
    }],
    images: [],
  };
}

function table(variant: VariantScores, scorer: string) {
  return variant.scores.map((scores) => scores[scorer]!);
}

/** Change over the base model. */
function changeOf({ base }: AblationResults, variant: VariantScores, scorer: string): Interval {
  return bootstrap(
    [table(variant, scorer), [base[scorer]!]],
    ([tuned, untuned]) => mean(tuned) - mean(untuned),
  );
}

/** Difference to the group's reference, paired by seed and prompt. */
function differenceOf(
  { variants }: AblationResults,
  variant: VariantScores,
  scorer: Scorer,
): Interval | null {
  const reference = variants.find(({ group, reference }) => group === variant.group && reference);
  if (!reference || reference === variant) return null;
  return bootstrap(
    [table(variant, scorer), table(reference, scorer)],
    ([a, b]) => mean(a) - mean(b),
  );
}

function claimsOf(results: AblationResults, seeds: number): Claim[] {
  return (["NCP-DPO", "DPO"] as const).flatMap((method): Claim[] => {
    const group: AblationGroup = `contradictory share, ${method}`;
    const [clear, , contradictory] = results.variants.filter((variant) => variant.group === group);
    if (!clear || !contradictory) return [];
    const ours = bootstrap(
      [table(clear, "pickscore"), table(contradictory, "pickscore")],
      ([a, b]) => mean(a) - mean(b),
    );
    return [{
      claim:
        `${method} gains by leaving contradictory choices out (mean PickScore on as many pairs, ` +
        "none against all of them contradictory, difference)",
      paper: "the filtered data are a tenth of the full ones and give more",
      ours: intervalText(ours, { decimals: 2, signed: true }),
      test: "the interval lies above 0",
      verdict: verdictAbove(ours, 0, seeds),
    }];
  });
}

/** Every variant: wins and changes over the base model, and the difference to its reference. */
export function variantTable(results: AblationResults): Table {
  const { base, variants } = results;
  const hasUtility = base.utility !== undefined;
  const number = { decimals: 2, interval: true, signed: true };
  return {
    columns: [
      { heading: "Changed", name: "group" },
      { heading: "Variant", name: "variant" },
      { heading: "beta", name: "beta", decimals: 0 },
      ...scorers.map((scorer) => ({
        heading: `${labels[scorer]}: wins over base, %`,
        name: `${scorer}_win_rate`,
        decimals: 1,
        interval: true,
      })),
      { heading: "PickScore over base", name: "pickscore_change", ...number },
      { heading: "PickScore over reference", name: "pickscore_difference", ...number },
      ...(hasUtility
        ? [{
          heading: "Oracle's utility over base",
          name: "utility_change",
          ...number,
          decimals: 3,
        }]
        : []),
    ],
    rows: variants.map((variant): Cell[] => [
      variant.group,
      variant.variant + (variant.reference ? " (reference)" : ""),
      variant.beta,
      ...scorers.map((scorer) => {
        const { winRate } = compare(
          { method: variant.variant, scores: table(variant, scorer) },
          { method: labels.base, scores: [base[scorer]!] },
        );
        return inPercent(winRate);
      }),
      changeOf(results, variant, "pickscore"),
      differenceOf(results, variant, "pickscore"),
      ...(hasUtility ? [changeOf(results, variant, "utility")] : []),
    ]),
  };
}

/** A row per variant, groups apart. */
function variantFigure(results: AblationResults): SizedFigure {
  const rows: { variant: VariantScores; y: number }[] = [];
  const headings: { group: string; y: number }[] = [];
  let y = 0;
  for (const group of ablationGroups) {
    const some = results.variants.filter((variant) => variant.group === group);
    if (some.length === 0) continue;
    headings.push({ group, y: y-- });
    for (const variant of some) rows.push({ variant, y: y-- });
  }
  const traces = ([["as in Table 1", true], ["changed", false]] as const).map(
    ([name, reference]) => {
      const some = rows.filter(({ variant }) => variant.reference === reference);
      const changes = some.map(({ variant }) => changeOf(results, variant, "pickscore"));
      return {
        type: "scatter" as const,
        mode: "markers" as const,
        name,
        x: changes.map(({ estimate }) => estimate),
        y: some.map((row) => row.y),
        error_x: {
          type: "data" as const,
          symmetric: false,
          array: changes.map(({ estimate, high }) => high - estimate),
          arrayminus: changes.map(({ estimate, low }) => estimate - low),
        },
        marker: { size: 9, color: reference ? colours.base : colours["ncp-dpo"] },
      };
    },
  );
  return {
    width: 860,
    height: 160 + 24 * (rows.length + headings.length),
    figure: {
      data: traces,
      layout: {
        title: { text: `Ablations: PickScore over the base model, ${results.backbone}` },
        legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0 },
        margin: { l: 290, r: 20, t: 90, b: 60 },
        xaxis: { title: { text: "change of the mean PickScore" } },
        yaxis: {
          tickvals: [...rows, ...headings].map((row) => row.y),
          ticktext: [
            ...rows.map(({ variant }) => variant.variant),
            ...headings.map(({ group }) => `<b>${group}</b>`),
          ],
          range: [y + 0.4, 0.6],
          zeroline: false,
        },
      },
    },
  };
}
