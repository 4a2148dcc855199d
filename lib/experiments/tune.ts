/**
 * One training of an experiment: what determines it, and how the trainer is called.
 *
 * @module
 */
import { train } from "../preference/mod.ts";
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

/** What is recorded of a training. */
export type TuneResult = {
  readonly firstLoss: number;
  readonly lastLoss: number;
  readonly seconds: number;
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

/**
 * Trains, or goes on with an interrupted training.
 *
 * @param tuning The settings.
 * @param materials Base model and data.
 * @param folder Where the trainer keeps its checkpoint, its metrics and in the end the LoRA.
 * @param onProgress Called after each step.
 */
export async function tune(
  tuning: Tuning,
  materials: Materials,
  folder: string,
  onProgress: (step: number, note?: string) => void,
): Promise<TuneResult> {
  const { data, ...settings } = tuning;
  const { firstLoss, lastLoss, seconds } = await train({
    ...settings,
    base: materials.base.path,
    data: materials.data.path,
    filter: data,
    output: folder,
    onProgress,
  });
  return { firstLoss, lastLoss, seconds };
}
