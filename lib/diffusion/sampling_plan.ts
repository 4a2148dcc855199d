/**
 * What every sampler comes down to: the timesteps at which the model is asked, and each step as a few
 * numbers, worked out in float64 before the run.
 *
 * The sample is held as the model sees it, `x = signal x_0 + noise eps` with
 * `signal^2 + noise^2 = 1`, also where a method is written for samples of growing variance. Every
 * deterministic sampler then takes DDIM's step from one noise level to the next,
 * `signal' x_0 + noise' eps`; they differ in the levels that they visit, and in what they add of
 * earlier evaluations to get closer to the curve.
 *
 * @module
 */
import { realize, type Tensor, tensor, type Tree, zeros } from "../tensor/mod.ts";
import type { NoiseLevel, NoiseSchedule, Prediction } from "./noise_schedule.ts";

/**
 * One step as weights. With the noisy sample x, the model's output o, the remembered m_k of earlier
 * evaluations, the latest first, and z standard normal:
 *
 *     x0   = original[0] x + original[1] o, clamped where the sampler clips
 *     eps  = epsilon[0] x + epsilon[1] o
 *     next = next[0] x0 + next[1] eps + next[2] x + next[3] z + sum_k memory[k] m_k
 */
export interface StepWeights extends Prediction {
  readonly next: readonly [number, number, number, number];
  /** As many as the plan remembers. */
  readonly memory?: readonly number[];
}

/** What the steps of a run have in common: what a compiled step depends on. */
export interface StepForm {
  /** The predicted original is clamped to this; absent when it is not. */
  readonly clipRange?: number;
  /** What is kept of evaluations, the outputs or the predicted originals, and of how many. */
  readonly memory?: { readonly of: "output" | "original"; readonly length: number };
  /** Whether steps add noise. */
  readonly noisy?: boolean;
}

/** A run from noise to a sample. */
export interface SamplingPlan {
  readonly form: StepForm;
  /** What standard normal noise is multiplied by to start with. */
  readonly startScale: number;
  /** Each evaluation of the model, the timestep that it is told and the step that follows. */
  readonly evaluations: readonly { readonly timestep: number; readonly weights: StepWeights }[];
}

/** DDIM's step: the predicted original and the predicted noise, put together at another level. */
export function transfer(schedule: NoiseSchedule, from: NoiseLevel, to: NoiseLevel): StepWeights {
  return { ...schedule.prediction(from), next: [to.signal, to.noise, 0, 0] };
}

/** The sample on its way. */
export interface SampleState {
  readonly [key: string]: Tree;
  readonly latents: Tensor;
  /** The latest first. */
  readonly memory: readonly Tensor[];
}

/** The weights as a tensor's content, so that one compiled step serves every timestep. */
function packStep({ original, epsilon, next, memory = [] }: StepWeights): Float32Array {
  return Float32Array.of(...original, ...epsilon, ...next, ...memory);
}

/**
 * Takes a step.
 *
 * @param state Tensors of one shape, [N, ...].
 * @param output The model's, of the same shape.
 * @param weights [8 + memory], packed.
 * @param noise z, of the same shape, where the steps are noisy.
 */
export function advance(
  form: StepForm,
  { latents, memory }: SampleState,
  output: Tensor,
  weights: Tensor,
  noise?: Tensor,
): SampleState {
  const weight = (i: number) => weights.slice(0, i, i + 1);
  let original = latents.mul(weight(0)).add(output.mul(weight(1)));
  const { clipRange } = form;
  if (clipRange !== undefined) original = original.maximum(-clipRange).minimum(clipRange);
  const epsilon = latents.mul(weight(2)).add(output.mul(weight(3)));
  let next = original.mul(weight(4)).add(epsilon.mul(weight(5))).add(latents.mul(weight(6)));
  if (noise) next = next.add(noise.mul(weight(7)));
  memory.forEach((past, k) => next = next.add(past.mul(weight(8 + k))));
  const latest = form.memory?.of === "output" ? output : original;
  return { latents: next, memory: [latest, ...memory].slice(0, memory.length) };
}

/** What a compiled step is given at each evaluation. */
export interface StepInputs {
  readonly [key: string]: Tree;
  /** f32 [1] */
  readonly timestep: Tensor;
  /** For {@linkcode advance}. */
  readonly weights: Tensor;
  /** z where the plan is noisy, else nothing. */
  readonly noise: readonly Tensor[];
}

/**
 * Goes through a plan.
 *
 * @param start Standard normal numbers and their shape [N, ...].
 * @param step Asks the model about the state and advances it in place.
 * @param stepNoise The standard normal numbers that an evaluation's step adds, for noisy plans.
 * @returns The sample, realised; the caller disposes it.
 */
export async function followPlan(
  { form, startScale, evaluations }: SamplingPlan,
  start: { readonly data: Float32Array; readonly shape: readonly number[] },
  step: (state: SampleState, inputs: StepInputs, evaluation: number) => Promise<unknown>,
  stepNoise?: (evaluation: number) => Float32Array,
): Promise<Tensor> {
  if (form.noisy && !stepNoise) {
    throw new TypeError("this scheduler's steps add noise: give followPlan stepNoise");
  }
  const { data, shape } = start;
  const latents = tensor(data.map((value) => value * startScale), shape);
  const memory = Array.from({ length: form.memory?.length ?? 0 }, () => zeros(shape));
  await realize(latents, ...memory);
  for (const [i, evaluation] of evaluations.entries()) {
    const packed = packStep(evaluation.weights);
    using timestep = tensor([evaluation.timestep], [1]);
    using weights = tensor(packed, [packed.length]);
    using noise = form.noisy && stepNoise ? tensor(stepNoise(i), shape) : undefined;
    await step({ latents, memory }, { timestep, weights, noise: noise ? [noise] : [] }, i);
  }
  for (const past of memory) past.dispose();
  return latents;
}
