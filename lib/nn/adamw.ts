/**
 * AdamW (Loshchilov and Hutter 2019) as a pure function of parameters, gradients and state, in the
 * arithmetic of PyTorch's `AdamW`.
 *
 * @module
 */
import { type Tensor, tensor, zeros } from "../tensor/mod.ts";

/** The constants of AdamW. */
export interface AdamWOptions {
  /** Decay of the gradient's running mean. */
  readonly beta1: number;
  /** Decay of the squared gradient's running mean. */
  readonly beta2: number;
  readonly eps: number;
  /** Decoupled: parameters shrink by `learningRate * weightDecay` at every step. */
  readonly weightDecay: number;
}

/** The defaults of PyTorch and of bitsandbytes. */
export const adamwDefaults: AdamWOptions = {
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.01,
};

/** Running means of the gradient and of its square, each of the parameters' shape. */
export type AdamWState = { readonly mean: Tensor; readonly square: Tensor };

/** The state before the first step. */
export function initAdamW(size: number): AdamWState {
  return { mean: zeros([size]), square: zeros([size]) };
}

/**
 * What changes from step to step, as one tensor [3], so that a compiled step serves all of them: the
 * learning rate, `1 - beta1^step` and `1 - beta2^step`, worked out in f64.
 *
 * @param step Counted from 1.
 */
export function adamwRate(
  step: number,
  learningRate: number,
  { beta1, beta2 }: AdamWOptions = adamwDefaults,
): Tensor {
  return tensor(Float32Array.of(learningRate, 1 - beta1 ** step, 1 - beta2 ** step), [3]);
}

/**
 * One step:
 *
 *     m' = beta1 m + (1 - beta1) g,   v' = beta2 v + (1 - beta2) g^2
 *     p' = p (1 - lr weightDecay) - lr (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + eps)
 *
 * @param parameters [n]
 * @param gradients [n]
 * @param rate From {@linkcode adamwRate}.
 */
export function adamw(
  parameters: Tensor,
  gradients: Tensor,
  state: AdamWState,
  rate: Tensor,
  options: AdamWOptions = adamwDefaults,
): { parameters: Tensor; state: AdamWState } {
  const { beta1, beta2 } = options;
  const mean = state.mean.mul(beta1).add(gradients.mul(1 - beta1));
  const square = state.square.mul(beta2).add(gradients.square().mul(1 - beta2));
  return {
    parameters: adamwUpdate(parameters, mean, square, rate, options),
    state: { mean, square },
  };
}

/** The new parameters from the new running means; all of one shape. */
export function adamwUpdate(
  parameters: Tensor,
  mean: Tensor,
  square: Tensor,
  rate: Tensor,
  { eps, weightDecay }: AdamWOptions,
): Tensor {
  const [learningRate, correction1, correction2] = [0, 1, 2].map((i) =>
    rate.slice(0, i, i + 1)
  ) as [Tensor, Tensor, Tensor];
  const denominator = square.div(correction2).sqrt().add(eps);
  const step = mean.mul(learningRate.div(correction1)).div(denominator);
  const kept = learningRate.mul(-weightDecay).add(1);
  return parameters.mul(kept).sub(step);
}
