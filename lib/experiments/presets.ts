/**
 * How much of an experiment is run: whether it works, an answer over a coffee, or the real thing.
 *
 * @module
 */
import type { Sampling } from "./evaluate.ts";
import type { SearchSettings } from "./search.ts";

/** The presets' names. */
export const presetNames = ["smoke", "quick", "full"] as const;
/** The name of a preset. */
export type PresetName = (typeof presetNames)[number];

/** The size of an experiment. */
export interface Settings {
  /** One training of every kind for each. */
  readonly seeds: readonly number[];
  /** Optimiser steps. */
  readonly steps: number;
  /** Pairs per step. */
  readonly batch: number;
  /** Rank of the LoRA. */
  readonly rank: number;
  /** Prompts to compare by. */
  readonly prompts: number;
  readonly sampling: Sampling;
  /** How hyperparameters are searched for; null takes what an earlier search found, or the defaults. */
  readonly search: SearchSettings | null;
}

const sampling: Sampling = { steps: 12, guidanceScale: 4, seed: 1_000_000 };

/** What all experiments have in common; each adds to it. */
export const presets = {
  smoke: {
    seeds: [0],
    steps: 4,
    batch: 4,
    rank: 8,
    prompts: 6,
    sampling: { ...sampling, steps: 4 },
    search: null,
  },
  quick: {
    seeds: [0],
    steps: 80,
    batch: 16,
    rank: 8,
    prompts: 100,
    sampling,
    search: null,
  },
  full: {
    seeds: [0, 1, 2, 3, 4],
    steps: 150,
    batch: 16,
    rank: 8,
    prompts: 200,
    sampling,
    search: { data: "filtered", seed: 1000, steps: 60, batch: 16, prompts: 100 },
  },
} as const satisfies Record<PresetName, Settings>;

/** The presets in words. */
export const presetDescriptions: Readonly<Record<PresetName, string>> = {
  smoke: "only whether everything runs, about a minute",
  quick: "one seed, minutes on 2 cores",
  full: "five seeds or more, and a search for hyperparameters; resumes after an interruption",
};
