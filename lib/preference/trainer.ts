/**
 * Tuning a model on preferences: draw a batch, take a step, write down what happened, and now and
 * then a checkpoint.
 *
 * A run lives in a folder: `checkpoint.safetensors` (adapter, optimiser, step; replaced whole),
 * `metrics.jsonl`, and `pytorch_lora_weights.safetensors`, the adapter as diffusers reads it. Killed at
 * any moment and started again it goes on from the checkpoint, to the same bits as if it had not been.
 *
 * @module
 */
import type { UNetConfig } from "../diffusion/config.ts";
import type { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import { clipGradNorm } from "../nn/clip_grad_norm.ts";
import type { LoraTargets } from "../nn/lora.ts";
import { saveLora } from "../nn/lora_file.ts";
import { linearWarmup } from "../nn/warmup.ts";
import type { Weights } from "../nn/weights.ts";
import {
  getDevice,
  grad,
  jit,
  leavesOf,
  type Tensor,
  tensor,
  type Tree,
  zeros,
} from "../tensor/mod.ts";
import { type GroupState, type OptimizerName, PackedLora } from "./adapter.ts";
import { Batches } from "./batches.ts";
import type { NextTimestep } from "./errors.ts";
import { loadCheckpoint, type RunIdentity, saveCheckpoint } from "../nn/checkpoint.ts";
import type { FeatureChoice } from "./features.ts";
import { type PreferenceBatch, preferenceLoss } from "./loss.ts";
import { checkMemory, type TrainingMemory, trainingMemory } from "./memory.ts";
import { type Method, type MethodName, methods } from "./method.ts";
import {
  appendMetrics,
  METRIC_COLUMNS,
  metricsRow,
  readMetrics,
  type StepMetrics,
  truncateMetrics,
} from "./metrics.ts";
import type { PreferencePairs } from "./pairs.ts";
import { measureTimestepWeight } from "./timestep_weight.ts";

/** What can be chosen of a training. The defaults are those of the nano lineage. */
export interface TrainOptions {
  readonly method: MethodName;
  /** Optimiser steps. */
  readonly steps: number;
  /** Pairs per batch; default 16. */
  readonly batch?: number;
  /** Batches per optimiser step; default 1. */
  readonly accumulate?: number;
  /** Default: the method's. */
  readonly learningRate?: number;
  /** Steps of linear warm-up; default a tenth of all. */
  readonly warmup?: number;
  /** The largest norm that the gradient may have; default 1. */
  readonly maxGradNorm?: number;
  /** Rank of the LoRA; default 8. */
  readonly rank?: number;
  /** Layers of the LoRA; default `all`. */
  readonly targets?: LoraTargets;
  /** The factor in front of mean-reduced errors; default: the method's. */
  readonly beta?: number;
  /** CPO's weight of the winner's error relative to beta; default: the method's. */
  readonly lambda?: number;
  /** What f returns; default `down`. */
  readonly features?: FeatureChoice;
  /** Where the perceptual error's reverse step leads; default `previous`. */
  readonly nextTimestep?: NextTimestep;
  /** Default `adamw`. */
  readonly optimizer?: OptimizerName;
  /** Whether the backward pass computes the U-Net's blocks again, which saves memory; default false. */
  readonly recompute?: boolean;
  /** Default 0. */
  readonly seed?: number;
  /** Steps between checkpoints; default 50. There is always one at the end. */
  readonly checkpointEvery?: number;
  /** Steps between readings of the metrics; default 10. */
  readonly logEvery?: number;
}

/** A training: the model, the data, the choices, and where it lives. */
export interface Training {
  /** The base U-Net's weights, frozen. */
  readonly base: Weights;
  readonly config: UNetConfig;
  readonly schedule: NoiseSchedule;
  readonly pairs: PreferencePairs;
  /** How the pairs came about: an interrupted run goes on with the same only. */
  readonly data?: RunIdentity;
  readonly options: TrainOptions;
  /** The run's folder; made if it is missing. */
  readonly runDirectory: string;
  /** Told of the last step whenever metrics have been read. */
  readonly onProgress?: (metrics: StepMetrics) => void | Promise<void>;
  /** Told after every batch how many of the run are done, and of how many. */
  readonly onBatch?: (done: number, total: number) => void | Promise<void>;
  /** Told what memory the training will take, before it takes it. */
  readonly onMemory?: (memory: TrainingMemory) => void;
  /**
   * Given each adapter that is saved, while it is there and before the checkpoint: after an interruption
   * in it the adapter is trained and given again. Its time does not count as training time.
   */
  readonly onLora?: (step: number, lora: string) => Promise<void>;
}

/** What a training leaves, beside its folder. */
export interface TrainResult {
  /** Of every step, those before an interruption included. */
  readonly metrics: readonly StepMetrics[];
  /** The path of the adapter. */
  readonly lora: string;
}

/** Everything that lives on the device from step to step. */
type State = {
  readonly groups: readonly GroupState[];
  /** Sums of the batches' gradients, one per group. */
  readonly gradients: readonly Tensor[];
  /** Metrics [logEvery, columns] and gradient norms [logEvery, 1], a row per step. */
  readonly metrics: Tensor;
  readonly norms: Tensor;
};

/** A step's new state; its numbers stay in the rings. */
type Stepped = { readonly state: State; readonly result: readonly [] };

/** Where a ring keeps its values and where it takes new ones, [logEvery, 1] each. */
type Slot = { readonly keep: Tensor; readonly take: Tensor };

/**
 * Trains, or goes on with what the folder holds.
 *
 * @throws {Error} If the folder holds a run with other options, data and options do not fit, the device
 * cannot hold the training, or the loss is no longer a finite number.
 */
export async function train(training: Training): Promise<TrainResult> {
  const { base, config, schedule, pairs, runDirectory, onProgress, onMemory, onLora } = training;
  const options = resolve(training);
  const { method, steps, accumulate, logEvery } = options;
  await base.realize();
  await Deno.mkdir(runDirectory, { recursive: true });
  const checkpointPath = `${runDirectory}/checkpoint.safetensors`;
  const metricsPath = `${runDirectory}/metrics.jsonl`;
  const loraPath = `${runDirectory}/pytorch_lora_weights.safetensors`;

  const adapter = new PackedLora(base, options);
  const start = adapter.start();
  // What determines the numbers of a run: not how long it is, how often it is looked at, or its memory.
  const { steps: _steps, logEvery: _log, checkpointEvery: _every, recompute, ...chosen } = options;
  const identity = { ...chosen, pairs: pairs.length, ...training.data };
  const found = await loadCheckpoint(checkpointPath, start, identity);
  const done = found?.step ?? 0;
  const metrics = await truncateMetrics(metricsPath, done);
  if (done >= steps) return { metrics, lora: loraPath };

  const groups = found?.state ?? start;
  const state: State = {
    groups,
    gradients: groups.map((group) => zeros(group.parameters.shape)),
    metrics: zeros([logEvery, METRIC_COLUMNS]),
    norms: zeros([logEvery, 1]),
  };
  const batches = new Batches({
    pairs,
    schedule,
    method,
    size: options.batch,
    seed: options.seed,
    nextTimestep: options.nextTimestep,
    timestepWeight: method.weighted
      ? await measureTimestepWeight({
        ...{ base, config, schedule, pairs },
        features: options.features,
        batch: 2 * options.batch,
        seed: options.seed,
      })
      : undefined,
  });

  /** Adds one batch's gradient and metrics to their sums. */
  const learn = jit((s: State, { batch, keep, take }: Slot & { readonly batch: Tree }): Stepped => {
    const lora = adapter.lora(s.groups.map((group) => group.parameters));
    const value = preferenceLoss(
      { base, config, lora },
      batch as unknown as PreferenceBatch,
      { ...method, features: options.features, recompute },
    );
    const scaled = value.loss.mul(method.lossScale / accumulate);
    const gradients = adapter.gradients(lora, (parameters) => grad(scaled, parameters));
    return {
      state: {
        ...s,
        gradients: s.gradients.map((sum, i) => sum.add(gradients[i]!)),
        metrics: s.metrics.mul(keep).add(metricsRow(value).mul(take)),
      },
      result: [],
    };
  });
  /** Takes the optimiser's step with the gradients gathered. */
  const update = jit(
    (s: State, { rate, keep, take }: Slot & { readonly rate: Tensor }): Stepped => {
      const clipped = clipGradNorm(s.gradients, options.maxGradNorm);
      return {
        state: {
          ...s,
          groups: adapter.update(s.groups, clipped.gradients, rate),
          gradients: s.gradients.map((sum) => zeros(sum.shape)),
          norms: s.norms.mul(keep).add(clipped.norm.mul(take)),
        },
        result: [],
      };
    },
  );

  let waiting: Pick<StepMetrics, "step" | "learningRate" | "seconds">[] = [];
  /** Reads the rings and writes down the steps that they hold. */
  const flush = async () => {
    const rows = await state.metrics.data();
    const norms = await state.norms.data();
    const lines = waiting.map((line) => {
      const at = (line.step - 1) % logEvery;
      const row = rows.subarray(at * METRIC_COLUMNS, (at + 1) * METRIC_COLUMNS);
      return readMetrics(row, method.objective, { ...line, gradientNorm: norms[at]! });
    });
    waiting = [];
    checkFinite(lines, training);
    await appendMetrics(metricsPath, lines);
    metrics.push(...lines);
    await onProgress?.(lines[lines.length - 1]!);
  };

  try {
    const memory = trainingMemory(
      getDevice(),
      learn.memory(state, {
        batch: await batches.draw(done * accumulate) as unknown as Tree,
        ...slot(logEvery, 0, { first: true, share: 1 }),
      }),
      update.memory(state, {
        rate: adapter.rate(1, 0),
        ...slot(logEvery, 0, { first: true, share: 1 }),
      }),
    );
    onMemory?.(memory);
    checkMemory(getDevice(), memory);
    let began = performance.now() - 1000 * (metrics.at(-1)?.seconds ?? 0);
    for (let step = done + 1; step <= steps; step++) {
      const at = (step - 1) % logEvery;
      for (let i = 0; i < accumulate; i++) {
        const batch = await batches.draw((step - 1) * accumulate + i);
        await learn(state, {
          batch: batch as unknown as Tree,
          ...slot(logEvery, at, { first: i === 0, share: 1 / accumulate }),
        });
        await training.onBatch?.((step - 1) * accumulate + i + 1, steps * accumulate);
      }
      const learningRate = linearWarmup(step, options.learningRate, options.warmup);
      await update(state, {
        rate: adapter.rate(step, learningRate),
        ...slot(logEvery, at, { first: true, share: 1 }),
      });
      waiting.push({ step, learningRate, seconds: (performance.now() - began) / 1000 });

      const save = step === steps || step % options.checkpointEvery === 0;
      if (save || at === logEvery - 1) await flush();
      if (save) {
        await saveLora(loraPath, await adapter.read(state.groups));
        const paused = performance.now();
        await onLora?.(step, loraPath);
        began += performance.now() - paused;
        await saveCheckpoint(checkpointPath, step, state.groups, identity);
      }
    }
    return { metrics, lora: loraPath };
  } finally {
    learn.dispose();
    update.dispose();
    for (const leaf of leavesOf(state)) leaf.dispose();
  }
}

/** The row of a ring that a step adds to; what an earlier round left there goes with its first batch. */
function slot(rows: number, at: number, add: { first: boolean; share: number }): Slot {
  const keep = new Float32Array(rows).fill(1);
  const take = new Float32Array(rows);
  if (add.first) keep[at] = 0;
  take[at] = add.share;
  return { keep: tensor(keep, [rows, 1]), take: tensor(take, [rows, 1]) };
}

/** Fills in the defaults and checks that options, model and data fit each other. */
function resolve({ options, pairs, config, schedule }: Training) {
  const { steps, method: name } = options;
  const defaults: Method = methods[name];
  const resolved = {
    name,
    method: {
      ...defaults,
      beta: options.beta ?? defaults.beta,
      lambda: options.lambda ?? defaults.lambda,
    },
    steps,
    batch: options.batch ?? 16,
    accumulate: options.accumulate ?? 1,
    learningRate: options.learningRate ?? defaults.learningRate,
    warmup: options.warmup ?? Math.ceil(steps / 10),
    maxGradNorm: options.maxGradNorm ?? 1,
    rank: options.rank ?? 8,
    targets: options.targets ?? "all",
    features: options.features ?? "down",
    nextTimestep: options.nextTimestep ?? "previous",
    optimizer: options.optimizer ?? "adamw",
    recompute: options.recompute ?? false,
    seed: options.seed ?? 0,
    checkpointEvery: options.checkpointEvery ?? 50,
    logEvery: options.logEvery ?? 10,
  };
  for (const key of ["steps", "batch", "accumulate", "checkpointEvery", "logEvery"] as const) {
    if (!Number.isInteger(resolved[key]) || resolved[key] < 1) {
      throw new RangeError(`the option ${key} must be a positive integer, not ${resolved[key]}`);
    }
  }
  if (pairs.length === 0) throw new RangeError("there are no preference pairs to train on");
  const [, , channels] = pairs.latentShape;
  if (channels !== config.in_channels) {
    throw new RangeError(
      `the latents have ${channels} channels, but the U-Net takes ${config.in_channels}: ` +
        `encode the images with the VAE of the same model`,
    );
  }
  if (schedule.predictionType !== "epsilon") {
    throw new Error(
      `the preference losses need a model that predicts epsilon, ` +
        `but the scheduler's prediction_type is ${schedule.predictionType}`,
    );
  }
  return resolved;
}

function checkFinite(lines: readonly StepMetrics[], { options, runDirectory }: Training): void {
  const bad = lines.find((line) => !Number.isFinite(line.loss + line.gradientNorm));
  if (!bad) return;
  throw new Error(
    `${options.method}: at step ${bad.step} the loss is ${bad.loss} and the gradient's norm ` +
      `${bad.gradientNorm}: lower the learning rate (${bad.learningRate}) or beta; ` +
      `${runDirectory} keeps the last checkpoint`,
  );
}
