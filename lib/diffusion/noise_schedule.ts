/**
 * How much noise there is at each timestep, from diffusers' `scheduler_config.json`, and what every
 * sampler shares: the timesteps that a run of S steps visits, and a step as eight numbers.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";
import type { Json } from "./config.ts";

/** What the model was trained to predict. */
export type PredictionType = "epsilon" | "v_prediction" | "sample";
/** How the timesteps of a run are spread over the schedule. */
export type TimestepSpacing = "leading" | "trailing" | "linspace";

/** The choices of each key, the libraries' default first. */
const CHOICES = {
  beta_schedule: ["linear", "scaled_linear", "squaredcos_cap_v2"],
  prediction_type: ["epsilon", "v_prediction", "sample"],
  timestep_spacing: ["leading", "trailing", "linspace"],
  variance_type: ["fixed_small", "fixed_large"],
} as const;

function choice<K extends keyof typeof CHOICES>(
  json: Json,
  key: K,
  source: string,
): (typeof CHOICES)[K][number] {
  const known: readonly string[] = CHOICES[key];
  const value = json[key] ?? known[0];
  if (!known.includes(value as string)) {
    throw new Error(
      `${source}: "${key}" is ${JSON.stringify(value)}; known are ${known.join(", ")}`,
    );
  }
  return value as (typeof CHOICES)[K][number];
}

/** The noise levels of a diffusion process, in float64. */
export class NoiseSchedule {
  readonly trainTimesteps: number;
  readonly betas: Float64Array;
  /** `abar_t`, the product of `1 - beta` up to and including t. */
  readonly alphasCumprod: Float64Array;
  readonly predictionType: PredictionType;
  readonly timestepSpacing: TimestepSpacing;
  readonly stepsOffset: number;
  /** `abar` where DDIM's last step leads to: 1, or that of t = 0. */
  readonly finalAlphaCumprod: number;
  /** Samplers clamp the predicted original to this; infinite when the schedule does not clip. */
  readonly clipRange: number;
  /** DDPM's variance: that of the posterior, or beta. */
  readonly varianceType: "fixed_small" | "fixed_large";
  /** The file's own content. */
  readonly json: Json;

  private constructor(json: Json, source: string) {
    this.json = json;
    this.trainTimesteps = number(json, "num_train_timesteps", 1000, source);
    this.betas = betas(json, this.trainTimesteps, source);
    this.alphasCumprod = new Float64Array(this.trainTimesteps);
    this.betas.reduce((abar, beta, t) => this.alphasCumprod[t] = abar * (1 - beta), 1);
    this.predictionType = choice(json, "prediction_type", source);
    this.timestepSpacing = choice(json, "timestep_spacing", source);
    this.varianceType = choice(json, "variance_type", source);
    this.stepsOffset = number(json, "steps_offset", 0, source);
    this.finalAlphaCumprod = json.set_alpha_to_one === false ? this.alphasCumprod[0]! : 1;
    this.clipRange = json.clip_sample === true
      ? number(json, "clip_sample_range", 1, source)
      : Infinity;
    for (const key of ["thresholding", "rescale_betas_zero_snr"]) {
      if (json[key] === true) {
        throw new Error(`${source}: "${key}" is true, which this implementation does not have`);
      }
    }
  }

  /**
   * Reads a schedule. Absent keys take diffusers' defaults, save that samples are not clipped.
   *
   * @param json The parsed `scheduler_config.json`, of any scheduler class.
   * @param source The file's name, for messages.
   * @throws {Error} For a setting that is not implemented.
   */
  static fromConfig(json: Json, source = "the scheduler's configuration"): NoiseSchedule {
    return new NoiseSchedule(json, source);
  }

  /** `abar_t`; timesteps before the first are noise-free. */
  alphaCumprod(t: number): number {
    return t < 0 ? 1 : this.alphasCumprod[t]!;
  }

  /**
   * The timesteps that a run visits, noisiest first, exactly as diffusers spaces them.
   *
   * @param steps How many, at most `trainTimesteps`.
   * @param spacing Default: the schedule's own.
   * @throws {RangeError} When the number of steps is not possible.
   */
  timesteps(steps: number, spacing: TimestepSpacing = this.timestepSpacing): number[] {
    const total = this.trainTimesteps;
    if (!Number.isInteger(steps) || steps < 1 || steps > total) {
      throw new RangeError(
        `the number of steps must be an integer from 1 to ${total}, not ${steps}`,
      );
    }
    const indices = Array.from({ length: steps }, (_, i) => i);
    switch (spacing) {
      case "leading": {
        const ratio = Math.floor(total / steps);
        return indices.map((i) => i * ratio + this.stepsOffset).reverse();
      }
      case "trailing":
        return indices.map((i) => roundHalfEven(total - i * (total / steps)) - 1);
      case "linspace":
        if (steps === 1) return [0];
        return indices.map((i) => roundHalfEven(i * ((total - 1) / (steps - 1)))).reverse();
    }
  }

  /**
   * The weights by which the noisy sample and the model's output give the predicted original and the
   * predicted noise at timestep t.
   */
  prediction(t: number): Pick<StepWeights, "original" | "epsilon"> {
    const signal = Math.sqrt(this.alphaCumprod(t));
    const noise = Math.sqrt(1 - this.alphaCumprod(t));
    switch (this.predictionType) {
      case "epsilon":
        return { original: [1 / signal, -noise / signal], epsilon: [0, 1] };
      case "sample":
        return { original: [0, 1], epsilon: [1 / noise, -signal / noise] };
      case "v_prediction":
        return { original: [signal, -noise], epsilon: [noise, signal] };
    }
  }
}

function number(json: Json, key: string, fallback: number, source: string): number {
  const value = json[key] ?? fallback;
  if (typeof value !== "number") {
    throw new Error(`${source}: "${key}" is ${JSON.stringify(value)}; expected a number`);
  }
  return value;
}

function betas(json: Json, count: number, source: string): Float64Array {
  if (Array.isArray(json.trained_betas)) return Float64Array.from(json.trained_betas);
  const start = number(json, "beta_start", 0.0001, source);
  const end = number(json, "beta_end", 0.02, source);
  const line = (from: number, to: number) =>
    Float64Array.from({ length: count }, (_, t) => from + (to - from) * t / (count - 1));
  switch (choice(json, "beta_schedule", source)) {
    case "linear":
      return line(start, end);
    case "scaled_linear":
      return line(Math.sqrt(start), Math.sqrt(end)).map((root) => root * root);
    case "squaredcos_cap_v2": {
      const abar = (u: number) => Math.cos((u + 0.008) / 1.008 * Math.PI / 2) ** 2;
      return Float64Array.from(
        { length: count },
        (_, t) => Math.min(1 - abar((t + 1) / count) / abar(t / count), 0.999),
      );
    }
  }
}

/** NumPy's rounding, which the libraries use: halves go to the even neighbour. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

/**
 * One sampler step as weights. With the noisy sample x and the model's output o:
 *
 *     x0   = original[0] x + original[1] o, clamped to the schedule's range
 *     eps  = epsilon[0] x + epsilon[1] o
 *     next = next[0] x0 + next[1] eps + next[2] x + next[3] z,   z standard normal
 */
export interface StepWeights {
  readonly original: readonly [number, number];
  readonly epsilon: readonly [number, number];
  readonly next: readonly [number, number, number, number];
}

/** The weights as a tensor's content, so that one compiled step serves every timestep. */
export function packStep({ original, epsilon, next }: StepWeights): Float32Array {
  return Float32Array.of(...original, ...epsilon, ...next);
}

/**
 * Takes a sampler step.
 *
 * @param weights [8], from {@linkcode packStep}.
 * @param sample x, [N, ...]
 * @param output The model's, of the same shape.
 * @param clipRange The schedule's.
 * @param noise z, of the same shape; none for a deterministic step.
 */
export function applyStep(
  weights: Tensor,
  sample: Tensor,
  output: Tensor,
  clipRange = Infinity,
  noise?: Tensor,
): Tensor {
  const weight = (i: number) => weights.slice(0, i, i + 1);
  let original = sample.mul(weight(0)).add(output.mul(weight(1)));
  if (clipRange !== Infinity) original = original.maximum(-clipRange).minimum(clipRange);
  const epsilon = sample.mul(weight(2)).add(output.mul(weight(3)));
  const next = original.mul(weight(4)).add(epsilon.mul(weight(5))).add(sample.mul(weight(6)));
  return noise ? next.add(noise.mul(weight(7))) : next;
}
