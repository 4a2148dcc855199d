/**
 * `deno task train`: tunes a LoRA on preference data.
 *
 * @module
 */
import { loadPipeline } from "../diffusion/mod.ts";
import { trainingPairs } from "../experiments/training_pairs.ts";
import { stepNote } from "../experiments/tune.ts";
import { featureChoices, methodNames, train } from "../preference/mod.ts";
import { useDevice } from "./device.ts";
import { choice, deviceOption, integer, number, text } from "./options.ts";
import { duration, progressOf } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";

const command = {
  name: "train",
  summary:
    "Tune a LoRA on preference data; goes on where it was when the output folder has a checkpoint.",
  options: {
    method: choice(methodNames, {
      description: "the objective; ncp- compares in the U-Net encoder's features, " +
        "dpo-tw is DPO under NCP's weighting of timesteps",
      default: "ncp-dpo",
    }),
    base: text({
      description: "model folder in diffusers' layout",
      placeholder: "DIR",
      default: "data/nano/weak",
    }),
    data: text({
      description: "preference data in Pick-a-Pic v2's schema",
      placeholder: "FILE",
      default: "data/nano/preferences.parquet",
    }),
    filter: choice(["full", "filtered"], {
      description: "every decided pair, or only those won by an image that never lost or tied",
      default: "filtered",
    }),
    steps: integer({ description: "optimiser steps", default: 100, min: 1 }),
    batch: integer({ description: "pairs computed at once", default: 8, min: 1 }),
    accumulate: integer({ description: "batches per optimiser step", default: 1, min: 1 }),
    lr: number({ description: "learning rate; the method's usual one unless given", min: 0 }),
    warmup: integer({
      description: "steps of linear warm-up; a tenth of the steps unless given",
      min: 0,
    }),
    beta: number({
      description: "beta T of the mean-reduced loss; the method's usual value unless given",
      min: 0,
    }),
    lambda: number({
      description: "weight of CPO's second term relative to beta; the method's usual value " +
        "unless given",
      min: 0,
    }),
    rank: integer({ description: "rank of the LoRA", default: 8, min: 1 }),
    targets: choice(["attention", "all"], {
      description:
        "layers that get a LoRA: attention projections, or feed-forward and convolutions too",
      default: "all",
    }),
    features: choice(featureChoices, {
      description: "what the perceptual error compares",
      default: "down",
    }),
    optimizer: choice(["adamw", "adamw8bit"], { description: "the optimiser", default: "adamw" }),
    seed: integer({ description: "seed of everything random", default: 0, min: 0 }),
    output: text({
      description: "folder for the LoRA, the metrics and the checkpoint",
      placeholder: "DIR",
      default: "runs/train",
    }),
    device: deviceOption,
  },
  examples: [
    "deno task train --method ncp-dpo --steps 100 --output runs/ncp",
    "deno task train --base models/sd15 --data pickapic.parquet --rank 64 --lr 1e-5 --output runs/sd15",
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { method, steps, warmup, beta, lambda, filter, lr: learningRate } = options;
    await useDevice(options.device);
    const pipeline = await loadPipeline(options.base);
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
    const { batch, accumulate, rank, targets, features, optimizer, seed } = options;
    const report = progressOf(method, "steps");
    const { lora, metrics } = await train({
      base: pipeline.unet.weights,
      config: pipeline.unet.config,
      schedule: pipeline.schedule,
      pairs: pairs[filter],
      options: {
        ...{ method, steps, batch, accumulate, rank, targets, features, optimizer, seed },
        ...(learningRate === undefined ? {} : { learningRate }),
        ...(warmup === undefined ? {} : { warmup }),
        ...(beta === undefined ? {} : { beta }),
        ...(lambda === undefined ? {} : { lambda }),
      },
      runDirectory: options.output,
      onProgress: (last) => report(last.step, steps, stepNote(last)),
    });
    console.log(`LoRA: ${lora} (${duration(metrics.at(-1)?.seconds ?? 0)} of training)`);
  });
}
