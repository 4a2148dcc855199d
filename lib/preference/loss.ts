/**
 * From a batch to a loss: noise the images, let the model (and the reference) predict the noise,
 * measure the errors, and hand them to the objective.
 *
 * Winners and losers go through each network as one batch of N = G B images, where G is 2 for pairs and
 * 1 when only winners are needed. Gradients flow through the model's prediction and, in perceptual
 * space, through f's input; what the reference and the target need is computed without them.
 *
 * @module
 */
import type { UNetConfig } from "../diffusion/config.ts";
import { type AddedConditions, unet, type UNetOptions } from "../diffusion/unet.ts";
import type { LoraAdapter, Weights } from "../nn/weights.ts";
import { concat, type Tensor } from "../tensor/mod.ts";
import {
  coefficientsOf,
  latentError,
  type NoiseCoefficients,
  noisy,
  perceptualError,
  reverseStep,
} from "./errors.ts";
import { type FeatureChoice, features } from "./features.ts";
import type { Method } from "./method.ts";
import { cpo, dpo, type ObjectiveValue, type PairErrors, sft } from "./objectives.ts";

/** B pairs, or B winners, on the device. */
export interface PreferenceBatch {
  /** Clean latents [G, B, h, w, C], winners first. */
  readonly latents: Tensor;
  /** The prompts' hidden states [B, L, D]. */
  readonly context: Tensor;
  /** SDXL's additional conditioning, [B, ...]. */
  readonly added?: AddedConditions | undefined;
  /** f32 [B] */
  readonly timestep: Tensor;
  /** Where the reverse step leads, f32 [B]; t - 1 unless given. Perceptual errors only. */
  readonly nextTimestep?: Tensor | undefined;
  /** From `gatherCoefficients`, [5, B]. */
  readonly coefficients: Tensor;
  /** The noise, shared by a pair: [B, h, w, C]. */
  readonly epsilon: Tensor;
  /** The reverse step's noise: shared by a pair as [B, h, w, C], or [G, B, h, w, C]. Perceptual errors only. */
  readonly z?: Tensor | undefined;
  /** r(t), [B], for weighted methods. */
  readonly weight?: Tensor | undefined;
}

/** The networks: theta is the base with the adapter, the reference and f are the base without. */
export interface PreferenceModel {
  readonly base: Weights;
  readonly config: UNetConfig;
  readonly lora: LoraAdapter;
}

/** How a loss is made. */
export type LossOptions =
  & Pick<Method, "objective" | "space" | "beta" | "lambda">
  & { readonly features: FeatureChoice }
  & UNetOptions;

/** The loss and what it was made of: errors [B], weighted if the method is. */
export interface PreferenceLoss extends ObjectiveValue {
  readonly theta: { readonly winner: Tensor; readonly loser?: Tensor };
  readonly reference?: PairErrors;
}

/**
 * The loss of a batch.
 *
 * @throws {Error} If the batch lacks losers or z where the method needs them.
 */
export function preferenceLoss(
  model: PreferenceModel,
  batch: PreferenceBatch,
  options: LossOptions,
): PreferenceLoss {
  const { objective, beta, lambda } = options;
  const groups = batch.latents.shape[0];
  if (objective !== "sft" && groups !== 2) {
    throw new Error(`${objective} compares winners with losers, but the batch has winners only`);
  }
  const errors = predictionErrors(model, batch, options);
  const halves = (x: Tensor): PairErrors => {
    const [winner, loser] = x.split(0, 2).map((half) => half.squeeze(0)) as [Tensor, Tensor];
    return { winner, loser };
  };
  if (objective === "sft") {
    const winner = errors.theta.slice(0, 0, 1).squeeze(0);
    return { ...sft(winner), theta: { winner } };
  }
  const theta = halves(errors.theta);
  if (objective === "cpo") return { ...cpo(theta, beta, lambda), theta };
  const reference = halves(errors.reference!);
  return { ...dpo(theta, reference, beta), theta, reference };
}

/** Errors [G, B] of the model and, for DPO, of the reference. */
function predictionErrors(
  { base, config, lora }: PreferenceModel,
  batch: PreferenceBatch,
  options: LossOptions,
): { theta: Tensor; reference?: Tensor } {
  const c = coefficientsOf(batch.coefficients);
  const [groups, pairs, ...image] = batch.latents.shape as [number, number, ...number[]];
  const count = groups * pairs;
  /** What a pair shares, for each of its images. */
  const repeat = (x: Tensor) =>
    groups === 1
      ? x
      : x.unsqueeze(0).expand([groups, ...x.shape]).reshape([count, ...x.shape.slice(1)]);
  const timestep = repeat(batch.timestep);
  const context = repeat(batch.context);
  const added = batch.added && {
    textEmbeds: repeat(batch.added.textEmbeds),
    timeIds: repeat(batch.added.timeIds),
  };

  const noisySample = noisy(batch.latents, batch.epsilon, c);
  const inputs = { sample: noisySample.reshape([count, ...image]), timestep, context, added };
  const predict = (w: Weights) => unet(w, config, inputs, options).reshape(batch.latents.shape);
  const predictions = [predict(base.withLora(lora))];
  if (options.objective === "dpo") predictions.push(predict(base.withLora(undefined)));

  if (options.space === "latent") {
    const [theta, reference] = predictions.map((e) => {
      const error = latentError(batch.epsilon, e);
      return batch.weight ? error.mul(batch.weight) : error;
    }) as [Tensor, Tensor?];
    return { theta, ...reference && { reference } };
  }

  if (!batch.z) throw new Error("perceptual errors need z, the noise of the reverse step");
  const steps = reverseSteps(noisySample, [batch.epsilon, ...predictions], batch.z, c)
    .map((x) => x.reshape([count, ...image]));
  const nextTimestep = repeat(batch.nextTimestep ?? batch.timestep.sub(1));
  const see = (samples: readonly Tensor[]) => {
    const all = (x: Tensor) => concatenate(samples.map(() => x));
    const levels = features(
      base.withLora(undefined),
      config,
      {
        sample: concatenate(samples),
        timestep: all(nextTimestep),
        context: all(context),
        added: added && { textEmbeds: all(added.textEmbeds), timeIds: all(added.timeIds) },
      },
      options.features,
      options,
    );
    return samples.map((_, i) => levels.map((x) => x.slice(0, i * count, (i + 1) * count)));
  };
  // The target and the reference need no gradient, so they share a forward pass that keeps nothing.
  const [trueStep, thetaStep, referenceStep] = steps as [Tensor, Tensor, Tensor?];
  const [target, referenceFeatures] = see(
    referenceStep ? [trueStep, referenceStep] : [trueStep],
  ) as [Tensor[], Tensor[]?];
  const [thetaFeatures] = see([thetaStep]) as [Tensor[]];
  const error = (found: readonly Tensor[]) =>
    perceptualError(target, found).reshape([groups, pairs]);
  return {
    theta: error(thetaFeatures),
    ...referenceFeatures && { reference: error(referenceFeatures) },
  };
}

/** The reverse step for each way of taking the noise, with the same z. */
function reverseSteps(
  noisySample: Tensor,
  epsilons: readonly Tensor[],
  z: Tensor,
  c: NoiseCoefficients,
): Tensor[] {
  return epsilons.map((e) => reverseStep(noisySample, e, z, c));
}

function concatenate(parts: readonly Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : concat([...parts], 0);
}
