/**
 * The search for each method's hyperparameters: every method gets as many trials, and the trial with
 * the highest win rate over the base model on validation prompts is chosen. Test prompts, the oracle
 * and the seeds of the comparison play no part.
 *
 * @module
 */
import { mean, winRate } from "../evaluation/statistics.ts";
import { type MethodName, methods } from "../preference/mod.ts";
import { type PromptScores, scorers } from "./evaluate.ts";
import type { Selection } from "./training_pairs.ts";
import type { Hyperparameters } from "./tune.ts";

/** The size of a search for hyperparameters. */
export type SearchSettings = {
  readonly data: Selection;
  /** One that no comparison uses. */
  readonly seed: number;
  readonly steps: number;
  readonly batch: number;
  /** Validation prompts. */
  readonly prompts: number;
};

/** One trial. */
export interface Trial {
  readonly method: MethodName;
  readonly hyperparameters: Hyperparameters;
  /** Win rate over the base model in percent, the mean of both scorers. */
  readonly winRate: number;
  /** Mean change of each scorer's score. */
  readonly change: Readonly<Record<string, number>>;
}

/** What searches found for one base model; stored as `results/search/<model>.json`. */
export interface SearchRecord {
  /** Digest of the materials and settings that the trials were made with: it holds for no others. */
  readonly key: string;
  readonly criterion: string;
  readonly settings: SearchSettings;
  readonly trials: readonly Trial[];
  readonly chosen: Readonly<Partial<Record<MethodName, Hyperparameters>>>;
}

/** The rule of choice, in words. */
export const criterion =
  "highest win rate over the base model on validation prompts, mean of PickScore and HPS; " +
  "of equals the smaller learning rate";

/** What a method is tuned with where no search was made. */
export function defaultHyperparameters(method: MethodName): Hyperparameters {
  const { learningRate: lr, beta } = methods[method];
  return { lr, beta };
}

/**
 * What is tried: the method's defaults, the learning rate below and above, and the same for beta; SFT,
 * which has no beta, gets two more rates in their place.
 */
export function searchGrid(method: MethodName): readonly Hyperparameters[] {
  const { lr, beta } = defaultHyperparameters(method);
  const others = methods[method].objective === "sft"
    ? [{ lr: lr / 4, beta }, { lr: 4 * lr, beta }]
    : [{ lr, beta: beta / 4 }, { lr, beta: 4 * beta }];
  return [{ lr, beta }, { lr: lr / 2, beta }, { lr: 2 * lr, beta }, ...others];
}

/**
 * Judges a trial by its scores and the base model's on the same prompts.
 *
 * @param method The method tried.
 * @param hyperparameters What it was tried with.
 * @param tuned Scores under the trial's LoRA.
 * @param base Scores of the base model.
 */
export function judgeTrial(
  method: MethodName,
  hyperparameters: Hyperparameters,
  tuned: PromptScores,
  base: PromptScores,
): Trial {
  const rates = scorers.map((scorer) => 100 * winRate(tuned[scorer]!, base[scorer]!));
  const change = Object.fromEntries(
    scorers.map((scorer) => [scorer, mean(tuned[scorer]!.map((s, i) => s - base[scorer]![i]!))]),
  );
  return { method, hyperparameters, winRate: mean(rates), change };
}

/**
 * Chooses a method's hyperparameters.
 *
 * @param trials Trials of any methods.
 * @throws {Error} if the method has no trial.
 */
export function choose(method: MethodName, trials: readonly Trial[]): Hyperparameters {
  const [best] = trials.filter((trial) => trial.method === method).sort((a, b) =>
    b.winRate - a.winRate || a.hyperparameters.lr - b.hyperparameters.lr
  );
  if (!best) throw new Error(`the search has no trial of ${method}`);
  return best.hyperparameters;
}
