/**
 * The learning rate's schedule: a straight line from zero, then constant.
 *
 * @module
 */

/**
 * The learning rate of a step. The first step has a rate above zero and step `warmup` has the full one,
 * so the line is one step ahead of diffusers' `constant_with_warmup`, whose first step does nothing.
 *
 * @param step The step about to be taken, counted from 1.
 * @param learningRate The rate after the warm-up.
 * @param warmup Steps until the full rate; 0 starts with it.
 */
export function linearWarmup(step: number, learningRate: number, warmup: number): number {
  return learningRate * Math.min(1, step / Math.max(1, warmup));
}
