/**
 * Pseudo linear multistep (PLMS), the part of pseudo numerical methods (Liu et al. 2022) that Stable
 * Diffusion is sampled with: DDIM's step with the output extrapolated from the last four by
 * Adams-Bashforth's weights.
 *
 * @module
 */
import { levelBelow } from "./ddim.ts";
import { CLEAN, type NoiseLevel, type NoiseSchedule } from "./noise_schedule.ts";
import type { SamplingPlan, StepWeights } from "./sampling_plan.ts";
import { spacedTimesteps, timestepSpacings } from "./timesteps.ts";

/** Adams-Bashforth's weights of the outputs, the latest first, by how many there are. */
const MULTISTEP = [
  [1],
  [3 / 2, -1 / 2],
  [23 / 12, -16 / 12, 5 / 12],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
];

/** How many outputs are remembered: three, and that of the repeated evaluation among them. */
const MEMORY = 4;

/**
 * A run of diffusers' `PNDMScheduler` with `skip_prk_steps`. The first step is taken twice, the second
 * time with the mean of the outputs at its two ends (Heun's method), so that S steps are S + 1
 * evaluations.
 */
export function pndmPlan(schedule: NoiseSchedule, steps: number): SamplingPlan {
  const { config } = schedule;
  // Another scheduler's file says nothing about Runge-Kutta steps; Stable Diffusion goes without.
  config.choice("skip_prk_steps", [true], config.className !== "PNDMScheduler");
  const spacing = config.choice("timestep_spacing", timestepSpacings);
  const last = config.boolean("set_alpha_to_one", false) ? CLEAN : schedule.level(0);
  const timesteps = spacedTimesteps(schedule, steps, spacing);
  const down = (t: number) =>
    linearStep(schedule, schedule.level(t), levelBelow(schedule, t, steps, last));

  const evaluations = timesteps.map((timestep, i) => {
    const [sample, output] = down(timestep);
    const outputs = MULTISTEP[Math.min(i, 3)]!.map((weight) => weight * output);
    // Between the first output, which is i evaluations old, and the later ones is the repeated one's.
    if (i >= 1 && i <= 3) outputs.splice(i, 0, 0);
    return { timestep, weights: weights(sample, outputs) };
  });
  if (steps > 1) {
    const [first, second] = timesteps as [number, number];
    const [kept, pulled] = down(first);
    const stride = Math.floor(schedule.trainTimesteps / steps);
    const from = schedule.level(second + stride);
    const [sample, output] = linearStep(schedule, from, schedule.level(second));
    // It starts where the first step did, at x_0 = (x_1 - pulled o_0) / kept.
    evaluations.splice(1, 0, {
      timestep: second,
      weights: weights(sample / kept, [output / 2, output / 2 - sample * pulled / kept]),
    });
  }
  return {
    form: { memory: { of: "output", length: MEMORY } },
    startScale: 1,
    evaluations,
  };
}

/** DDIM's step as the weights of the sample and of the model's output. */
function linearStep(
  schedule: NoiseSchedule,
  from: NoiseLevel,
  { signal, noise }: NoiseLevel,
): [sample: number, output: number] {
  const { original, epsilon } = schedule.prediction(from);
  return [
    signal * original[0] + noise * epsilon[0],
    signal * original[1] + noise * epsilon[1],
  ];
}

/** A step from the weights of the sample and of the outputs, the latest first. */
function weights(sample: number, [output, ...earlier]: readonly number[]): StepWeights {
  return {
    original: [0, 0],
    epsilon: [0, 1],
    next: [0, output!, sample, 0],
    memory: Array.from({ length: MEMORY }, (_, k) => earlier[k] ?? 0),
  };
}
