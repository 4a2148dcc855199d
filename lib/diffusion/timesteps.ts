/**
 * The timesteps at which a run of S steps asks the model, noisiest first, exactly as diffusers spaces
 * them.
 *
 * @module
 */
import type { NoiseSchedule } from "./noise_schedule.ts";

/** The ways in which the timesteps of a run are spread over the schedule. */
export const timestepSpacings = ["leading", "trailing", "linspace"] as const;
/** One of {@linkcode timestepSpacings}. */
export type TimestepSpacing = (typeof timestepSpacings)[number];

/**
 * The timesteps of DDIM, DDPM and PNDM; those of Euler's method too, save for linspace.
 *
 * @param steps How many, at most `trainTimesteps`.
 * @throws {RangeError} When the number of steps is not possible.
 */
export function spacedTimesteps(
  schedule: NoiseSchedule,
  steps: number,
  spacing: TimestepSpacing,
): number[] {
  const total = schedule.trainTimesteps;
  checkSteps(steps, total);
  switch (spacing) {
    case "leading":
      return leading(schedule, steps, Math.floor(total / steps), 0);
    case "trailing": {
      // As NumPy's arange adds up, so that what is half-way between two timesteps rounds as there.
      // For a few counts (61, 103, ...) it runs over by one, to timestep -1: that is not followed.
      const stride = total - (total - total / steps);
      return range(steps).map((i) => roundHalfEven(total - i * stride) - 1);
    }
    case "linspace":
      return linspace(total - 1, steps).map(roundHalfEven);
  }
}

/**
 * Timesteps from `first` up, `stride` apart and moved by `steps_offset`, the noisiest first.
 *
 * @throws {RangeError} When the offset leads beyond the last timestep.
 */
export function leading(
  schedule: NoiseSchedule,
  steps: number,
  stride: number,
  first: number,
): number[] {
  const total = schedule.trainTimesteps;
  const offset = schedule.config.integer("steps_offset", 0, 0, total - 1);
  const timesteps = range(steps).map((i) => first + i * stride + offset).reverse();
  if (timesteps[0]! >= total) {
    throw new RangeError(
      `${steps} steps would begin at timestep ${timesteps[0]}, but the last is ${
        total - 1
      }, since ` +
        `"steps_offset" is ${offset} in ${schedule.config.source}: take fewer steps`,
    );
  }
  return timesteps;
}

/** `count` evenly spaced numbers from `last` down to 0; 0 alone if there is only one. */
export function linspace(last: number, count: number): number[] {
  const stride = last / (count - 1);
  // The last one is exact, as NumPy has it: rounding must not carry it beyond the table's end.
  return range(count).map((i) => i === 0 ? 0 : i === count - 1 ? last : i * stride).reverse();
}

/** @throws {RangeError} When a run cannot have so many steps. */
export function checkSteps(steps: number, most: number): void {
  if (!Number.isInteger(steps) || steps < 1 || steps > most) {
    throw new RangeError(`the number of steps must be an integer from 1 to ${most}, not ${steps}`);
  }
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);

/** NumPy's rounding, which the libraries use: halves go to the even neighbour. */
export function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}
