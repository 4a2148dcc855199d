/**
 * Denoising diffusion implicit models (Song et al. 2020, equation 12) without noise (eta 0).
 *
 * @module
 */
import { CLEAN, type NoiseLevel, type NoiseSchedule } from "./noise_schedule.ts";
import { type SamplingPlan, type StepForm, transfer } from "./sampling_plan.ts";
import { spacedTimesteps, timestepSpacings } from "./timesteps.ts";

/** A run of diffusers' `DDIMScheduler`: from each timestep to the level `trainTimesteps / S` below. */
export function ddimPlan(schedule: NoiseSchedule, steps: number): SamplingPlan {
  const { config } = schedule;
  const spacing = config.choice("timestep_spacing", timestepSpacings);
  const last = config.boolean("set_alpha_to_one", true) ? CLEAN : schedule.level(0);
  return {
    form: clipping(schedule),
    startScale: 1,
    evaluations: spacedTimesteps(schedule, steps, spacing).map((timestep) => {
      const to = levelBelow(schedule, timestep, steps, last);
      return { timestep, weights: transfer(schedule, schedule.level(timestep), to) };
    }),
  };
}

/**
 * The level one step of a run below timestep t; a step is `trainTimesteps / steps` long, rounded down.
 *
 * @param last The level below the first timestep.
 */
export function levelBelow(
  schedule: NoiseSchedule,
  t: number,
  steps: number,
  last: NoiseLevel,
): NoiseLevel {
  const below = t - Math.floor(schedule.trainTimesteps / steps);
  return below < 0 ? last : schedule.level(below);
}

/**
 * What DDIM and DDPM clamp the predicted original to. A file that does not say is not taken to ask for
 * it: diffusers' pipeline of Stable Diffusion switches its schedulers' default off too.
 */
export function clipping({ config }: NoiseSchedule): StepForm {
  config.choice("thresholding", [false]);
  if (!config.boolean("clip_sample", false)) return {};
  return { clipRange: config.positive("clip_sample_range", 1) };
}
