/**
 * One training of an experiment: what determines it, and what is recorded of it.
 *
 * @module
 */
import type { Pipeline } from "../diffusion/mod.ts";
import { mean } from "../evaluation/statistics.ts";
import { type PreferencePairs, type StepMetrics, train } from "../preference/mod.ts";
import type { Materials } from "./materials.ts";
import type { Json } from "./run.ts";
import type { Table1Data, Table1Method } from "./table1.ts";

/** The settings of a training. */
export interface Tuning {
  readonly method: Table1Method;
  readonly data: Table1Data;
  readonly seed: number;
  /** Learning rate. */
  readonly lr: number;
  /** beta T of the mean-reduced loss. */
  readonly beta: number;
  /** Optimiser steps. */
  readonly steps: number;
  /** Pairs per step. */
  readonly batch: number;
  readonly rank: number;
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
export function tuningInputs(tuning: Tuning, materials: Materials, device: string): Json {
  return {
    ...tuning,
    device,
    base: materials.base.sha256,
    preferences: materials.data.sha256,
  };
}

/** Steps between checkpoints: what an interruption costs at most. */
const checkpointEvery = 20;

/**
 * Trains, or goes on with an interrupted training.
 *
 * @param tuning The settings.
 * @param pipeline The base model.
 * @param pairs What it is tuned on.
 * @param folder Where the trainer keeps its checkpoint, its metrics and in the end the LoRA.
 * @param onProgress Called every few steps.
 */
export async function tune(
  tuning: Tuning,
  pipeline: Pipeline,
  pairs: PreferencePairs,
  folder: string,
  onProgress: (step: number, note?: string) => void,
): Promise<TuneResult> {
  const { method, seed, lr, beta, steps, batch, rank } = tuning;
  const { metrics } = await train({
    base: pipeline.unet.weights,
    config: pipeline.unet.config,
    schedule: pipeline.schedule,
    pairs,
    options: { method, seed, learningRate: lr, beta, steps, batch, rank, checkpointEvery },
    runDirectory: folder,
    onProgress: (last) => onProgress(last.step, stepNote(last)),
  });
  return { pairs: pairs.length, seconds: metrics.at(-1)!.seconds, curve: curveOf(metrics) };
}

/** What a progress line says of a step. */
export function stepNote({ loss, logitStd }: StepMetrics): string {
  return `loss ${loss.toPrecision(4)}` +
    (logitStd === undefined ? "" : `, logit spread ${logitStd.toPrecision(2)}`);
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
