/**
 * One training of an experiment: what determines it, and what is recorded of it.
 *
 * @module
 */
import type { Pipeline } from "../diffusion/mod.ts";
import { mean } from "../evaluation/statistics.ts";
import type { LoraTargets } from "../nn/mod.ts";
import {
  type FeatureChoice,
  type MethodName,
  type NextTimestep,
  type PreferencePairs,
  type StepMetrics,
  train,
} from "../preference/mod.ts";
import type { Materials } from "./materials.ts";
import type { Json } from "./run.ts";
import type { Selection } from "./training_pairs.ts";

/** What a method is tuned with. */
export type Hyperparameters = {
  /** Learning rate of AdamW. */
  readonly lr: number;
  /** beta T of the mean-reduced loss. */
  readonly beta: number;
};

/** The settings of a training. What is left out is the trainer's default. */
export interface Tuning extends Hyperparameters {
  readonly method: MethodName;
  readonly data: Selection;
  readonly seed: number;
  /** Optimiser steps. */
  readonly steps: number;
  /** Pairs per step. */
  readonly batch: number;
  readonly rank: number;
  readonly features?: FeatureChoice;
  readonly nextTimestep?: NextTimestep;
  readonly targets?: LoraTargets;
}

/** A stretch of a training: means over its steps. */
export type CurvePoint = {
  /** The stretch's last step. */
  readonly step: number;
  readonly loss: number;
  /** Standard deviation of what is inside the sigmoid. */
  readonly logitStd: number;
  /** Share of pairs whose winner is preferred. */
  readonly accuracy: number;
};

/** What is recorded of a training. */
export type TuneResult = {
  readonly pairs: number;
  /** Time spent in steps, interruptions left out. */
  readonly seconds: number;
  readonly curve: readonly CurvePoint[];
};

/** Everything that determines a training's outcome. */
export function tuningInputs(
  tuning: Tuning,
  base: string,
  materials: Materials,
  device: string,
): { readonly [key: string]: Json } {
  return { ...tuning, device, base, preferences: materials.data.sha256 };
}

/** Where a training happens, and who is told of it. */
export interface TuningPlace {
  /** Where the trainer keeps its checkpoint, its metrics and in the end the LoRA. */
  readonly folder: string;
  /** Steps between checkpoints: what an interruption costs at most. */
  readonly checkpointEvery: number;
  /** Called every few steps. */
  readonly onProgress: (metrics: StepMetrics) => Promise<void>;
  /** Given every adapter that is saved, see `Training.onLora`. */
  readonly onLora?: (step: number, lora: string) => Promise<void>;
}

/**
 * Trains, or goes on with an interrupted training.
 *
 * @param tuning The settings.
 * @param pipeline The base model.
 * @param pairs What it is tuned on.
 * @param place Where.
 * @returns The metrics of every step.
 */
export async function tune(
  { lr, data: _, ...tuning }: Tuning,
  { unet, schedule }: Pipeline,
  pairs: PreferencePairs,
  { folder, checkpointEvery, ...told }: TuningPlace,
): Promise<readonly StepMetrics[]> {
  const { metrics } = await train({
    base: unet.weights,
    config: unet.config,
    schedule,
    pairs,
    options: { ...tuning, learningRate: lr, checkpointEvery },
    runDirectory: folder,
    ...told,
  });
  return metrics;
}

/** What is recorded of a training with these metrics. */
export function tuneResult(pairs: PreferencePairs, metrics: readonly StepMetrics[]): TuneResult {
  return { pairs: pairs.length, seconds: metrics.at(-1)!.seconds, curve: curveOf(metrics) };
}

/** What a progress line says of a step. */
export function stepNote({ loss, logitStd }: StepMetrics): string {
  return `loss ${loss.toPrecision(4)}` +
    (logitStd === undefined ? "" : `, logit spread ${logitStd.toPrecision(2)}`);
}

/** The durations of steps in seconds, without the first, which compiles. */
export function stepDurations(metrics: readonly StepMetrics[]): number[] {
  return metrics.slice(1).map(({ seconds }, i) => seconds - metrics[i]!.seconds);
}

/**
 * A training in at most ten points.
 *
 * @param metrics Of every step.
 */
export function curveOf(metrics: readonly StepMetrics[]): CurvePoint[] {
  const stretch = Math.ceil(metrics.length / 10);
  const starts = Array.from({ length: Math.ceil(metrics.length / stretch) }, (_, i) => i * stretch);
  return starts.map((start) => {
    const part = metrics.slice(start, start + stretch);
    return {
      step: part[part.length - 1]!.step,
      loss: mean(part.map((line) => line.loss)),
      logitStd: mean(part.map((line) => line.logitStd ?? 0)),
      accuracy: mean(part.map((line) => line.accuracy ?? 0)),
    };
  });
}
