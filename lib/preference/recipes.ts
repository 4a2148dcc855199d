/**
 * Recipes: everything that a training is made with, under a name. `nano` suits the shipped lineage; the
 * others are those of the paper's released scripts.
 *
 * The released scripts say what one of four GPUs does; here the batches of all four are accumulated on
 * one device, so that a step sees as many pairs. They give the learning rate as 1e-8 per pair (8e-8 for
 * `sd15-dpo`), which is 2.048e-5 in all three.
 *
 * @module
 */
import type { Flip } from "./encoding_cache.ts";
import type { TrainOptions } from "./trainer.ts";

/** A training but for the model and the data. */
export interface Recipe {
  /** What it is for and where it comes from, in a line. */
  readonly description: string;
  readonly training: TrainOptions;
  /** Pictures' side in pixels; the model's own unless given. */
  readonly resolution?: number;
  /** Which pairs: every decided one, or those of absolute winners. */
  readonly selection: "full" | "filtered";
  /** Which loser an absolute winner is paired with; every one unless given. */
  readonly opponent?: "first";
  /** How pictures are brought to the resolution: the middle cut out, or the whole picture stretched. */
  readonly fit: "crop" | "stretch";
  /** How pictures are mirrored: not at all, each by itself, or both of a pair alike. */
  readonly flip: Flip;
  /** Whether encoded pictures are kept on disk, for data that no memory holds. */
  readonly cached: boolean;
  /** How the U-Net's frozen weights are held; computation is in f32. */
  readonly weights: "stored" | "f16";
  /** How images are drawn from the model in training. */
  readonly sampling: {
    readonly steps: number;
    readonly guidanceScale: number;
    /** Training steps from one drawing to the next. */
    readonly every: number;
  };
}

/** What the released scripts have in common. */
const released = {
  rank: 64,
  targets: "attention",
  optimizer: "adamw8bit",
  learningRate: 2.048e-5,
  maxGradNorm: 1,
  recompute: true,
  // Steps of thousands of pairs take long: none of them is to be lost or waited for.
  checkpointEvery: 1,
  logEvery: 1,
} as const;

/** The released inference script's choices, and how often the training scripts save a model. */
const sampling = { steps: 50, guidanceScale: 7.5, every: 50 } as const;

/** What those for Stable Diffusion 1.5 share: one pair per absolute winner, its first. */
const released15 = {
  resolution: 512,
  selection: "filtered",
  opponent: "first",
  fit: "crop",
  flip: "independent",
  cached: true,
  weights: "f16",
  sampling,
} as const;

/** The recipes by name, the default first. */
export const recipes = {
  nano: {
    description: "the shipped lineage: rank 8 on all layers, 8 pairs a step",
    training: { method: "ncp-dpo", steps: 100, batch: 8, accumulate: 1, rank: 8, targets: "all" },
    selection: "filtered",
    fit: "crop",
    flip: "none",
    cached: false,
    weights: "stored",
    sampling: { steps: 12, guidanceScale: 4, every: 50 },
  },
  "sd15-dpo": {
    description: "Stable Diffusion 1.5, DPO in latent space: 256 pairs a step",
    training: {
      ...released,
      method: "dpo",
      beta: 2000,
      batch: 8,
      accumulate: 32,
      steps: 600,
      warmup: 60,
    },
    ...released15,
  },
  "sd15-ncp-dpo": {
    description: "Stable Diffusion 1.5, NCP-DPO on all levels, normalised: 2048 pairs a step",
    training: {
      ...released,
      method: "ncp-dpo",
      features: "normalised-levels",
      beta: 2500,
      batch: 8,
      accumulate: 256,
      steps: 1500,
      warmup: 250,
    },
    ...released15,
  },
  "sdxl-ncp-dpo": {
    description: "Stable Diffusion XL, NCP-DPO on the last down block: 2048 pairs a step",
    training: {
      ...released,
      method: "ncp-dpo",
      features: "down",
      beta: 2500,
      batch: 8,
      accumulate: 256,
      steps: 2000,
      warmup: 500,
    },
    resolution: 1024,
    selection: "full",
    fit: "stretch",
    flip: "shared",
    cached: true,
    weights: "f16",
    sampling,
  },
} as const satisfies Record<string, Recipe>;

/** A recipe's name. */
export type RecipeName = keyof typeof recipes;

/** The names, the default first. */
export const recipeNames = Object.keys(recipes) as RecipeName[];
