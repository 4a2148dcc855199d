/**
 * How much noise there is at each timestep, from diffusers' `scheduler_config.json`, and what a
 * model's output says about a noisy sample.
 *
 * @module
 */
import type { Json } from "./config.ts";
import { SchedulerConfig } from "./scheduler_config.ts";

/** What the model was trained to predict. */
export type PredictionType = "epsilon" | "v_prediction" | "sample";

/** A noisy sample is `signal x_0 + noise eps`, with `signal^2 + noise^2 = 1`. */
export interface NoiseLevel {
  readonly signal: number;
  readonly noise: number;
}

/** No noise at all. */
export const CLEAN: NoiseLevel = { signal: 1, noise: 0 };

/**
 * The weights by which the noisy sample and the model's output give the predicted original and the
 * predicted noise.
 */
export interface Prediction {
  readonly original: readonly [number, number];
  readonly epsilon: readonly [number, number];
}

/** The noise levels of a diffusion process, in float64. */
export class NoiseSchedule {
  readonly trainTimesteps: number;
  readonly betas: Float64Array;
  /** `abar_t`, the product of `1 - beta` up to and including t. */
  readonly alphasCumprod: Float64Array;
  readonly predictionType: PredictionType;
  /** The file's settings, which say how to sample too. */
  readonly config: SchedulerConfig;

  private constructor(config: SchedulerConfig) {
    this.config = config;
    this.trainTimesteps = config.integer("num_train_timesteps", 1000, 2, 1e6);
    config.choice("rescale_betas_zero_snr", [false]);
    this.betas = betas(config, this.trainTimesteps);
    this.alphasCumprod = new Float64Array(this.trainTimesteps);
    this.betas.reduce((abar, beta, t) => this.alphasCumprod[t] = abar * (1 - beta), 1);
    this.predictionType = config.choice("prediction_type", ["epsilon", "v_prediction", "sample"]);
  }

  /**
   * Reads a schedule. Absent keys take diffusers' defaults. What concerns sampling alone is read when
   * a run is planned (see `samplingPlan`), so that any scheduler's file serves for training.
   *
   * @param json The parsed `scheduler_config.json`, of any scheduler class.
   * @param source The file's name, for messages.
   * @throws {Error} For a setting that is not implemented.
   */
  static fromConfig(json: Json, source = "the scheduler's configuration"): NoiseSchedule {
    return new NoiseSchedule(new SchedulerConfig(json, source));
  }

  /** The file's content to be saved: an infinity, which JSON lacks, is diffusers' default anyway. */
  get json(): Json {
    const entries = Object.entries(this.config.json);
    return Object.fromEntries(entries.filter(([, v]) => v !== Infinity && v !== -Infinity));
  }

  /** `abar_t`; timesteps before the first are noise-free. */
  alphaCumprod(t: number): number {
    return t < 0 ? 1 : this.alphasCumprod[t]!;
  }

  /** The level of a timestep. */
  level(t: number): NoiseLevel {
    const abar = this.alphaCumprod(t);
    return { signal: Math.sqrt(abar), noise: Math.sqrt(1 - abar) };
  }

  /** How to read the model's output at a noise level. */
  prediction({ signal, noise }: NoiseLevel): Prediction {
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

function betas(config: SchedulerConfig, count: number): Float64Array {
  const given = config.json.trained_betas ?? undefined;
  if (given !== undefined) {
    const isBeta = (beta: unknown) => typeof beta === "number" && beta > 0 && beta < 1;
    if (!Array.isArray(given) || given.length !== count || !given.every(isBeta)) {
      throw new Error(
        `${config.source}: "trained_betas" must be a list of ${count} numbers between 0 and 1, ` +
          `one for each of "num_train_timesteps"`,
      );
    }
    return Float64Array.from(given);
  }
  const start = config.number("beta_start", 0.0001);
  const end = config.number("beta_end", 0.02);
  for (const [key, beta] of [["beta_start", start], ["beta_end", end]] as const) {
    if (beta <= 0 || beta >= 1) {
      throw new Error(`${config.source}: "${key}" is ${beta}; expected a number between 0 and 1`);
    }
  }
  const line = (from: number, to: number) =>
    Float64Array.from({ length: count }, (_, t) => from + (to - from) * t / (count - 1));
  switch (config.choice("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])) {
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
