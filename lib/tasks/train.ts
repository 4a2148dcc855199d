/**
 * `deno task train`: tunes a LoRA on preference data.
 *
 * @module
 */
import { generate, loadPipeline, type Pipeline } from "../diffusion/mod.ts";
import { trainingPairs } from "../experiments/training_pairs.ts";
import { stepNote } from "../experiments/tune.ts";
import { loadLora } from "../nn/mod.ts";
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
    "Tune a LoRA on preference data; goes on where it was when the output folder has a checkpoint.",
  options: {
    recipe: choice(recipeNames, {
      description: "where options that are left out come from: " +
        recipeNames.map((name) => `${name} (${recipes[name].description})`).join("; "),
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
      description: "preference data in Pick-a-Pic v2's schema",
      placeholder: "FILE",
      default: "data/nano/preferences.parquet",
    }),
    filter: choice(["full", "filtered"], {
      description: "every decided pair, or only those won by an image that never lost or tied",
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
      description: "beta T of the mean-reduced loss; the method's usual value where no recipe says",
      min: 0,
    }),
    lambda: number({
      description: "weight of CPO's second term relative to beta; the method's usual value " +
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
      description: "prompt to draw at every checkpoint; prompts of the data unless given",
    }),
    samples: integer({
      description: "how many of the data's prompts to draw at every checkpoint",
      default: 4,
      min: 0,
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
  ],
};

type Options = Values<typeof command.options>;

/** What the recipe says, with what the command line says instead. */
function trainOptions(recipe: Recipe, options: Options): TrainOptions {
  const { method, steps, batch, accumulate, lr, warmup, beta, lambda, seed } = options;
  const { rank, targets, features, optimizer, recompute } = options;
  const given = {
    ...{ method, steps, batch, accumulate, learningRate: lr, warmup, beta, lambda },
    ...{ rank, targets, features, optimizer, recompute: recompute || undefined },
  };
  const said = Object.entries(given).filter(([, value]) => value !== undefined);
  const { beta: usual, ...training } = recipe.training;
  // A recipe's beta is that of its method: errors of another are of another size.
  const kept = method === undefined || method === training.method;
  return {
    ...training,
    ...kept && usual !== undefined && { beta: usual },
    ...Object.fromEntries(said),
    seed,
  };
}

/** Draws the prompts with an adapter, or without one. */
async function draw(
  pipeline: Pipeline,
  prompts: readonly string[],
  { sampling }: Recipe,
  lora: string | undefined,
) {
  const adapter = lora ? await loadLora(lora, pipeline.unet.weights) : undefined;
  const images = await generate(pipeline, prompts, {
    ...sampling,
    seed: 0,
    overlong: "truncate",
    ...adapter && { lora: adapter },
    onProgress: progressOf("draw samples", "steps"),
  });
  for (const { down, up } of adapter?.layers.values() ?? []) [down, up].forEach((t) => t.dispose());
  // The training needs the memory.
  pipeline.release();
  return images;
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const recipe: Recipe = recipes[options.recipe];
    const training = trainOptions(recipe, options);
    const filter = options.filter ?? "filtered";
    const { output } = options;
    await useDevice(options.device);
    const pipeline = await loadPipeline(options.base, {
      dtype: options.weights ?? recipe.weights,
      onProgress: byteProgress("load the model"),
    });
    const pairs = await trainingPairs(
      pipeline,
      options.data,
      [filter],
      {
        onRead: progressOf("read preferences", "rows"),
        onProgress: progressOf("encode images and prompts", "items"),
        onReport: (lines) => lines.forEach((line) => console.error(line)),
      },
    );
    const method: Method = methods[training.method];
    const settings: [string, string][] = [
      ["method", training.method],
      ["base model", options.base],
      ["data", `${options.data}, ${filter}: ${pairs[filter].length} pairs`],
      ["pairs per step", `${training.batch} x ${training.accumulate}`],
      ["learning rate", `${training.learningRate ?? method.learningRate}`],
      ["beta", `${training.beta ?? method.beta}`],
      ["LoRA", `rank ${training.rank}, ${training.targets}`],
      ["optimiser", training.optimizer ?? "adamw"],
    ];
    const report = async () => {
      await writeTrainingReport(`${output}/report.html`, {
        title: `${training.method}, ${options.base}`,
        settings,
        metrics: await loadMetrics(`${output}/metrics.jsonl`),
        samples: await savedSamples(output),
      });
    };
    const prompts = options["sample-prompt"].length > 0 ? options["sample-prompt"] : [];
    const sample = async (step: number, lora?: string) => {
      if (prompts.length > 0) {
        await saveSamples(output, step, prompts, await draw(pipeline, prompts, recipe, lora));
      }
      await report();
    };
    await Deno.mkdir(output, { recursive: true });
    if (!(await savedSamples(output)).some(({ step }) => step === 0)) await sample(0);
    const progress = progressOf(training.method, "steps");
    const { lora, metrics } = await train({
      base: pipeline.unet.weights,
      config: pipeline.unet.config,
      schedule: pipeline.schedule,
      pairs: pairs[filter],
      options: training,
      runDirectory: output,
      onMemory: (memory) => {
        settings.push(["memory", describeMemory(memory)]);
        console.error(`memory: ${describeMemory(memory)}`);
      },
      onProgress: (last) => progress(last.step, training.steps, stepNote(last)),
      onLora: sample,
    });
    console.log(
      `LoRA: ${lora} (${duration(metrics.at(-1)?.seconds ?? 0)} of training)\n` +
        `report: ${output}/report.html`,
    );
  });
}
