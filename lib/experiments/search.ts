/**
 * The search for each method's hyperparameters: every method gets as many trials, and the trial with
 * the highest win rate over the base model on validation prompts is chosen. Test prompts, the oracle
 * and the seeds of the comparison play no part.
 *
 * @module
 */
import { mean, winRate } from "../evaluation/statistics.ts";
import { methods, type PromptScores, scorers, type Table1Method } from "./table1.ts";
import type { Hyperparameters, SearchSettings } from "./presets.ts";

/** One trial. */
export interface Trial {
  readonly method: Table1Method;
  readonly hyperparameters: Hyperparameters;
  /** Win rate over the base model in percent, the mean of both scorers. */
  readonly winRate: number;
  /** Mean change of each scorer's score. */
  readonly change: Readonly<Record<string, number>>;
}

/** What the search found; stored as `search.json`. */
export interface SearchRecord {
  /** Digest of the materials it was made with: it holds for no others. */
  readonly key: string;
  readonly criterion: string;
  readonly settings: SearchSettings;
  readonly trials: readonly Trial[];
  readonly chosen: Readonly<Record<Table1Method, Hyperparameters>>;
}

/** The rule of choice, in words. */
export const criterion =
  "highest win rate over the base model on validation prompts, mean of PickScore and HPS; " +
  "of equals the smaller learning rate";

/**
 * Judges a trial by its scores and the base model's on the same prompts.
 *
 * @param method The method tried.
 * @param hyperparameters What it was tried with.
 * @param tuned Scores under the trial's LoRA.
 * @param base Scores of the base model.
 */
export function judgeTrial(
  method: Table1Method,
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
 * Chooses each method's hyperparameters.
 *
 * @param trials All trials.
 * @throws {Error} if a method has no trial.
 */
export function choose(
  trials: readonly Trial[],
): Readonly<Record<Table1Method, Hyperparameters>> {
  const chosen = methods.map((method) => {
    const [best] = trials.filter((trial) => trial.method === method).sort((a, b) =>
      b.winRate - a.winRate || a.hyperparameters.lr - b.hyperparameters.lr
    );
    if (!best) throw new Error(`the search has no trial of ${method}`);
    return [method, best.hyperparameters] as const;
  });
  return Object.fromEntries(chosen) as Record<Table1Method, Hyperparameters>;
}
