/**
 * How much of an experiment is run: whether it works, an answer over a coffee, or the real thing.
 *
 * @module
 */
import type { Sampling } from "./evaluate.ts";
import type { Table1Data, Table1Method } from "./table1.ts";

/** What a method is tuned with. */
export interface Hyperparameters {
  /** Learning rate of AdamW. */
  readonly lr: number;
  /** beta T of the mean-reduced loss. */
  readonly beta: number;
}

/** The size of an experiment. */
export interface Preset {
  readonly description: string;
  readonly seeds: readonly number[];
  readonly data: readonly Table1Data[];
  /** Optimiser steps. */
  readonly steps: number;
  /** Pairs per step. */
  readonly batch: number;
  /** Rank of the LoRA. */
  readonly rank: number;
  /** Held-out prompts to compare by. */
  readonly prompts: number;
  readonly sampling: Sampling;
  /** The search for hyperparameters: validation prompts per trial; null uses what was found before. */
  readonly search: { readonly prompts: number } | null;
}

const sampling: Sampling = { steps: 12, guidanceScale: 4, seed: 1_000_000 };

/** The presets by name. */
export const presets = {
  smoke: {
    description: "only whether everything runs, under 2 minutes",
    seeds: [0],
    data: ["filtered"],
    steps: 4,
    batch: 4,
    rank: 8,
    prompts: 6,
    sampling: { ...sampling, steps: 4 },
    search: null,
  },
  quick: {
    description: "one seed, 10 minutes or less on 2 cores",
    seeds: [0],
    data: ["full", "filtered"],
    steps: 100,
    batch: 8,
    rank: 8,
    prompts: 100,
    sampling,
    search: null,
  },
  full: {
    description: "five seeds, and a search for hyperparameters; resumes after an interruption",
    seeds: [0, 1, 2, 3, 4],
    data: ["full", "filtered"],
    steps: 200,
    batch: 16,
    rank: 8,
    prompts: 200,
    sampling,
    search: { prompts: 60 },
  },
} as const satisfies Record<string, Preset>;

/** The name of a preset. */
export type PresetName = keyof typeof presets;

/** Where a method starts when no search was made: the values of the prototype. */
export const defaultHyperparameters: Readonly<Record<Table1Method, Hyperparameters>> = {
  dpo: { lr: 1e-3, beta: 2_000 },
  "dpo-tw": { lr: 1e-3, beta: 1e6 },
  "ncp-dpo": { lr: 1e-3, beta: 1e6 },
};

/** What the search tries: as many trials for every method. */
export const searchGrid: Readonly<Record<Table1Method, readonly Hyperparameters[]>> = {
  dpo: grid([5e-4, 1e-3, 2e-3], [1_000, 4_000]),
  "dpo-tw": grid([5e-4, 1e-3, 2e-3], [3e5, 1e6]),
  "ncp-dpo": grid([5e-4, 1e-3, 2e-3], [3e5, 1e6]),
};

function grid(rates: readonly number[], betas: readonly number[]): Hyperparameters[] {
  return rates.flatMap((lr) => betas.map((beta) => ({ lr, beta })));
}
