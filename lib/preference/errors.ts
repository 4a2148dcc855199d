/**
 * How wrong a prediction of the noise is, in two spaces: that of latents, and that of the features
 * which the model's own encoder f sees one reverse step later (noise-conditioned perception).
 *
 *     x_t     = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
 *     step(e) = (x_t - (1 - a_t) / sqrt(1 - abar_t) e) / sqrt(a_t) + sigma_t z
 *     sigma_t^2 = (1 - abar_{t-1}) / (1 - abar_t) beta_t
 *     latent error     = mean (eps - e)^2
 *     perceptual error = mean (f(step(e), c, t-1) - f(step(eps), c, t-1))^2
 *
 * Self-perceptual training (Lin and Yang, arXiv 2401.00110) goes to any other timestep t' instead,
 * without new noise, which is also a mix of x_t and e:
 *
 *     step(e) = sqrt(abar_t') (x_t - sqrt(1 - abar_t) e) / sqrt(abar_t) + sqrt(1 - abar_t') e
 *
 * All of it is f32: two reverse steps that are compared differ by 4e-4 to 2e-3, the edge of f16.
 * Tensors are [..., B, h, w, C], and what depends on the timestep is [B, 1, 1, 1].
 *
 * @module
 */
import type { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import type { Tensor } from "../tensor/mod.ts";

/** What the equations take from the schedule, each [B, 1, 1, 1]. */
export interface NoiseCoefficients {
  /** `sqrt(abar_t)` */
  readonly signal: Tensor;
  /** `sqrt(1 - abar_t)` */
  readonly noise: Tensor;
  /** `(1 - a_t) / sqrt(1 - abar_t)`, or `sqrt(1 - abar_t) - sqrt(1 - abar_t') / growth` */
  readonly pull: Tensor;
  /** `1 / sqrt(a_t)`, or `sqrt(abar_t' / abar_t)` */
  readonly growth: Tensor;
  /** `sigma_t`, or 0 */
  readonly sigma: Tensor;
}

/** Where the reverse step leads: to t - 1 by DDPM, or to a t' drawn uniformly from all timesteps. */
export const nextTimesteps = ["previous", "uniform"] as const;
/** One of {@linkcode nextTimesteps}. */
export type NextTimestep = (typeof nextTimesteps)[number];

/** The number of coefficients. */
export const COEFFICIENTS = 5;

/**
 * Looks the coefficients of a batch up on the host, in f64.
 *
 * @param timesteps Integers from 1: there is no reverse step from 0.
 * @param next Where the step without new noise leads, for each; the DDPM step to t - 1 unless given.
 * @returns [5, B], for {@linkcode coefficientsOf}.
 * @throws {RangeError} For a timestep outside the schedule, with its value.
 */
export function gatherCoefficients(
  schedule: NoiseSchedule,
  timesteps: ArrayLike<number>,
  next?: ArrayLike<number>,
): Float32Array {
  const count = timesteps.length;
  const out = new Float32Array(COEFFICIENTS * count);
  for (let i = 0; i < count; i++) {
    const t = timesteps[i]!;
    if (!Number.isInteger(t) || t < 1 || t >= schedule.trainTimesteps) {
      throw new RangeError(
        `a preference loss needs timesteps from 1 to ${schedule.trainTimesteps - 1}, found ${t}`,
      );
    }
    const abar = schedule.alphaCumprod(t);
    const step = next ? stepTo(schedule, abar, next[i]!) : ddpmStep(schedule, abar, t);
    [Math.sqrt(abar), Math.sqrt(1 - abar), ...step]
      .forEach((value, row) => out[row * count + i] = value);
  }
  return out;
}

/** Pull, growth and sigma of the DDPM step from t to t - 1. */
function ddpmStep(schedule: NoiseSchedule, abar: number, t: number): number[] {
  const before = schedule.alphaCumprod(t - 1);
  const beta = schedule.betas[t]!;
  return [
    beta / Math.sqrt(1 - abar),
    1 / Math.sqrt(1 - beta),
    Math.sqrt((1 - before) / (1 - abar) * beta),
  ];
}

/** Pull, growth and sigma of the step to any t' that keeps the predicted noise. */
function stepTo(schedule: NoiseSchedule, abar: number, next: number): number[] {
  const there = schedule.alphaCumprod(next);
  const growth = Math.sqrt(there / abar);
  return [Math.sqrt(1 - abar) - Math.sqrt(1 - there) / growth, growth, 0];
}

/** The rows of [5, B] by name. */
export function coefficientsOf(packed: Tensor): NoiseCoefficients {
  const [signal, noise, pull, growth, sigma] = packed.split(0, COEFFICIENTS)
    .map((row) => row.reshape([-1, 1, 1, 1])) as [Tensor, Tensor, Tensor, Tensor, Tensor];
  return { signal, noise, pull, growth, sigma };
}

/** `x_t` from `x_0` and the true noise. */
export function noisy(original: Tensor, epsilon: Tensor, c: NoiseCoefficients): Tensor {
  return original.mul(c.signal).add(epsilon.mul(c.noise));
}

/** `step(e)`: a DDPM step from `x_t` to t - 1 with the noise e taken for the true one. */
export function reverseStep(
  noisySample: Tensor,
  epsilon: Tensor,
  z: Tensor,
  c: NoiseCoefficients,
): Tensor {
  return noisySample.sub(epsilon.mul(c.pull)).mul(c.growth).add(z.mul(c.sigma));
}

/** The mean squared error of predicted noise, [...] over the last three axes. */
export function latentError(epsilon: Tensor, predicted: Tensor): Tensor {
  return epsilon.sub(predicted).square().mean([-3, -2, -1]);
}

/**
 * The mean squared difference of features. With several levels it is one mean over all their values
 * together, as in the released code, so a level counts by its size.
 *
 * @param target f(step(eps)): one or more levels [N, h, w, C].
 * @param predicted f(step(e)): the same shapes.
 * @returns [N]
 */
export function perceptualError(target: readonly Tensor[], predicted: readonly Tensor[]): Tensor {
  const values = target.reduce((sum, level) => sum + level.size / level.shape[0]!, 0);
  return target
    .map((level, i) => level.sub(predicted[i]!).square().sum([1, 2, 3]))
    .reduce((a, b) => a.add(b))
    .mul(1 / values);
}
