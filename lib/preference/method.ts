/**
 * A method is an objective in an error space with hyperparameters: six from three objectives and two
 * spaces, and a control that gives DPO the timestep weighting that noise-conditioned perception has.
 *
 * @module
 */
import type { Objective } from "./objectives.ts";

/** Where errors are measured. */
export type ErrorSpace = "latent" | "perceptual";

/** A method's parts. */
export interface Method {
  readonly objective: Objective;
  readonly space: ErrorSpace;
  /** Whether latent errors are multiplied by r(t), see `timestep_weight.ts`. */
  readonly weighted: boolean;
  readonly learningRate: number;
  /** The factor in front of mean-reduced errors; SFT has none. */
  readonly beta: number;
  /** CPO's weight of the winner's error, relative to beta. */
  readonly lambda: number;
  /**
   * What the loss is multiplied by before it is differentiated. NCP-SFT's gradient is about 4e-8 per
   * weight, near AdamW's eps, which would damp it; beta does this for the other methods.
   */
  readonly lossScale: number;
}

const plain = { weighted: false, learningRate: 1e-3, beta: 1, lambda: 0, lossScale: 1 } as const;

/**
 * The methods, with hyperparameters that work for the nano lineage (LoRA of rank 8, 16 pairs a step).
 * For Stable Diffusion the released code has a learning rate of 2.048e-5 for 2048 pairs a step, beta
 * 2000 for DPO and 2500 for NCP-DPO.
 */
export const methods = {
  "sft": { ...plain, objective: "sft", space: "latent" },
  "dpo": { ...plain, objective: "dpo", space: "latent", beta: 2_000 },
  "cpo": { ...plain, objective: "cpo", space: "latent", beta: 100, lambda: 0.1 },
  "ncp-sft": { ...plain, objective: "sft", space: "perceptual", lossScale: 1e4 },
  "ncp-dpo": { ...plain, objective: "dpo", space: "perceptual", beta: 1e6 },
  "ncp-cpo": { ...plain, objective: "cpo", space: "perceptual", beta: 3e5, lambda: 0.1 },
  "dpo-tw": { ...plain, objective: "dpo", space: "latent", weighted: true, beta: 1e6 },
} as const satisfies Record<string, Method>;

/** The name of a method. */
export type MethodName = keyof typeof methods;

/** The names, in the order of the paper's figures, the control last. */
export const methodNames = Object.keys(methods) as MethodName[];
