/**
 * Where experiments are carried out: every run (a training, an evaluation, a set of drawings) is looked
 * up in the store and computed where it is missing. Models and data are loaded when the first run needs
 * them, and serve all that follow.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import sharp from "sharp";
import { mean, median } from "../evaluation/statistics.ts";
import { type Images, loadPipeline, type Pipeline } from "../diffusion/mod.ts";
import { loadLora, type LoraAdapter } from "../nn/mod.ts";
import type { MethodName, PreferencePairs, StepMetrics } from "../preference/mod.ts";
import { drawImages, Evaluator, type PromptScores } from "./evaluate.ts";
import { type Backbone, digestPrompts, type Materials, type ScorerMaterial } from "./materials.ts";
import type { Settings } from "./presets.ts";
import { type Json, type Provenance, runKey, RunStore, writeWhole } from "./run.ts";
import {
  choose,
  criterion,
  defaultHyperparameters,
  judgeTrial,
  searchGrid,
  type SearchRecord,
  type Trial,
} from "./search.ts";
import { labels } from "./labels.ts";
import { type Selection, trainingPairs } from "./training_pairs.ts";
import {
  type Hyperparameters,
  stepDurations,
  stepNote,
  tune,
  type TuneResult,
  tuneResult,
  type Tuning,
  tuningInputs,
} from "./tune.ts";

/** How an experiment tells what it does. */
export interface Reporter {
  /** A line of its own. */
  say(line: string): void;
  /** Begins a job; the returned function is told how much of it is done. */
  job(
    label: string,
    unit: string,
  ): (done: number, total: number, note?: string) => void | Promise<void>;
  /** Told of the training steps whose metrics have been read, one at a time. */
  step?(label: string, metrics: StepMetrics): void | Promise<void>;
}

/** What a {@linkcode Workbench} needs. */
export interface WorkbenchOptions {
  readonly materials: Materials;
  readonly settings: Settings;
  /** The pairs that will be tuned on: they are encoded together. */
  readonly selections: readonly Selection[];
  /** Folder of results: runs go below `runs`, what searches find below `search`. */
  readonly results: string;
  /** `cpu` or `webgpu`: the last digits of a run depend on it. */
  readonly device: "cpu" | "webgpu";
  /** The device in the backend's words. */
  readonly deviceDescription: string;
  readonly reporter: Reporter;
  /** A file with people's votes. */
  readonly votes?: string | undefined;
}

/** A tuned model: the record of its training, and the folder where its LoRA is. */
export interface Tuned {
  readonly key: string;
  readonly folder: string;
  readonly result: TuneResult;
}

/** A model's scores after some steps of its training. */
export type Checkpoint = {
  readonly step: number;
  readonly scores: PromptScores;
};

/** What is recorded of a run beside its result. */
export interface RunNote {
  readonly key: string;
  readonly kind: string;
  readonly inputs: Json;
  readonly provenance: Provenance;
}

/** Hyperparameters, and where they come from in words. */
export interface Chosen {
  readonly values: Hyperparameters;
  readonly from: string;
}

const chosenBySearch = "chosen on validation prompts";

/** Runs and their store. */
export class Workbench implements Disposable {
  readonly #options: WorkbenchOptions;
  readonly #store: RunStore;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #evaluators = new Map<string, Evaluator>();
  readonly #pairs = new Map<string, Readonly<Record<Selection, PreferencePairs>>>();
  readonly #notes = new Map<string, RunNote>();
  readonly #chosen = new Map<string, Map<MethodName, Chosen>>();

  constructor(options: WorkbenchOptions) {
    this.#options = options;
    this.#store = new RunStore(`${options.results}/runs`, options.deviceDescription);
  }

  /** The models to be tuned. */
  get backbones(): readonly Backbone[] {
    return this.#options.materials.backbones;
  }

  /** The prompts to choose by and to compare by. */
  get prompts(): Materials["prompts"] {
    return this.#options.materials.prompts;
  }

  /** Whether the oracle can judge the prompts. */
  get oracle(): boolean {
    return this.#options.materials.oracle;
  }

  /** A file with people's votes, if one was named. */
  get votes(): string | undefined {
    return this.#options.votes;
  }

  /** The runs that were asked for so far, in order. */
  get notes(): readonly RunNote[] {
    return [...this.#notes.values()];
  }

  /** The hyperparameters asked for so far, by backbone and method. */
  get hyperparametersUsed(): { [backbone: string]: { [method: string]: Chosen } } {
    return Object.fromEntries(
      [...this.#chosen].map(([name, chosen]) => [name, Object.fromEntries(chosen)]),
    );
  }

  /** Gives the memory of models and scorers back. */
  [Symbol.dispose](): void {
    for (const evaluator of this.#evaluators.values()) evaluator[Symbol.dispose]();
    for (const pipeline of this.#pipelines.values()) pipeline.dispose();
  }

  /**
   * Tunes a LoRA.
   *
   * @param label For the reporter.
   */
  async tune(label: string, backbone: Backbone, tuning: Tuning): Promise<Tuned> {
    const { materials, device } = this.#options;
    const inputs = tuningInputs(tuning, backbone.sha256, materials, device);
    const { key, folder, result } = await this.#run(
      `train ${label}`,
      "train",
      inputs,
      (folder) =>
        this.#train(label, backbone, tuning, { folder, checkpointEvery: 20 })
          .then(({ pairs, metrics }) => tuneResult(pairs, metrics)),
    );
    return { key, folder, result };
  }

  /**
   * Tunes a LoRA and evaluates it every few steps.
   *
   * @param every Steps between evaluations.
   * @param prompts What is evaluated on.
   * @returns The scores, in the order of the steps.
   */
  async course(
    label: string,
    backbone: Backbone,
    tuning: Tuning,
    every: number,
    prompts: readonly string[],
  ): Promise<readonly Checkpoint[]> {
    const { materials, device } = this.#options;
    const inputs = {
      ...tuningInputs(tuning, backbone.sha256, materials, device),
      every,
      prompts: digestPrompts(prompts),
    };
    const training = runKey("course", inputs);
    const evaluateAt = (step: number, lora: string | (() => never)) =>
      this.#evaluate(`${label}, step ${step}`, backbone, prompts, { training, step }, lora);
    const { folder } = await this.#run(
      `train ${label}`,
      "course",
      inputs,
      async (folder) => {
        const { pairs, metrics } = await this.#train(label, backbone, tuning, {
          folder,
          checkpointEvery: every,
          onLora: async (step, lora) => void await evaluateAt(step, lora),
        });
        return tuneResult(pairs, metrics);
      },
    );
    const checkpoints: Checkpoint[] = [];
    for (let step = every; step < tuning.steps + every; step += every) {
      const at = Math.min(step, tuning.steps);
      // All of them are stored by now; the adapter of an earlier step is gone.
      const scores = await evaluateAt(at, () => {
        throw new Error(
          `the evaluation of ${label} after ${at} steps is missing: delete ${folder} to train again`,
        );
      });
      checkpoints.push({ step: at, scores });
    }
    return checkpoints;
  }

  /**
   * How long a step takes, in seconds: medians over a few short trainings of each kind, which take turns,
   * so that whatever else the machine does in the meantime meets them alike.
   */
  async stepSeconds(backbone: Backbone, tunings: readonly Tuning[]): Promise<readonly number[]> {
    const { materials, device } = this.#options;
    const short = tunings.map((tuning) => ({ ...tuning, steps: 12 }));
    const inputs = {
      threads: navigator.hardwareConcurrency,
      tunings: short.map((tuning) => tuningInputs(tuning, backbone.sha256, materials, device)),
    };
    const { result } = await this.#run("step times", "step seconds", inputs, async (folder) => {
      const durations: number[][] = short.map(() => []);
      for (let round = 1; round <= timingRounds; round++) {
        for (const [i, tuning] of short.entries()) {
          const label = `${labels[tuning.method]}, timing ${round}/${timingRounds}`;
          // A folder of its own each time: it is the steps that are wanted, not their result.
          const place = { folder: await Deno.makeTempDir({ dir: folder }), checkpointEvery: 12 };
          const { metrics } = await this.#train(label, backbone, tuning, place);
          durations[i]!.push(...stepDurations(metrics));
        }
      }
      return durations.map((of) => median(of));
    });
    return result;
  }

  /** The mean error of winners before anything is learnt, by which sizes of errors can be compared. */
  async winnerError(label: string, backbone: Backbone, tuning: Tuning): Promise<number> {
    const { materials, device } = this.#options;
    // Hardly a step: what is measured is the base model under ten batches of noise.
    const still = { ...tuning, steps: 10, lr: 1e-9 };
    const inputs = tuningInputs(still, backbone.sha256, materials, device);
    const { result } = await this.#run(
      `measure ${label}`,
      "winner error",
      inputs,
      (folder) =>
        this.#train(label, backbone, still, { folder, checkpointEvery: 10 })
          .then(({ metrics }) => mean(metrics.map(({ winnerError }) => winnerError))),
    );
    return result;
  }

  /** Scores of the base model, or of a tuned one. */
  async evaluate(
    label: string,
    backbone: Backbone,
    prompts: readonly string[],
    tuned?: Tuned,
  ): Promise<PromptScores> {
    return await this.#evaluate(
      label,
      backbone,
      prompts,
      { training: tuned?.key ?? null },
      tuned && `${tuned.folder}/${loraName}`,
    );
  }

  /** Draws one image per prompt with the base model, or with a tuned one. */
  async draw(
    label: string,
    backbone: Backbone,
    prompts: readonly string[],
    tuned?: Tuned,
  ): Promise<Images> {
    const { settings: { sampling }, device, reporter } = this.#options;
    const inputs = {
      device,
      base: backbone.sha256,
      training: tuned?.key ?? null,
      prompts: digestPrompts(prompts),
      sampling: { ...sampling },
    };
    const { folder, result } = await this.#run(`draw ${label}`, "draw", inputs, async (folder) => {
      const pipeline = await this.#model(backbone);
      const report = reporter.job(`draw ${label}`, "images");
      const { data, width, height, count } = await withLora(
        pipeline,
        tuned && `${tuned.folder}/${loraName}`,
        (lora) => drawImages(pipeline, prompts, sampling, lora, (n) => report(n, prompts.length)),
      );
      const strip = await sharp(data, { raw: { width, height: height * count, channels: 3 } })
        .png().toBuffer();
      await writeWhole(`${folder}/${samplesName}`, strip);
      return { width, height, count };
    });
    return { ...result, data: (await readStrip(`${folder}/${samplesName}`)).data };
  }

  /**
   * What a method is tuned with: searched for if the settings say so, else what an earlier search found,
   * else the defaults.
   */
  async hyperparameters(backbone: Backbone, method: MethodName): Promise<Hyperparameters> {
    const known = this.#chosen.get(backbone.name) ?? new Map<MethodName, Chosen>();
    this.#chosen.set(backbone.name, known);
    const found = known.get(method) ?? await this.#find(backbone, method);
    known.set(method, found);
    return found.values;
  }

  async #find(backbone: Backbone, method: MethodName): Promise<Chosen> {
    const { settings: { search, rank }, materials, results, reporter } = this.#options;
    const path = `${results}/search/${backbone.name}.json`;
    const key = (settings: Json) =>
      runKey("search", {
        base: backbone.sha256,
        data: materials.data.sha256,
        pickscore: scorerKey(materials.pickscore),
        hps: scorerKey(materials.hps),
        validation: digestPrompts(materials.prompts.validation),
        settings,
      });
    const stored = await readSearch(path);
    // A preset that searches wants its own search; the others take any with the same materials.
    const wanted = search ?? stored?.settings;
    const earlier = wanted && stored?.key === key({ ...wanted }) ? stored : undefined;
    const chosen = earlier?.chosen[method];
    if (chosen) return { values: chosen, from: chosenBySearch };
    if (!search) return { values: defaultHyperparameters(method), from: "the method's defaults" };
    const { data, seed, steps, batch } = search;
    const prompts = materials.prompts.validation.slice(0, search.prompts);
    const base = await this.evaluate(`${backbone.name} on validation prompts`, backbone, prompts);
    const trials: Trial[] = [];
    const grid = searchGrid(method);
    for (const [i, hyperparameters] of grid.entries()) {
      const label = `trial ${i + 1}/${grid.length} of ${labels[method]}, ${backbone.name}`;
      const tuning = { method, data, seed, steps, batch, rank, ...hyperparameters };
      const tuned = await this.tune(label, backbone, tuning);
      const scores = await this.evaluate(label, backbone, prompts, tuned);
      const trial = judgeTrial(method, hyperparameters, scores, base);
      reporter.say(`${label}: wins ${trial.winRate.toFixed(1)} % over the base`);
      trials.push(trial);
    }
    const best = choose(method, trials);
    const record: SearchRecord = {
      key: key({ ...search }),
      criterion,
      settings: search,
      trials: [...earlier?.trials ?? [], ...trials],
      chosen: { ...earlier?.chosen, [method]: best },
    };
    await Deno.mkdir(`${results}/search`, { recursive: true });
    await writeWhole(path, JSON.stringify(record, null, 1) + "\n");
    return { values: best, from: chosenBySearch };
  }

  /** Looks a run up or computes it, and notes it. */
  async #run<T extends Json>(
    label: string,
    kind: string,
    inputs: Json,
    compute: (folder: string) => Promise<T>,
  ): Promise<{ key: string; folder: string; result: T }> {
    const { record, reused } = await this.#store.run(kind, inputs, compute);
    const { key, result, ...note } = record;
    if (reused && !this.#notes.has(key)) this.#options.reporter.say(`${label}: done before`);
    this.#notes.set(key, { key, ...note });
    return { key, folder: this.#store.folderOf(key), result };
  }

  async #train(
    label: string,
    backbone: Backbone,
    tuning: Tuning,
    place: {
      folder: string;
      checkpointEvery: number;
      onLora?: (step: number, lora: string) => Promise<void>;
    },
  ) {
    const { reporter } = this.#options;
    const pairs = (await this.#trainingPairs(backbone))[tuning.data];
    const report = reporter.job(`train ${label}`, "steps");
    const metrics = await tune(tuning, await this.#model(backbone), pairs, {
      ...place,
      onProgress: async (last) => {
        await reporter.step?.(label, last);
        await report(last.step, tuning.steps, stepNote(last));
      },
    });
    return { pairs, metrics };
  }

  async #evaluate(
    label: string,
    backbone: Backbone,
    prompts: readonly string[],
    model: { readonly [key: string]: Json },
    lora: string | undefined | (() => never),
  ): Promise<PromptScores> {
    const { materials, settings: { sampling }, device, reporter } = this.#options;
    const inputs = {
      device,
      base: backbone.sha256,
      ...model,
      prompts: digestPrompts(prompts),
      sampling: { ...sampling },
      pickscore: scorerKey(materials.pickscore),
      hps: scorerKey(materials.hps),
      oracle: materials.oracle,
    };
    const { result } = await this.#run(`evaluate ${label}`, "evaluate", inputs, async () => {
      if (typeof lora === "function") return lora();
      const pipeline = await this.#model(backbone);
      const evaluator = this.#evaluators.get(backbone.name) ??
        await Evaluator.open(pipeline, materials);
      this.#evaluators.set(backbone.name, evaluator);
      const report = reporter.job(`evaluate ${label}`, "images");
      return await withLora(
        pipeline,
        lora,
        (adapter) =>
          evaluator.evaluate(prompts, sampling, adapter, (done) => report(done, prompts.length)),
      );
    });
    return result;
  }

  async #model({ name, path }: Backbone): Promise<Pipeline> {
    const pipeline = this.#pipelines.get(name) ?? await loadPipeline(path);
    this.#pipelines.set(name, pipeline);
    return pipeline;
  }

  async #trainingPairs(backbone: Backbone): Promise<Readonly<Record<Selection, PreferencePairs>>> {
    const { materials, settings: { search }, selections, results, reporter } = this.#options;
    const pairs = this.#pairs.get(backbone.name) ?? await trainingPairs(
      await this.#model(backbone),
      materials.data.path,
      search ? [...selections, search.data] : selections,
      {
        onProgress: reporter.job(`encode images and prompts for ${backbone.name}`, "items"),
        onReport: (lines) => lines.forEach((line) => reporter.say(line)),
        ...materials.data.large &&
          { cache: { folder: `${results}/cache`, flip: "none" as const, seed: 0 } },
      },
    );
    this.#pairs.set(backbone.name, pairs);
    return pairs;
  }
}

/** What determines a scorer's scores. */
const scorerKey = ({ kind, sha256 }: ScorerMaterial) =>
  kind === "cosine" ? sha256 : `${kind} ${sha256}`;

/** How many short trainings of each kind are timed. */
const timingRounds = 3;

/** The images of a set of drawings, one below the other. */
const samplesName = "samples.png";

/** The adapter's file in a training's folder. */
const loraName = "pytorch_lora_weights.safetensors";

/** Does something with an adapter, or without one, and frees it. */
async function withLora<T>(
  { unet }: Pipeline,
  path: string | undefined,
  work: (lora: LoraAdapter | undefined) => Promise<T>,
): Promise<T> {
  const lora = path === undefined ? undefined : await loadLora(path, unet.weights);
  try {
    return await work(lora);
  } finally {
    lora?.layers.forEach(({ down, up }) => [down, up].forEach((half) => half.dispose()));
  }
}

/** Reads a PNG as RGB. */
async function readStrip(path: string) {
  const { data, info } = await sharp(Buffer.from(await Deno.readFile(path))).removeAlpha().raw()
    .toBuffer({ resolveWithObject: true });
  return { data: new Uint8Array(data), width: info.width, height: info.height };
}

async function readSearch(path: string): Promise<SearchRecord | undefined> {
  try {
    return JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw new Error(`${path} cannot be read: delete it to search again`, { cause: error });
  }
}
