/**
 * Denoising diffusion implicit models (Song et al. 2020, equation 12): steps of any length, without
 * noise at eta 0.
 *
 * @module
 */
import type { NoiseSchedule, StepWeights } from "./noise_schedule.ts";

/**
 * The step from timestep t to the one before it in a run of `steps` steps.
 *
 * @param t The present timestep.
 * @param steps How many steps the run has; a step is `trainTimesteps / steps` long, rounded down.
 * @param eta 0 is deterministic; 1 has DDPM's variance.
 */
export function ddimStep(
  schedule: NoiseSchedule,
  t: number,
  steps: number,
  eta = 0,
): StepWeights {
  const previous = t - Math.floor(schedule.trainTimesteps / steps);
  const abar = schedule.alphaCumprod(t);
  const abarPrevious = previous < 0 ? schedule.finalAlphaCumprod : schedule.alphaCumprod(previous);
  const variance = (1 - abarPrevious) / (1 - abar) * (1 - abar / abarPrevious);
  const sigma = eta * Math.sqrt(Math.max(variance, 0));
  return {
    ...schedule.prediction(t),
    next: [
      Math.sqrt(abarPrevious),
      Math.sqrt(Math.max(1 - abarPrevious - sigma * sigma, 0)),
      0,
      sigma,
    ],
  };
}
