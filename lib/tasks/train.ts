/**
 * `deno task train`: tunes a LoRA on preference data.
 *
 * @module
 */
import { generate, loadPipeline, type Pipeline } from "../diffusion/mod.ts";
import {
  type Selection,
  selections,
  type TrainingPairs,
  trainingPairs,
} from "../experiments/training_pairs.ts";
import { stepNote } from "../experiments/tune.ts";
import { loadLora, loraFormats, saveLora } from "../nn/mod.ts";
import { byteProgress, duration, progressOf } from "../notebook/progress.ts";
import {
  describeMemory,
  featureChoices,
  loadMetrics,
  type Method,
  methodNames,
  methods,
  type Recipe,
  recipeNames,
  recipes,
  train,
  type TrainOptions,
} from "../preference/mod.ts";
import { useDevice } from "./device.ts";
import {
  choice,
  deviceOption,
  flag,
  integer,
  number,
  text,
  texts,
  type Values,
} from "./options.ts";
import { runCommand } from "./run_command.ts";
import { savedSamples, saveSamples, writeTrainingReport } from "./training_report.ts";

const command = {
  name: "train",
  summary:
    "Tune a LoRA on preference data; goes on where it was when the output folder has a checkpoint. " +
    "What is left out is as the recipe has it.",
  options: {
    recipe: choice(recipeNames, {
      description: "a training by name: " +
        recipeNames.map((name) => `${name}, ${recipes[name].description}`).join("; "),
      default: "nano",
    }),
    method: choice(methodNames, {
      description: "the objective; ncp- compares in the U-Net encoder's features, " +
        "dpo-tw is DPO under NCP's weighting of timesteps",
    }),
    base: text({
      description: "model: a folder in diffusers' layout, or a single .safetensors file",
      placeholder: "PATH",
      default: "data/nano/weak",
    }),
    data: text({
      description: "preference data in Pick-a-Pic v2's schema: a Parquet file, a folder of them, " +
        "or a pattern in quotes",
      placeholder: "PATH",
      default: "data/nano/preferences.parquet",
    }),
    filter: choice(Object.keys(selections) as [Selection, ...Selection[]], {
      description:
        "which pairs: every decided one, only those won by an image that never lost or " +
        "tied, or a set of an ablation",
    }),
    reading: choice(["code", "prose", "strict"], {
      description: "what makes such an image, see deno task curate; code unless given",
    }),
    opponent: choice(["first", "latest", "every"], {
      description: "which of the images it beat are its losers",
    }),
    limit: integer({ description: "the most pairs; the first are taken", min: 1 }),
    resolution: integer({ description: "side of the pictures in pixels", min: 8 }),
    fit: choice(["crop", "stretch"], {
      description: "how pictures are brought to it: the middle cut out, or all of it stretched",
    }),
    flip: choice(["none", "independent", "shared"], {
      description: "how pictures are mirrored: each by itself, or both of a pair alike",
    }),
    cache: text({
      description: "folder that keeps encoded pictures and prompts; runs may share one",
      placeholder: "DIR",
    }),
    steps: integer({ description: "optimiser steps", min: 1 }),
    batch: integer({ description: "pairs computed at once", min: 1 }),
    accumulate: integer({ description: "batches per optimiser step", min: 1 }),
    lr: number({
      description: "learning rate; the method's usual one where no recipe says",
      min: 0,
    }),
    warmup: integer({
      description: "steps of linear warm-up; a tenth of the steps where no recipe says",
      min: 0,
    }),
    beta: number({
      description: "beta T of the mean-reduced loss; the method's usual one where no recipe says",
      min: 0,
    }),
    lambda: number({
      description: "weight of CPO's second term relative to beta; the method's usual one " +
        "unless given",
      min: 0,
    }),
    rank: integer({ description: "rank of the LoRA", min: 1 }),
    targets: choice(["attention", "all"], {
      description:
        "layers that get a LoRA: attention projections, or feed-forward and convolutions too",
    }),
    features: choice(featureChoices, { description: "what the perceptual error compares" }),
    optimizer: choice(["adamw", "adamw8bit"], { description: "the optimiser" }),
    recompute: flag({
      description: "compute blocks again in the backward pass: less memory, a third more work",
    }),
    weights: choice(["stored", "f16"], {
      description: "how the frozen model is held: as in its files, or in 16 bits",
    }),
    seed: integer({ description: "seed of everything random", default: 0, min: 0 }),
    "sample-prompt": texts({
      description: "prompt to draw now and then, instead of the data's",
    }),
    samples: integer({
      description: "how many of the data's prompts to draw now and then",
      default: 4,
      min: 0,
    }),
    "sample-every": integer({ description: "steps from one drawing to the next", min: 1 }),
    "lora-format": choice(loraFormats, {
      description: "write the LoRA in this layout as well: kohya is for ComfyUI and A1111",
    }),
    output: text({
      description: "folder for the LoRA, the metrics, the checkpoint and the report",
      placeholder: "DIR",
      default: "runs/train",
    }),
    device: deviceOption,
  },
  examples: [
    "deno task train --method ncp-dpo --steps 100 --output runs/ncp",
    "deno task train --recipe sd15-ncp-dpo --base models/sd15 --data 'pickapic/*.parquet' " +
    "--output runs/sd15",
    "deno task train --recipe sdxl-ncp-dpo --batch 1 --accumulate 2048 " +
    "--base models/sd_xl_base_1.0.safetensors --data pickapic --output runs/sdxl",
  ],
};

type Options = Values<typeof command.options>;

/** The options that are there. */
function defined<T extends object>(options: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as { [K in keyof T]?: NonNullable<T[K]> };
}

/** What the recipe says, with what the command line says instead. */
function trainOptions(recipe: Recipe, options: Options): TrainOptions {
  const { method, steps, batch, accumulate, lr, warmup, beta, lambda, seed } = options;
  const { rank, targets, features, optimizer, recompute } = options;
  const { beta: usual, ...training } = recipe.training;
  // A recipe's beta is that of its method: errors of another are of another size.
  const kept = method === undefined || method === training.method;
  return {
    ...training,
    ...kept && defined({ beta: usual }),
    ...defined({ method, steps, batch, accumulate, learningRate: lr, warmup, beta, lambda }),
    ...defined({ rank, targets, features, optimizer }),
    ...recompute && { recompute },
    seed,
  };
}

/** Which pairs, and how their pictures are seen: part of what a run is. */
function dataOptions(recipe: Recipe, options: Options, pipeline: Pipeline) {
  const { reading, limit, cache, output } = options;
  const flip = options.flip ?? recipe.flip;
  const opponent = options.opponent ?? recipe.opponent;
  return {
    selection: options.filter ?? recipe.selection,
    curation: defined({ reading, opponent }),
    resolution: options.resolution ?? recipe.resolution ?? pipeline.resolution,
    fit: options.fit ?? recipe.fit,
    flip,
    // Mirrored pictures are drawn from the cache.
    cache: cache ?? (recipe.cached || flip !== "none" ? `${output}/cache` : undefined),
    ...defined({ limit }),
  };
}

type DataOptions = ReturnType<typeof dataOptions>;

async function readPairs(
  pipeline: Pipeline,
  { data, seed }: Options,
  { selection, cache, flip, ...wanted }: DataOptions,
): Promise<TrainingPairs> {
  const pairs = await trainingPairs(pipeline, data, [selection], {
    ...wanted,
    ...cache !== undefined && { cache: { folder: cache, flip, seed } },
    onRead: progressOf("read choices", "rows"),
    onProgress: progressOf("encode images and prompts", "items"),
    onReport: (lines) => lines.forEach((line) => console.error(line)),
  });
  return pairs[selection];
}

/** Draws the prompts with an adapter, or without one. */
async function draw(
  pipeline: Pipeline,
  prompts: readonly string[],
  { sampling }: Recipe,
  side: number,
  lora: string | undefined,
) {
  const adapter = lora ? await loadLora(lora, pipeline.unet.weights) : undefined;
  const { steps, guidanceScale } = sampling;
  const images = await generate(pipeline, prompts, {
    ...{ steps, guidanceScale },
    ...{ height: side, width: side, seed: 0, overlong: "truncate" },
    ...adapter && { lora: adapter },
    onProgress: progressOf("draw samples", "steps"),
  });
  for (const { down, up } of adapter?.layers.values() ?? []) [down, up].forEach((t) => t.dispose());
  // The training needs the memory.
  pipeline.release();
  return images;
}

/** What the report's page says of a training. */
function settingsOf(
  options: Options,
  training: TrainOptions,
  data: DataOptions,
  pairs: TrainingPairs,
): [string, string][] {
  const { method: name, batch = 1, accumulate = 1, learningRate, beta, features } = training;
  const method: Method = methods[name];
  const { reading, opponent } = data.curation;
  const chosen = [data.selection, reading, opponent].filter((word) => word !== undefined);
  return [
    ["method", features === undefined ? name : `${name}, features ${features}`],
    ["base model", options.base],
    ["data", `${options.data} (${chosen.join(", ")}): ${pairs.length} pairs`],
    ["pictures", `${data.resolution} pixels, fit: ${data.fit}, mirrored: ${data.flip}`],
    ["pairs per step", `${batch} x ${accumulate} = ${batch * accumulate}`],
    ["learning rate", `${learningRate ?? method.learningRate}`],
    ["beta", `${beta ?? method.beta}`],
    ["LoRA", `rank ${training.rank}, ${training.targets}`],
    ["optimiser", training.optimizer ?? "adamw"],
    ["seed", `${training.seed}`],
  ];
}

/** Writes the LoRA once more, in another layout. */
async function convertLora(
  path: string,
  { unet }: Pipeline,
  { output, "lora-format": format }: Options,
): Promise<string | undefined> {
  if (format === undefined || format === "diffusers") return undefined;
  const folder = `${output}/${format}`;
  await Deno.mkdir(folder, { recursive: true });
  // peft looks for this name.
  const name = format === "peft" ? "adapter_model" : "lora";
  const copy = `${folder}/${name}.safetensors`;
  await saveLora(copy, await loadLora(path, unet.weights), { format });
  return copy;
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const recipe: Recipe = recipes[options.recipe];
    const training = trainOptions(recipe, options);
    const { output } = options;
    await useDevice(options.device);
    const pipeline = await loadPipeline(options.base, {
      dtype: options.weights ?? recipe.weights,
      onProgress: byteProgress("load the model"),
    });
    const data = dataOptions(recipe, options, pipeline);
    const pairs = await readPairs(pipeline, options, data);
    const asked = options["sample-prompt"];
    const prompts = asked.length > 0 ? asked : pairs.prompts.slice(0, options.samples);
    const settings = settingsOf(options, training, data, pairs);
    await Deno.mkdir(output, { recursive: true });
    const page = `${output}/report.html`;
    const every = options["sample-every"] ?? recipe.sampling.every;
    const sample = async (step: number, lora?: string) => {
      if (prompts.length > 0 && (step % every === 0 || step === training.steps)) {
        const images = await draw(pipeline, prompts, recipe, data.resolution, lora);
        await saveSamples(output, step, prompts, images);
      }
      await writeTrainingReport(page, {
        title: `${training.method}, ${options.base}`,
        settings,
        metrics: await loadMetrics(`${output}/metrics.jsonl`),
        samples: await savedSamples(output),
      });
    };
    if (!(await savedSamples(output)).some(({ step }) => step === 0)) await sample(0);
    const { steps, accumulate = 1 } = training;
    const progress = progressOf(training.method, accumulate > 1 ? "batches" : "steps");
    let note = "";
    const { cache: _, ...identity } = data;
    const { lora, metrics } = await train({
      base: pipeline.unet.weights,
      config: pipeline.unet.config,
      schedule: pipeline.schedule,
      pairs,
      data: identity,
      options: training,
      runDirectory: output,
      onMemory: (memory) => {
        settings.push(["memory", describeMemory(memory)]);
        console.error(`memory: ${describeMemory(memory)}`);
      },
      onProgress: (last) => {
        note = accumulate > 1 ? `step ${last.step}, ${stepNote(last)}` : stepNote(last);
        return progress(last.step * accumulate, steps * accumulate, note);
      },
      ...accumulate > 1 && {
        // The last batch is told with its step.
        onBatch: (done, total) => done < total ? progress(done, total, note) : undefined,
      },
      onLora: sample,
    });
    console.log(`LoRA: ${lora} (${duration(metrics.at(-1)?.seconds ?? 0)} of training)`);
    const copy = await convertLora(lora, pipeline, options);
    if (copy) console.log(`in the layout of ${options["lora-format"]}: ${copy}`);
    console.log(`report: ${page}`);
  });
}
