/**
 * Figures 1 and 5: the same prompts and starting noise drawn by the base model, by DPO and by NCP-DPO,
 * for a person to look at.
 *
 * @module
 */
import { mean } from "../evaluation/statistics.ts";
import type { PromptScores } from "./evaluate.ts";
import { defineExperiment, type Presentation } from "./experiment.ts";
import { sheetOf } from "./image_grid.ts";
import { labels } from "./labels.ts";
import { presets, type Settings } from "./presets.ts";
import { type KindOfPrompt, promptsByKind } from "./prompt_kinds.ts";
import type { Cell, Table } from "./report.ts";
import { writeWhole } from "./run.ts";

const models = ["base", "dpo", "ncp-dpo"] as const;
type Model = (typeof models)[number];

/** What the grids show, and how it scores. */
export interface Figure5Results {
  readonly prompts: readonly KindOfPrompt[];
  readonly parts: readonly {
    readonly backbone: string;
    readonly scores: Readonly<Record<Model, PromptScores>>;
  }[];
}

/** What is run. */
export interface Figure5Settings extends Settings {
  /** Prompts of every kind. */
  readonly perKind: number;
}

/** Figures 1 and 5. */
export const figure5 = defineExperiment<Figure5Settings, Figure5Results>({
  name: "figure5",
  title: "Figures 1 and 5: what the models draw",
  summary: "image grids of base, DPO and NCP-DPO, the same prompts and starting noise",
  split: "test",
  presets: {
    smoke: { ...presets.smoke, prompts: 4, perKind: 1 },
    quick: { ...presets.quick, prompts: 8, perKind: 2 },
    // One training of each: a grid shows images, not spreads.
    full: { ...presets.full, seeds: [0], prompts: 12, perKind: 3 },
  },
  selections: () => ["filtered"],
  async run(bench, settings, folder) {
    const { seeds: [seed], steps, batch, rank, perKind } = settings;
    const prompts = promptsByKind(bench.prompts.test, bench.oracle, perKind);
    const texts = prompts.map(({ prompt }) => prompt);
    const parts = [];
    for (const backbone of bench.backbones) {
      const columns = [];
      const scores = {} as Record<Model, PromptScores>;
      for (const model of models) {
        const label = `${backbone.name}, ${labels[model]}`;
        const tuned = model === "base" ? undefined : await bench.tune(label, backbone, {
          ...{ method: model, data: "filtered", seed: seed!, steps, batch, rank },
          ...await bench.hyperparameters(backbone, model),
        });
        scores[model] = await bench.evaluate(label, backbone, texts, tuned);
        const images = await bench.draw(label, backbone, texts, tuned);
        columns.push({ heading: labels[model], images });
      }
      await writeWhole(`${folder}/${gridName(backbone.name)}`, await sheetOf(texts, columns, 2));
      parts.push({ backbone: backbone.name, scores });
    }
    return { prompts, parts };
  },
  present: presentFigure5,
});

function gridName(backbone: string): string {
  return `grid-${backbone}.png`;
}

/** From the scores to what is shown. */
export function presentFigure5(results: Figure5Results): Presentation {
  return {
    claims: [],
    remarks: [
      "The prompts are the first held-out ones of each kind, and the training is the first seed's on " +
      "the filtered data: nothing was picked by its looks.",
    ],
    tables: [{ caption: "PickScore of the images in the grids", content: scoreTable(results) }],
    figures: [],
    images: results.parts.map(({ backbone }) => ({
      caption: `Base, DPO and NCP-DPO, ${backbone}`,
      content: gridName(backbone),
    })),
  };
}

function scoreTable({ prompts, parts }: Figure5Results): Table {
  const cells = (of: (scores: readonly number[]) => number): Cell[] =>
    parts.flatMap(({ scores }) => models.map((model) => of(scores[model].pickscore!)));
  return {
    columns: [
      { heading: "Kind", name: "kind" },
      { heading: "Prompt", name: "prompt" },
      ...parts.flatMap(({ backbone }) =>
        models.map((model) => ({
          heading: `${backbone}, ${labels[model]}`,
          name: `${backbone}_${model}`,
          decimals: 2,
        }))
      ),
    ],
    rows: [
      ...prompts.map(({ kind, prompt }, i) => [kind, prompt, ...cells((scores) => scores[i]!)]),
      ["all", "mean", ...cells((scores) => mean(scores))],
    ],
  };
}
