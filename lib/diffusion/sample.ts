/**
 * From noise to latents: the denoising loop, with classifier-free guidance (Ho and Salimans 2022).
 *
 * One step is compiled for a batch and replayed for every timestep; what differs between timesteps
 * comes in as small tensors.
 *
 * @module
 */
import { concat, jit, type Jitted, realize, type Tensor, tensor } from "../tensor/mod.ts";
import { randomNormal, stream } from "../tensor/random.ts";
import type { LoraAdapter, Weights } from "../nn/weights.ts";
import type { UNetConfig } from "./config.ts";
import {
  advance,
  followPlan,
  type SampleState,
  type SamplingPlan,
  type StepForm,
  type StepInputs,
} from "./sampling_plan.ts";
import { type AddedConditions, unet } from "./unet.ts";

/**
 * Classifier-free guidance: `unconditional + scale (conditional - unconditional)`.
 *
 * @param scale 1 is no guidance.
 */
export function guide(unconditional: Tensor, conditional: Tensor, scale: Tensor | number): Tensor {
  return unconditional.add(conditional.sub(unconditional).mul(scale));
}

/**
 * Starting noise of image `index`: standard normal numbers that depend on the seed and the index
 * alone, so that models compared on one prompt start from the same noise.
 *
 * @param shape [h, w, channels]
 */
export function startingNoise(seed: number, index: number, shape: readonly number[]): Float32Array {
  return randomNormal({ seed, stream: stream("sample.start"), step: index }, shape);
}

/**
 * The noise that a step adds to image `index`, by its seed and index too.
 *
 * @param evaluation Which step of the run, from 0.
 * @param shape [h, w, channels]
 */
export function stepNoise(
  seed: number,
  index: number,
  evaluation: number,
  shape: readonly number[],
): Float32Array {
  return randomNormal({ seed, stream: stream(`sample.step.${evaluation}`), step: index }, shape);
}

/** What the U-Net is told about the prompts, without and with text. */
export interface Conditions {
  /** [N, L, D] */
  readonly context: Tensor;
  readonly added?: AddedConditions | undefined;
}

/** How a batch is sampled. */
export interface SampleOptions {
  /** The run, by {@linkcode samplingPlan}. */
  readonly plan: SamplingPlan;
  readonly guidanceScale: number;
  readonly lora?: LoraAdapter | undefined;
  /** f32 of the noise's shape, standard normal, for a step of a scheduler that adds noise (DDPM). */
  readonly stepNoise?: ((evaluation: number) => Float32Array) | undefined;
  /** Called after every evaluation of the U-Net. */
  readonly onStep?: ((done: number, evaluations: number) => void) | undefined;
}

interface StepArguments extends StepInputs {
  /** [1] */
  readonly guidanceScale: Tensor;
  /** Context and additional conditions; twice the batch under guidance, the empty prompts first. */
  readonly conditions: { readonly [key: string]: Tensor };
  readonly lora: { readonly [layer: string]: { readonly down: Tensor; readonly up: Tensor } };
}

/**
 * A U-Net that turns noise into latents. Compiled steps are kept, one for each batch shape, LoRA
 * layout and form of step, so that many adapters can be compared with one compilation.
 */
export class Sampler {
  readonly #steps = new Map<string, Jitted<SampleState, StepArguments, Record<string, Tensor>>>();

  constructor(readonly weights: Weights, readonly config: UNetConfig) {}

  /**
   * Samples latents.
   *
   * @param noise f32 [N, h, w, channels], standard normal.
   * @param conditional The prompts.
   * @param unconditional The empty (or negative) prompts; without them there is no guidance.
   * @returns Latents of the noise's shape, realised; the caller disposes them.
   */
  async sample(
    noise: { readonly data: Float32Array; readonly shape: readonly number[] },
    conditional: Conditions,
    unconditional: Conditions | undefined,
    options: SampleOptions,
  ): Promise<Tensor> {
    const { plan, guidanceScale, lora, stepNoise, onStep } = options;
    const guided = unconditional !== undefined;
    // Joined conditions are new tensors, which end with the run; alone they stay the caller's.
    const conditions = joined(guided ? [unconditional, conditional] : [conditional]);
    await realize(...Object.values(conditions));
    await this.weights.realize();

    const step = this.#step(plan.form, guided, noise.shape, conditions, lora);
    const loraTree = Object.fromEntries(lora?.layers ?? []);
    using scale = tensor([guidanceScale], [1]);
    const latents = await followPlan(plan, noise, async (state, inputs, i) => {
      await step(state, { ...inputs, guidanceScale: scale, conditions, lora: loraTree });
      onStep?.(i + 1, plan.evaluations.length);
    }, stepNoise);
    if (guided) { for (const t of Object.values(conditions)) t.dispose(); }
    return latents;
  }

  /** Frees the compiled steps (not the weights). */
  dispose(): void {
    for (const step of this.#steps.values()) step.dispose();
    this.#steps.clear();
  }

  /** The compiled step for a form, a batch shape and a LoRA layout. */
  #step(
    form: StepForm,
    guided: boolean,
    shape: readonly number[],
    conditions: { readonly [key: string]: Tensor },
    lora: LoraAdapter | undefined,
  ) {
    const layout = [...lora?.layers ?? []].map(([path, { down }]) => `${path}:${down.shape}`);
    const key = JSON.stringify([
      form,
      guided,
      shape,
      conditions.context!.shape,
      lora?.scale,
      layout,
    ]);
    const found = this.#steps.get(key);
    if (found) return found;
    const made = jit((state: SampleState, args: StepArguments) => {
      const overlay = lora && { scale: lora.scale, layers: new Map(Object.entries(args.lora)) };
      const w = this.weights.withLora(overlay);
      const { textEmbeds, timeIds } = args.conditions;
      const context = args.conditions.context!;
      const batch = context.shape[0]!;
      const { latents } = state;
      const output = unet(w, this.config, {
        sample: guided ? concat([latents, latents], 0) : latents,
        timestep: args.timestep.expand([batch]),
        context,
        added: textEmbeds && { textEmbeds, timeIds: timeIds! },
      });
      const predicted = guided
        ? guide(...output.split(0, 2) as [Tensor, Tensor], args.guidanceScale)
        : output;
      return { state: advance(form, state, predicted, args.weights, args.noise[0]), result: {} };
    });
    this.#steps.set(key, made);
    return made;
  }
}

/** Conditions one below the other along the batch, as a record of tensors. */
function joined(parts: readonly Conditions[]): { [key: string]: Tensor } {
  const context = concat(parts.map((p) => p.context), 0);
  if (!parts[0]!.added) return { context };
  return {
    context,
    textEmbeds: concat(parts.map((p) => p.added!.textEmbeds), 0),
    timeIds: concat(parts.map((p) => p.added!.timeIds), 0),
  };
}
