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

/** Ratios at some timesteps, ascending; between them log r is linear in t, outside them constant. */
export interface TimestepWeight {
  readonly knots: readonly number[];
  readonly ratios: readonly number[];
}

/** As measured on the prototype of the nano lineage, with the last down block's features. */
export const nanoTimestepWeight: TimestepWeight = {
  knots: [1, 5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999],
  ratios: [
    ...[1.26e-3, 5.4e-4, 2.15e-4, 1.3e-4, 1.28e-4, 1.67e-4, 2.13e-4],
    ...[3.43e-4, 6.2e-4, 1.18e-3, 2.17e-3, 2.3e-3, 1.5e-3, 1e-3],
  ],
};

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
  /** Clean latents [N, h, w, C]; a few dozen winners do. */
  readonly latents: Tensor;
  /** Their prompts' hidden states [N, L, D]. */
  readonly context: Tensor;
  readonly features: FeatureChoice;
  /** Default: those of {@linkcode nanoTimestepWeight}. */
  readonly knots?: readonly number[];
  readonly seed: number;
}

/**
 * Measures r(t) for a model: the mean perceptual error over the mean latent error of its predictions,
 * at each knot on the same images, with noise of its own.
 */
export async function measureTimestepWeight(
  options: TimestepWeightOptions,
): Promise<TimestepWeight> {
  const { base, config, schedule, latents, seed } = options;
  const knots = options.knots ?? nanoTimestepWeight.knots;
  const count = latents.shape[0]!;
  await base.realize();
  type Inputs = Record<
    "latents" | "context" | "timestep" | "coefficients" | "epsilon" | "z",
    Tensor
  >;
  const measure = jit((state: Record<never, Tensor>, inputs: Inputs) => {
    const { context, timestep, epsilon, z } = inputs;
    const c = coefficientsOf(inputs.coefficients);
    const sample = noisy(inputs.latents, epsilon, c);
    const predicted = unet(base, config, { sample, timestep, context });
    const [target, found] = [epsilon, predicted].map((e) =>
      features(
        base,
        config,
        { sample: reverseStep(sample, e, z, c), timestep: timestep.sub(1), context },
        options.features,
      )
    ) as [Tensor[], Tensor[]];
    const perceptual = perceptualError(target, found).mean();
    return { state, result: perceptual.div(latentError(epsilon, predicted).mean()) };
  });
  try {
    const ratios: number[] = [];
    for (const [step, knot] of knots.entries()) {
      const timesteps = new Float32Array(count).fill(knot);
      const draw = (name: string) =>
        tensor(
          randomNormal({ seed, stream: stream(`timestep-weight.${name}`), step }, latents.shape),
          latents.shape,
        );
      using ratio = await measure({}, {
        latents,
        context: options.context,
        timestep: tensor(timesteps, [count]),
        coefficients: tensor(gatherCoefficients(schedule, timesteps), [COEFFICIENTS, count]),
        epsilon: draw("epsilon"),
        z: draw("z"),
      });
      ratios.push(await ratio.item());
    }
    return { knots, ratios };
  } finally {
    measure.dispose();
  }
}
