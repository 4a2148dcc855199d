/**
 * What is asked of the errors: three objectives, each a pure function of them, whatever space the
 * errors were measured in. `w` is the winner of a pair, `l` the loser, theta the model being tuned,
 * ref the model that it started as. Errors are [B], one per pair.
 *
 * beta is the whole factor in front of mean-reduced errors (the papers' beta T, and the released
 * code's beta; Diffusion-DPO's code has 2 beta here).
 *
 * @module
 */
import { type Tensor, where } from "../tensor/mod.ts";

/** An objective's name. */
export type Objective = "sft" | "dpo" | "cpo";

/** Errors of a pair's two images. */
export interface PairErrors {
  readonly winner: Tensor;
  readonly loser: Tensor;
}

/** A loss, and for the objectives that compare, what is inside its sigmoid. */
export interface ObjectiveValue {
  /** Mean over pairs, a scalar. */
  readonly loss: Tensor;
  /** Log odds that the winner is preferred, [B]. */
  readonly logits?: Tensor;
}

/** Supervised fine-tuning: `error_theta(w)`. */
export function sft(winner: Tensor): ObjectiveValue {
  return { loss: winner.mean() };
}

/**
 * Direct preference optimisation:
 * `-log sigmoid(-beta [(error_theta - error_ref)(w) - (error_theta - error_ref)(l)])`.
 */
export function dpo(theta: PairErrors, reference: PairErrors, beta: number): ObjectiveValue {
  const margin = theta.winner.sub(reference.winner).sub(theta.loser.sub(reference.loser));
  const logits = margin.mul(-beta);
  return { loss: negativeLogSigmoid(logits).mean(), logits };
}

/**
 * Contrastive preference optimisation:
 * `-log sigmoid(-beta [error_theta(w) - error_theta(l)]) + lambda beta error_theta(w)`.
 *
 * @param lambda Relative to beta, since errors in the two spaces differ by a factor of thousands.
 */
export function cpo(theta: PairErrors, beta: number, lambda: number): ObjectiveValue {
  const logits = theta.winner.sub(theta.loser).mul(-beta);
  const loss = negativeLogSigmoid(logits).add(theta.winner.mul(lambda * beta)).mean();
  return { loss, logits };
}

/**
 * `log(1 + e^-x)`. Written without `max` and `abs`, whose gradients at 0 are a matter of convention:
 * DPO starts with every logit exactly 0, where the gradient must be -1/2.
 */
export function negativeLogSigmoid(x: Tensor): Tensor {
  const y = x.neg();
  const linear = y.gt(LINEAR);
  return where(linear, y, y.minimum(LINEAR).exp().add(1).log());
}

/** From here on `log(1 + e^y)` is y in f32. */
const LINEAR = 20;
