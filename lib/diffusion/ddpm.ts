/**
 * Denoising diffusion (Ho et al. 2020): noise is added in one go and taken away one step at a time.
 *
 * @module
 */
import { take, type Tensor, tensor } from "../tensor/mod.ts";
import type { NoiseSchedule, StepWeights } from "./noise_schedule.ts";

/**
 * `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps`.
 *
 * @param original x_0, [N, ...]
 * @param epsilon Of the same shape.
 * @param timesteps i32 [N]
 */
export function addNoise(
  schedule: NoiseSchedule,
  original: Tensor,
  epsilon: Tensor,
  timesteps: Tensor,
): Tensor {
  const { signal, noise } = signalAndNoise(schedule, timesteps, original.rank);
  return original.mul(signal).add(epsilon.mul(noise));
}

/**
 * What a v-prediction model is trained on: `v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0`.
 * Shapes as in {@linkcode addNoise}.
 */
export function velocity(
  schedule: NoiseSchedule,
  original: Tensor,
  epsilon: Tensor,
  timesteps: Tensor,
): Tensor {
  const { signal, noise } = signalAndNoise(schedule, timesteps, original.rank);
  return epsilon.mul(signal).sub(original.mul(noise));
}

/** `sqrt(abar_t)` and `sqrt(1 - abar_t)`, [N, 1, ...]. */
function signalAndNoise(schedule: NoiseSchedule, timesteps: Tensor, rank: number) {
  const table = (f: (abar: number) => number) =>
    tensor(Float32Array.from(schedule.alphasCumprod, f), [schedule.trainTimesteps]);
  const shape = [timesteps.shape[0]!, ...new Array<number>(rank - 1).fill(1)];
  return {
    signal: take(table((abar) => Math.sqrt(abar)), timesteps).reshape(shape),
    noise: take(table((abar) => Math.sqrt(1 - abar)), timesteps).reshape(shape),
  };
}

/**
 * A draw from `q(x_previous | x_t, x_0)` with the predicted x_0 (equations 6 and 7 of the paper), for
 * timesteps any distance apart.
 *
 * @param t The present timestep.
 * @param previous The timestep to reach; -1 for the end.
 */
export function ddpmStep(schedule: NoiseSchedule, t: number, previous: number): StepWeights {
  const abar = schedule.alphaCumprod(t);
  const abarPrevious = schedule.alphaCumprod(previous);
  const alpha = abar / abarPrevious;
  const beta = 1 - alpha;
  const variance = schedule.varianceType === "fixed_large"
    ? beta
    : Math.max((1 - abarPrevious) / (1 - abar) * beta, 1e-20);
  return {
    ...schedule.prediction(t),
    next: [
      Math.sqrt(abarPrevious) * beta / (1 - abar),
      0,
      Math.sqrt(alpha) * (1 - abarPrevious) / (1 - abar),
      t > 0 ? Math.sqrt(variance) : 0,
    ],
  };
}
