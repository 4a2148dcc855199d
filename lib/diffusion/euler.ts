/**
 * Euler's method (Karras et al. 2022, algorithm 1 without noise), `x' = x + (sigma' - sigma) eps` for
 * samples `x_0 + sigma eps`. Scaled to a variance of 1, as the model sees them, that is DDIM's step
 * between levels that may lie between two timesteps.
 *
 * @module
 */
import type { NoiseSchedule } from "./noise_schedule.ts";
import { type SamplingPlan, transfer } from "./sampling_plan.ts";
import {
  finalLevel,
  karrasSigmas,
  sigmaAt,
  sigmaLevel,
  sigmaTable,
  timestepAt,
  usesKarras,
} from "./sigmas.ts";
import { checkSteps, linspace, spacedTimesteps, timestepSpacings } from "./timesteps.ts";

/** A run of diffusers' `EulerDiscreteScheduler`. */
export function eulerPlan(schedule: NoiseSchedule, steps: number): SamplingPlan {
  const { config, trainTimesteps } = schedule;
  config.choice("interpolation_type", ["linear"]);
  config.choice("timestep_type", ["discrete"]);
  const spacing = config.choice("timestep_spacing", timestepSpacings, "linspace");
  checkSteps(steps, trainTimesteps);
  const table = sigmaTable(schedule);
  let timesteps = spacing === "linspace"
    ? linspace(trainTimesteps - 1, steps)
    : spacedTimesteps(schedule, steps, spacing);
  let sigmas = timesteps.map((t) => sigmaAt(table, t));
  if (usesKarras(schedule)) {
    sigmas = karrasSigmas(
      steps,
      config.positive("sigma_min", sigmas.at(-1)!),
      config.positive("sigma_max", sigmas[0]!),
    );
    timesteps = sigmas.map((sigma) => timestepAt(table, sigma));
  }
  const levels = [...sigmas.map(sigmaLevel), finalLevel(schedule, table)];
  return {
    form: {},
    // Leading timesteps start from `sqrt(sigma^2 + 1)` times the noise, which is 1 in this scale.
    startScale: spacing === "leading" ? 1 : levels[0]!.noise,
    evaluations: timesteps.map((timestep, i) => {
      const to = levels[i + 1]!;
      // The sample leaves the run in the method's own scale.
      const end = i === steps - 1 ? { signal: 1, noise: to.noise / to.signal } : to;
      return { timestep, weights: transfer(schedule, levels[i]!, end) };
    }),
  };
}
