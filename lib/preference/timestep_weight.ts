/**
 * The control that separates noise-conditioned perception's metric from its weighting of timesteps.
 *
 * To first order the perceptual error is the latent error in another metric and with another weight
 * per timestep. Multiplying the latent error by r(t) = (mean perceptual error) / (mean latent error) gives
 * plain DPO the same weighting in the old metric.
 *
 * @module
 */
import type { UNetConfig } from "../diffusion/config.ts";
import type { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import { unet } from "../diffusion/unet.ts";
import type { Weights } from "../nn/weights.ts";
import { jit, randomNormal, stream, type Tensor, tensor } from "../tensor/mod.ts";
import {
  COEFFICIENTS,
  coefficientsOf,
  gatherCoefficients,
  latentError,
  noisy,
  perceptualError,
  reverseStep,
} from "./errors.ts";
import { type FeatureChoice, features } from "./features.ts";
import { addedConditions, type PreferencePairs } from "./pairs.ts";

/** Ratios at some timesteps, ascending; between them log r is linear in t, outside them constant. */
export interface TimestepWeight {
  readonly knots: readonly number[];
  readonly ratios: readonly number[];
}

/** Where r(t) is measured: closer together where it changes fast. */
const KNOTS = [1, 5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999] as const;

/** r(t). */
export function timestepWeight({ knots, ratios }: TimestepWeight, t: number): number {
  const above = knots.findIndex((knot) => knot >= t);
  if (above === -1) return ratios[ratios.length - 1]!;
  if (above === 0) return ratios[0]!;
  const share = (t - knots[above - 1]!) / (knots[above]! - knots[above - 1]!);
  return Math.exp(Math.log(ratios[above - 1]!) * (1 - share) + Math.log(ratios[above]!) * share);
}

/** What {@linkcode measureTimestepWeight} measures with. */
export interface TimestepWeightOptions {
  /** The base model. */
  readonly base: Weights;
  readonly config: UNetConfig;
  readonly schedule: NoiseSchedule;
  /** Whose winners are noised. */
  readonly pairs: PreferencePairs;
  readonly features: FeatureChoice;
  /** Images per knot, evenly spaced over the pairs; default 64. */
  readonly images?: number;
  /** Images computed at once. */
  readonly batch: number;
  /** Timesteps to measure at, ascending; default: fourteen over the 1000 of Stable Diffusion. */
  readonly knots?: readonly number[];
  readonly seed: number;
}

/**
 * Measures r(t) for a model: at each knot the mean perceptual error of its predictions over their mean
 * latent error, on the same winners under noise of their own.
 */
export async function measureTimestepWeight(
  options: TimestepWeightOptions,
): Promise<TimestepWeight> {
  const { base, config, schedule, pairs, seed } = options;
  const knots = options.knots ?? KNOTS.filter((t) => t < schedule.trainTimesteps);
  const images = Math.min(options.images ?? 64, pairs.length);
  const size = Math.min(options.batch, images);
  const batches = Math.floor(images / size);
  const shape = [size, ...pairs.latentShape];
  await base.realize();
  type Inputs =
    & Record<
      "latents" | "context" | "timestep" | "coefficients" | "epsilon" | "z",
      Tensor
    >
    & { added?: { textEmbeds: Tensor; timeIds: Tensor } };
  const measure = jit((state: Record<never, Tensor>, inputs: Inputs) => {
    const { context, added, timestep, epsilon, z } = inputs;
    const c = coefficientsOf(inputs.coefficients);
    const sample = noisy(inputs.latents, epsilon, c);
    const predicted = unet(base, config, { sample, timestep, context, added });
    const [target, found] = [epsilon, predicted].map((e) =>
      features(
        base,
        config,
        { sample: reverseStep(sample, e, z, c), timestep: timestep.sub(1), context, added },
        options.features,
      )
    ) as [Tensor[], Tensor[]];
    const perceptual = perceptualError(target, found).mean();
    const latent = latentError(epsilon, predicted).mean();
    return { state, result: { perceptual, latent } };
  });
  try {
    const ratios: number[] = [];
    for (const [row, knot] of knots.entries()) {
      let perceptual = 0;
      let latent = 0;
      for (let i = 0; i < batches; i++) {
        const first = i * size;
        const some = Array.from(
          { length: size },
          (_, k) => Math.floor((first + k) * pairs.length / images),
        );
        const { winner, context, added } = await pairs.read(some);
        const timesteps = new Float32Array(size).fill(knot);
        const draw = (name: string) =>
          tensor(
            randomNormal(
              { seed, stream: stream(`timestep-weight.${name}`), step: row * batches + i },
              shape,
            ),
            shape,
          );
        const errors = await measure({}, {
          latents: tensor(winner, shape),
          context: tensor(context, [size, ...pairs.contextShape]),
          ...added && { added: addedConditions(added, size) },
          timestep: tensor(timesteps, [size]),
          coefficients: tensor(gatherCoefficients(schedule, timesteps), [COEFFICIENTS, size]),
          epsilon: draw("epsilon"),
          z: draw("z"),
        });
        perceptual += await errors.perceptual.item();
        latent += await errors.latent.item();
        for (const error of Object.values(errors)) error.dispose();
      }
      ratios.push(perceptual / latent);
    }
    return { knots, ratios };
  } finally {
    measure.dispose();
  }
}
