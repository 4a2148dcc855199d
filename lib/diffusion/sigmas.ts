/**
 * Noise levels as `sigma = noise / signal`, the noise beside a signal of 1, in which Euler's method
 * and DPM-Solver++ are written (Karras et al. 2022).
 *
 * @module
 */
import { CLEAN, type NoiseLevel, type NoiseSchedule } from "./noise_schedule.ts";

/**
 * The sigma of every timestep, rising. The libraries' tables are of single precision, which moves the
 * lowest sigma by 1e-5 of its value. Karras' sigmas hang on it, and their timesteps are rounded, so
 * that the true value would now and then lead to another timestep.
 */
export function sigmaTable({ betas }: NoiseSchedule): Float64Array {
  let product = 1;
  return betas.map((beta) => {
    product *= Math.fround(1 - Math.fround(beta));
    const abar = Math.fround(product);
    return Math.sqrt(Math.fround(1 - abar) / abar);
  });
}

/** The level of a sigma. */
export function sigmaLevel(sigma: number): NoiseLevel {
  const signal = 1 / Math.sqrt(sigma * sigma + 1);
  return { signal, noise: sigma * signal };
}

/** The sigma of a timestep that may lie between two. */
export function sigmaAt(table: Float64Array, timestep: number): number {
  const below = Math.floor(timestep);
  const share = timestep - below;
  return share === 0 ? table[below]! : table[below]! + (table[below + 1]! - table[below]!) * share;
}

/** The timestep of a sigma, interpolated in the logarithm. */
export function timestepAt(table: Float64Array, sigma: number): number {
  const last = table.length - 2;
  const below = Math.min(Math.max(table.findLastIndex((s) => s <= sigma), 0), last);
  const [low, high] = [Math.log(table[below]!), Math.log(table[below + 1]!)];
  return below + Math.min(Math.max((Math.log(sigma) - low) / (high - low), 0), 1);
}

/** `steps` sigmas from the highest to the lowest, evenly spaced in `sigma^(1/7)` (equation 5). */
export function karrasSigmas(steps: number, lowest: number, highest: number): number[] {
  const [low, high] = [lowest ** (1 / 7), highest ** (1 / 7)];
  return Array.from(
    { length: steps },
    (_, i) => (high + i / Math.max(steps - 1, 1) * (low - high)) ** 7,
  );
}

/** Where a run ends: without noise, or at the first timestep. */
export function finalLevel({ config }: NoiseSchedule, table: Float64Array): NoiseLevel {
  const end = config.choice("final_sigmas_type", ["zero", "sigma_min"]);
  return end === "zero" ? CLEAN : sigmaLevel(table[0]!);
}

/** Refuses the spacings of sigmas other than Karras'. */
export function usesKarras({ config }: NoiseSchedule): boolean {
  for (const kind of ["exponential", "beta"]) config.choice(`use_${kind}_sigmas`, [false]);
  return config.boolean("use_karras_sigmas", false);
}
