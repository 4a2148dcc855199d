/**
 * Runs Table 1: tunes every method on every data set with every seed, evaluates each model on the
 * held-out prompts, and hands the scores to the table.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { isDeepStrictEqual } from "node:util";
import sharp from "sharp";
import { loadPipeline, type Pipeline } from "../diffusion/mod.ts";
import { loadLora } from "../nn/mod.ts";
import type { PreferencePairs } from "../preference/mod.ts";
import { Evaluator, keptSamples, samplesName } from "./evaluate.ts";
import { figureSvg } from "./figure.ts";
import { imageGrid } from "./image_grid.ts";
import { digestPrompts, type Materials } from "./materials.ts";
import { defaultHyperparameters, type Hyperparameters, type Preset } from "./presets.ts";
import { writeReport } from "./report.ts";
import { type Json, provenance, runKey, type RunRecord, RunStore, writeWhole } from "./run.ts";
import { choose, criterion, judgeTrial, type SearchRecord, type Trial } from "./search.ts";
import {
  compareMethods,
  comparisonTable,
  labels,
  methods,
  type PromptScores,
  type Table1Data,
  table1Figure,
  type Table1Method,
  table1Page,
  type Table1Results,
} from "./table1.ts";
import { type Selection, trainingPairs } from "./training_pairs.ts";
import { tune, type TuneResult, type Tuning, tuningInputs } from "./tune.ts";

/** How an experiment tells what it does. */
export interface Reporter {
  /** A line of its own. */
  say(line: string): void;
  /** Begins a job; the returned function is told how much of it is done. */
  job(label: string, unit: string): (done: number, total: number, note?: string) => void;
}

/** What {@linkcode runTable1} needs to know. */
export interface Table1Options {
  readonly materials: Materials;
  readonly presetName: string;
  readonly preset: Preset;
  /** Folder of results: the report goes below `table1`, runs below `runs`. */
  readonly results: string;
  /** `cpu` or `webgpu`: the last digits of a run depend on it. */
  readonly device: "cpu" | "webgpu";
  /** The device in the backend's words. */
  readonly deviceDescription: string;
  readonly reporter: Reporter;
}

/** What it leaves behind. */
export interface Table1Outcome {
  /** Folder of the report. */
  readonly folder: string;
  /** The page. */
  readonly markdown: string;
}

/** A tuned model: the record of its training and the folder where its LoRA is. */
interface Tuned {
  readonly record: RunRecord<TuneResult>;
  readonly folder: string;
}

/**
 * Runs what has not been run before, then writes the report.
 *
 * @param options Materials, size and place.
 */
export async function runTable1(options: Table1Options): Promise<Table1Outcome> {
  const { materials, preset, presetName, reporter } = options;
  const bench = new Bench(options);
  try {
    const { hyperparameters, from } = await bench.hyperparameters();
    const prompts = materials.prompts.test.slice(0, preset.prompts);
    const jobs = preset.seeds.flatMap((seed) =>
      preset.data.flatMap((data) => methods.map((method) => ({ method, data, seed })))
    );
    const baseRun = await bench.evaluate("base model", prompts);
    const tuned = [];
    for (const [i, job] of jobs.entries()) {
      const name = `${i + 1}/${jobs.length} ${labels[job.method]}, ${job.data}, seed ${job.seed}`;
      const training = await bench.tune(name, job, hyperparameters[job.method]);
      const evaluation = await bench.evaluate(name, prompts, training);
      tuned.push({ ...job, training, evaluation });
    }
    const results: Table1Results = {
      base: baseRun.record.result,
      tuned: tuned.map(({ method, data, seed, evaluation }) => ({
        method,
        data,
        seed,
        scores: evaluation.record.result,
      })),
    };
    const records = [baseRun, ...tuned.flatMap((run) => [run.training, run.evaluation])]
      .map((run) => run.record);
    const seconds = records.reduce((sum, record) => sum + record.provenance.seconds, 0);
    const comparisons = compareMethods(results);
    const markdown = table1Page(results, {
      preset: presetName,
      model: materials.model,
      seeds: preset.seeds,
      prompts: prompts.length,
      steps: preset.steps,
      batch: preset.batch,
      device: options.deviceDescription,
      minutes: seconds / 60,
      hyperparameters,
      hyperparametersFrom: from,
    });
    const folder = bench.reportFolder;
    await writeReport(folder, {
      markdown,
      table: comparisonTable(comparisons),
      figure: await figureSvg(table1Figure(comparisons), 860, 460),
      record: {
        experiment: "table1",
        preset: presetName,
        settings: preset,
        materials: {
          ...materials,
          prompts: { count: prompts.length, sha256: digestPrompts(prompts) },
        },
        hyperparameters,
        hyperparametersFrom: from,
        comparisons,
        runs: records,
        provenance: provenance(options.deviceDescription, bench.startedAt),
      },
    });
    const shown = tuned.filter((run) =>
      run.seed === preset.seeds[0] && run.data === preset.data.at(-1)
    );
    await writeWhole(
      `${folder}/samples.png`,
      await sampleSheet(prompts, [
        { name: labels.base, folder: baseRun.folder },
        ...shown.map((run) => ({ name: labels[run.method], folder: run.evaluation.folder })),
      ]),
    );
    reporter.say(`Report: ${folder}/table.md`);
    return { folder, markdown };
  } finally {
    bench[Symbol.dispose]();
  }
}

/**
 * The runs of one experiment: each is looked up in the store and computed where it is missing. Models
 * and data are loaded when the first run needs them, and serve all runs.
 */
class Bench implements Disposable {
  readonly startedAt = new Date();
  readonly reportFolder: string;
  readonly #options: Table1Options;
  readonly #store: RunStore;
  #pipeline: Pipeline | undefined;
  #pairs: Readonly<Record<Selection, PreferencePairs>> | undefined;
  #evaluator: Evaluator | undefined;

  constructor(options: Table1Options) {
    const { results, presetName } = options;
    this.#options = options;
    this.#store = new RunStore(`${results}/runs`, options.deviceDescription);
    this.reportFolder = `${results}/table1${presetName === "full" ? "" : `/${presetName}`}`;
  }

  [Symbol.dispose](): void {
    this.#evaluator?.[Symbol.dispose]();
    this.#pipeline?.dispose();
  }

  async #model(): Promise<Pipeline> {
    return this.#pipeline ??= await loadPipeline(this.#options.materials.base.path);
  }

  async #trainingPairs(): Promise<Readonly<Record<Selection, PreferencePairs>>> {
    const { materials, preset, reporter } = this.#options;
    return this.#pairs ??= await trainingPairs(
      await this.#model(),
      materials.data.path,
      preset.search ? [...preset.data, preset.search.data] : preset.data,
      reporter.job("encode images and prompts", "items"),
    );
  }

  /** Tunes with the preset's budget, or with another. */
  async tune(
    name: string,
    job: { method: Table1Method; data: Table1Data; seed: number },
    hyperparameters: Hyperparameters,
    { steps, batch }: { steps: number; batch: number } = this.#options.preset,
  ): Promise<Tuned> {
    const { materials, preset, device, reporter } = this.#options;
    const tuning: Tuning = { ...job, ...hyperparameters, steps, batch, rank: preset.rank };
    const { record, reused } = await this.#store.run(
      "train",
      tuningInputs(tuning, materials, device),
      async (folder) => {
        const pairs = (await this.#trainingPairs())[job.data];
        const report = reporter.job(`train ${name}`, "steps");
        return await tune(
          tuning,
          await this.#model(),
          pairs,
          folder,
          (step, note) => report(step, steps, note),
        );
      },
    );
    if (reused) reporter.say(`train ${name}: done before`);
    return { record, folder: this.#store.folderOf(record.key) };
  }

  /** Scores of the base model, or of a tuned one. */
  async evaluate(name: string, prompts: readonly string[], tuned?: Tuned) {
    const { materials, preset, device, reporter } = this.#options;
    const inputs: Json = {
      device,
      base: materials.base.sha256,
      training: tuned?.record.key ?? null,
      prompts: digestPrompts(prompts),
      sampling: { ...preset.sampling },
      pickscore: materials.pickscore.sha256,
      hps: materials.hps.sha256,
      oracle: materials.oracle,
    };
    const { record, reused } = await this.#store.run<PromptScores>(
      "evaluate",
      inputs,
      async (folder) => {
        const pipeline = await this.#model();
        this.#evaluator ??= await Evaluator.open(pipeline, materials);
        const lora = tuned &&
          await loadLora(`${tuned.folder}/pytorch_lora_weights.safetensors`, pipeline.unet.weights);
        const report = reporter.job(`evaluate ${name}`, "images");
        try {
          return await this.#evaluator.evaluate(prompts, preset.sampling, {
            folder,
            onProgress: (done) => report(done, prompts.length),
            ...(lora ? { lora } : {}),
          });
        } finally {
          lora?.layers.forEach(({ down, up }) => [down, up].forEach((half) => half.dispose()));
        }
      },
    );
    if (reused) reporter.say(`evaluate ${name}: done before`);
    return { record, folder: this.#store.folderOf(record.key) };
  }

  /** What each method is tuned with: searched for, found by an earlier search, or the defaults. */
  async hyperparameters(): Promise<
    { hyperparameters: Readonly<Record<Table1Method, Hyperparameters>>; from: string }
  > {
    const { materials, preset, reporter, results } = this.#options;
    const path = `${results}/table1/search.json`;
    const key = runKey("search", {
      base: materials.base.sha256,
      data: materials.data.sha256,
      pickscore: materials.pickscore.sha256,
      hps: materials.hps.sha256,
      validation: digestPrompts(materials.prompts.validation),
    });
    const earlier = await readSearch(path);
    const from = "chosen on validation prompts (`search.json`)";
    // A preset that searches wants its own search; the others take any with the same materials.
    const serves = earlier?.key === key &&
      (preset.search === null || isDeepStrictEqual(earlier.settings, preset.search));
    if (serves) return { hyperparameters: earlier.chosen, from };
    if (!preset.search) {
      return { hyperparameters: defaultHyperparameters, from: "the methods' defaults" };
    }
    const { grid, data, seed, ...budget } = preset.search;
    const prompts = materials.prompts.validation.slice(0, budget.prompts);
    const base = await this.evaluate("base model on validation prompts", prompts);
    const trials: Trial[] = [];
    for (const method of methods) {
      for (const [i, hyperparameters] of grid[method].entries()) {
        const name = `trial ${i + 1}/${grid[method].length} of ${labels[method]}`;
        const tuned = await this.tune(name, { method, data, seed }, hyperparameters, budget);
        const { record } = await this.evaluate(name, prompts, tuned);
        const trial = judgeTrial(method, hyperparameters, record.result, base.record.result);
        reporter.say(`${name}: wins ${trial.winRate.toFixed(1)} % over the base`);
        trials.push(trial);
      }
    }
    const search: SearchRecord = {
      key,
      criterion,
      settings: preset.search,
      trials,
      chosen: choose(trials),
    };
    await Deno.mkdir(`${results}/table1`, { recursive: true });
    await writeWhole(path, JSON.stringify(search, null, 1) + "\n");
    return { hyperparameters: search.chosen, from };
  }
}

async function readSearch(path: string): Promise<SearchRecord | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw new Error(`${path} cannot be read: delete it to search again`, { cause: error });
  }
}

/** The first prompts, one per row, drawn by each model, one per column. */
async function sampleSheet(
  prompts: readonly string[],
  models: readonly { name: string; folder: string }[],
): Promise<Uint8Array> {
  const columns = await Promise.all(models.map(async ({ folder }) => {
    const strip = Buffer.from(await Deno.readFile(`${folder}/${samplesName}`));
    const { data, info } = await sharp(strip).removeAlpha().raw()
      .toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
  }));
  const rows = Math.min(keptSamples, prompts.length);
  const pictures = prompts.slice(0, rows).flatMap((caption, row) =>
    columns.map(({ data, width, height }) => {
      const bytes = data.length / rows;
      return {
        pixels: data.subarray(row * bytes, (row + 1) * bytes),
        width,
        height: height / rows,
        caption,
      };
    })
  );
  return await imageGrid(pictures, {
    columns: models.length,
    headings: models.map((model) => model.name),
  });
}
