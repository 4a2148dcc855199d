/**
 * Denoising diffusion (Ho et al. 2020): noise is added in one go and taken away one step at a time.
 *
 * @module
 */
import { take, type Tensor, tensor } from "../tensor/mod.ts";
import { clipping } from "./ddim.ts";
import type { NoiseSchedule } from "./noise_schedule.ts";
import type { SamplingPlan, StepWeights } from "./sampling_plan.ts";
import { spacedTimesteps, timestepSpacings } from "./timesteps.ts";

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
 * A run of diffusers' `DDPMScheduler`: each step draws from `q(x_previous | x_t, x_0)` with the
 * predicted x_0 (equations 6 and 7 of the paper), for timesteps any distance apart.
 */
export function ddpmPlan(schedule: NoiseSchedule, steps: number): SamplingPlan {
  const { config } = schedule;
  const spacing = config.choice("timestep_spacing", timestepSpacings);
  const timesteps = spacedTimesteps(schedule, steps, spacing);
  const variance = config.choice("variance_type", ["fixed_small", "fixed_large"]);
  return {
    form: { ...clipping(schedule), noisy: true },
    startScale: 1,
    evaluations: timesteps.map((t, i) => ({
      timestep: t,
      weights: posterior(schedule, t, timesteps[i + 1] ?? -1, variance),
    })),
  };
}

function posterior(
  schedule: NoiseSchedule,
  t: number,
  previous: number,
  varianceType: "fixed_small" | "fixed_large",
): StepWeights {
  const abar = schedule.alphaCumprod(t);
  const abarPrevious = schedule.alphaCumprod(previous);
  const alpha = abar / abarPrevious;
  const beta = 1 - alpha;
  const variance = varianceType === "fixed_large"
    ? beta
    : Math.max((1 - abarPrevious) / (1 - abar) * beta, 1e-20);
  return {
    ...schedule.prediction(schedule.level(t)),
    next: [
      Math.sqrt(abarPrevious) * beta / (1 - abar),
      0,
      Math.sqrt(alpha) * (1 - abarPrevious) / (1 - abar),
      t > 0 ? Math.sqrt(variance) : 0,
    ],
  };
}
