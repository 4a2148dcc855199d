/**
 * How much of an experiment is run: whether it works, an answer over a coffee, or the real thing.
 *
 * @module
 */
import { methods as preferenceMethods } from "../preference/mod.ts";
import type { Sampling } from "./evaluate.ts";
import type { Table1Data, Table1Method } from "./table1.ts";

/** What a method is tuned with. */
export type Hyperparameters = {
  /** Learning rate of AdamW. */
  readonly lr: number;
  /** beta T of the mean-reduced loss. */
  readonly beta: number;
};

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
  /** How hyperparameters are searched for; null takes what an earlier search found, or the defaults. */
  readonly search: SearchSettings | null;
}

/** The size of a search for hyperparameters. */
export type SearchSettings = {
  /** What is tried: as many trials for every method. */
  readonly grid: Readonly<Record<Table1Method, readonly Hyperparameters[]>>;
  readonly data: Table1Data;
  /** One that the comparison does not use. */
  readonly seed: number;
  readonly steps: number;
  readonly batch: number;
  /** Validation prompts. */
  readonly prompts: number;
};

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
    steps: 80,
    batch: 16,
    rank: 8,
    prompts: 100,
    sampling,
    search: null,
  },
  full: {
    description: "five seeds, and a search for hyperparameters; resumes after an interruption",
    seeds: [0, 1, 2, 3, 4],
    data: ["full", "filtered"],
    steps: 150,
    batch: 16,
    rank: 8,
    prompts: 200,
    sampling,
    search: {
      grid: { dpo: around("dpo"), "dpo-tw": around("dpo-tw"), "ncp-dpo": around("ncp-dpo") },
      data: "filtered",
      seed: 1000,
      steps: 60,
      batch: 16,
      prompts: 100,
    },
  },
} as const satisfies Record<string, Preset>;

/** The name of a preset. */
export type PresetName = keyof typeof presets;

/** What a method is tuned with when no search was made: its defaults. */
export const defaultHyperparameters: Readonly<Record<Table1Method, Hyperparameters>> = {
  dpo: defaultsOf("dpo"),
  "dpo-tw": defaultsOf("dpo-tw"),
  "ncp-dpo": defaultsOf("ncp-dpo"),
};

function defaultsOf(method: Table1Method): Hyperparameters {
  const { learningRate: lr, beta } = preferenceMethods[method];
  return { lr, beta };
}

/** The default, and the learning rate and beta each below and above it. */
function around(method: Table1Method): Hyperparameters[] {
  const { lr, beta } = defaultsOf(method);
  return [
    { lr, beta },
    { lr: lr / 2, beta },
    { lr: 2 * lr, beta },
    { lr, beta: beta / 4 },
    { lr, beta: 4 * beta },
  ];
}
