/**
 * An experiment is a declared grid of runs and a function from their records to tables, figures and
 * claims. That function sees nothing but the record, so that what a record says can be computed again.
 *
 * @module
 */
import { type Claim, claimSentence } from "./claims.ts";
import type { Figure } from "./figure.ts";
import type { Materials } from "./materials.ts";
import { digestPrompts } from "./materials.ts";
import type { PresetName, Settings } from "./presets.ts";
import { type FigureFile, markdownTable, type Table, writeReport } from "./report.ts";
import { type Json, type Provenance, provenance } from "./run.ts";
import type { Selection } from "./training_pairs.ts";
import { type Chosen, type Reporter, type RunNote, Workbench } from "./workbench.ts";

/** A table or a figure with the words that belong to it. */
export interface Captioned<T> {
  readonly caption: string;
  readonly content: T;
}

/** A figure and its size in pixels. */
export interface SizedFigure {
  readonly figure: Figure;
  readonly width: number;
  readonly height: number;
}

/** What an experiment shows. */
export interface Presentation {
  /** The paper's claims and what became of them here. */
  readonly claims: readonly Claim[];
  /** What else is to be said, in sentences. */
  readonly remarks: readonly string[];
  /** The first is the experiment's table. */
  readonly tables: readonly [Captioned<Table>, ...Captioned<Table>[]];
  readonly figures: readonly Captioned<SizedFigure>[];
  /** PNG files beside the page. */
  readonly images: readonly Captioned<string>[];
}

/** What an experiment leaves behind, `record.json`. */
export interface ExperimentRecord {
  readonly experiment: string;
  readonly preset: PresetName;
  readonly settings: Settings;
  readonly materials: Json;
  readonly hyperparameters: {
    readonly [backbone: string]: { readonly [method: string]: Chosen };
  };
  /** What the presentation is computed from. */
  readonly results: Json;
  readonly claims: readonly Claim[];
  /** The runs behind the results. */
  readonly runs: readonly RunNote[];
  readonly provenance: Provenance;
}

/** What an experiment is run with. */
export interface Circumstances {
  readonly materials: Materials;
  readonly preset: PresetName;
  /** Replaces the preset's seeds by as many. */
  readonly seeds?: number | undefined;
  /** A file with people's votes on the side-by-side study. */
  readonly votes?: string | undefined;
  /** Folder of results: the report goes below the experiment's name, runs below `runs`. */
  readonly results: string;
  /** `cpu` or `webgpu`: the last digits of a run depend on it. */
  readonly device: "cpu" | "webgpu";
  /** The device in the backend's words. */
  readonly deviceDescription: string;
  readonly reporter: Reporter;
}

/** An experiment's outcome. */
export interface Outcome {
  /** Folder of the report. */
  readonly folder: string;
  readonly record: ExperimentRecord;
  readonly presentation: Presentation;
  /** The page. */
  readonly markdown: string;
}

/** An experiment of the paper. */
export interface Experiment {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** Runs what has not been run before, then writes the report. */
  reproduce(circumstances: Circumstances): Promise<Outcome>;
  /**
   * Reads a report again.
   *
   * @param results Folder of results.
   * @throws {Error} If there is no such report.
   */
  read(results: string, preset: PresetName): Promise<Outcome>;
}

/** The declaration of an experiment. */
export interface Declaration<S extends Settings, R> {
  readonly name: string;
  readonly title: string;
  readonly summary: string;
  /** The prompts that it compares by. */
  readonly split: "validation" | "test";
  readonly presets: Readonly<Record<PresetName, S>>;
  /** The pairs that will be tuned on. */
  selections(settings: S): readonly Selection[];
  /**
   * Carries the runs out.
   *
   * @param folder The report's folder, for images.
   */
  run(bench: Workbench, settings: S, folder: string): Promise<R>;
  /** From the results to what is shown. */
  present(results: R, settings: S): Presentation;
}

/** Makes an experiment of its declaration. */
export function defineExperiment<S extends Settings, R>(
  declaration: Declaration<S, R>,
): Experiment {
  const { name, title, summary, split } = declaration;
  const outcomeOf = (folder: string, record: ExperimentRecord): Outcome => {
    const presentation = declaration.present(record.results as R, record.settings as S);
    const markdown = page(title, split, record, presentation);
    return { folder, record, presentation, markdown };
  };
  return {
    name,
    summary,
    async reproduce(circumstances) {
      const { preset, results, seeds, deviceDescription, materials } = circumstances;
      const startedAt = new Date();
      const given = declaration.presets[preset];
      const settings = {
        ...given,
        prompts: Math.min(given.prompts, materials.prompts[split].length),
        ...seeds !== undefined && { seeds: Array.from({ length: seeds }, (_, seed) => seed) },
      };
      const folder = reportFolder(results, name, preset);
      await Deno.mkdir(folder, { recursive: true });
      using bench = new Workbench({
        ...circumstances,
        settings,
        selections: declaration.selections(settings),
      });
      const found = await declaration.run(bench, settings, folder);
      const { prompts, ...rest } = materials;
      const record: ExperimentRecord = {
        experiment: name,
        preset,
        settings,
        materials: {
          ...rest as unknown as { readonly [key: string]: Json },
          prompts: {
            validation: digestPrompts(prompts.validation),
            test: digestPrompts(prompts.test),
          },
        },
        hyperparameters: bench.hyperparametersUsed,
        results: rounded(found),
        claims: declaration.present(rounded(found) as R, settings).claims,
        runs: bench.notes,
        provenance: provenance(deviceDescription, startedAt),
      };
      // As it will be read: what is shown now is what the record gives later.
      const outcome = outcomeOf(folder, JSON.parse(JSON.stringify(record)));
      await writeReport(folder, { ...outcome, figures: figureFiles(outcome.presentation) });
      circumstances.reporter.say(`Report: ${folder}/table.md`);
      return outcome;
    },
    async read(results, preset) {
      const folder = reportFolder(results, name, preset);
      let text: string;
      try {
        text = await Deno.readTextFile(`${folder}/record.json`);
      } catch (cause) {
        throw new Error(
          `${folder}/record.json cannot be read: run deno task reproduce ${name} --preset ${preset}`,
          { cause },
        );
      }
      return outcomeOf(folder, JSON.parse(text));
    },
  };
}

/** Where a report is: that of `full` is the experiment's own, the others are git's business no more. */
export function reportFolder(results: string, experiment: string, preset: PresetName): string {
  return `${results}/${experiment}${preset === "full" ? "" : `/${preset}`}`;
}

/** Numbers to seven digits: scores are f32. */
function rounded(results: unknown): Json {
  return JSON.parse(JSON.stringify(
    results,
    (_, value) => typeof value === "number" ? Number(value.toPrecision(7)) : value,
  ));
}

function figureFiles({ figures }: Presentation): FigureFile[] {
  return figures.map(({ content }, i) => ({ ...content, name: figureName(i) }));
}

function figureName(i: number): string {
  return i === 0 ? "figure" : `figure-${i + 1}`;
}

/** The page: claims, remarks, tables, figures, and how it all came about. */
function page(
  title: string,
  split: string,
  record: ExperimentRecord,
  shown: Presentation,
): string {
  const { settings, preset, materials, runs, provenance: { device } } = record;
  const { seeds, steps, batch, prompts } = settings;
  const models = (materials as unknown as Materials).backbones
    .filter(({ name }) => name in record.hyperparameters)
    .map(({ name, layout }) => `${name} (${layout}'s layout)`);
  const minutes = runs.reduce((sum, run) => sum + run.provenance.seconds, 0) / 60;
  const tuned = Object.entries(record.hyperparameters).flatMap(([backbone, chosen]) =>
    Object.entries(chosen).map(([method, { values, from }]) =>
      `${backbone}, ${method}: learning rate ${values.lr}, beta ${values.beta} (${from})`
    )
  );
  return [
    `# ${title}`,
    "",
    `Preset \`${preset}\`: ${steps} steps of ${batch} pairs, ${seeds.length} ` +
    `${seeds.length === 1 ? "seed" : "seeds"}, ${prompts} ${split} prompts, the same starting ` +
    `noise for every model. Tuned: ${models.join(", ")}.`,
    "",
    ...(preset === "smoke"
      ? ["This preset only shows that everything runs: its numbers answer nothing."]
      : [...shown.claims.map(claimSentence), ...shown.remarks].map((sentence) => `- ${sentence}`)),
    "",
    ...shown.tables.flatMap(({ caption, content }) => [`${caption}:`, "", markdownTable(content)]),
    "In brackets: 95 % bootstrap intervals over " +
    (seeds.length === 1
      ? "prompts; with a single seed they leave out the spread between trainings."
      : "seeds and prompts, both resampled."),
    "",
    ...shown.figures.flatMap(({ caption }, i) => [`![${caption}](${figureName(i)}.svg)`, ""]),
    ...shown.images.flatMap(({ caption, content }) => [`![${caption}](${content})`, ""]),
    ...tuned.length > 0 ? [`Hyperparameters: ${tuned.join("; ")}.`, ""] : [],
    `Computed on ${device}, ${minutes.toFixed(1)} minutes of training, drawing and scoring; ` +
    "`record.json` holds everything behind this page.",
    "",
  ].join("\n");
}
