/**
 * The schedulers of diffusers that are known here, by name and by class.
 *
 * @module
 */
import { ddimPlan } from "./ddim.ts";
import { ddpmPlan } from "./ddpm.ts";
import { dpmSolverPlan } from "./dpm_solver.ts";
import { eulerPlan } from "./euler.ts";
import type { NoiseSchedule } from "./noise_schedule.ts";
import { pndmPlan } from "./pndm.ts";
import type { SamplingPlan } from "./sampling_plan.ts";

const SCHEDULERS = {
  "ddim": { className: "DDIMScheduler", plan: ddimPlan },
  "ddpm": { className: "DDPMScheduler", plan: ddpmPlan },
  "pndm": { className: "PNDMScheduler", plan: pndmPlan },
  "euler": { className: "EulerDiscreteScheduler", plan: eulerPlan },
  "dpm-solver++": { className: "DPMSolverMultistepScheduler", plan: dpmSolverPlan },
} as const;

/** The name of a scheduler. */
export type SchedulerName = keyof typeof SCHEDULERS;
/** The names of the schedulers. */
export const schedulerNames = Object.keys(SCHEDULERS) as readonly SchedulerName[];

/**
 * Plans a run exactly as diffusers samples.
 *
 * @param steps How many; PNDM evaluates the model once more.
 * @param name Default: the scheduler of the schedule's own class, DDIM where it names none. Another
 * one takes over the keys of the file that it has too, as diffusers' `from_config` does.
 * @throws {Error} For a class or a setting that is not implemented, with the file, the key, its value
 * and what is known.
 * @throws {RangeError} When the number of steps is not possible.
 */
export function samplingPlan(
  schedule: NoiseSchedule,
  steps: number,
  name: SchedulerName = ownScheduler(schedule),
): SamplingPlan {
  return SCHEDULERS[name].plan(schedule, steps);
}

function ownScheduler({ config }: NoiseSchedule): SchedulerName {
  const className = config.json._class_name ?? SCHEDULERS.ddim.className;
  const own = schedulerNames.find((name) => SCHEDULERS[name].className === className);
  if (own) return own;
  const known = Object.values(SCHEDULERS).map(({ className }) => className);
  throw new Error(
    `${config.source}: "_class_name" is ${JSON.stringify(className)}; known are ` +
      `${known.join(", ")}: choose one of the schedulers ${schedulerNames.join(", ")} instead`,
  );
}
