/**
 * From noise to latents: the denoising loop, with classifier-free guidance (Ho and Salimans 2022).
 *
 * One step is compiled for a batch and replayed for every timestep; what differs between timesteps
 * comes in as small tensors.
 *
 * @module
 */
import {
  concat,
  jit,
  type Jitted,
  realize,
  type Tensor,
  tensor,
  type Tree,
} from "../tensor/mod.ts";
import { randomNormal, stream } from "../tensor/random.ts";
import type { LoraAdapter, Weights } from "../nn/weights.ts";
import type { UNetConfig } from "./config.ts";
import { ddimStep } from "./ddim.ts";
import { applyStep, type NoiseSchedule, packStep, type TimestepSpacing } from "./noise_schedule.ts";
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

/** What the U-Net is told about the prompts, without and with text. */
export interface Conditions {
  /** [N, L, D] */
  readonly context: Tensor;
  readonly added?: AddedConditions | undefined;
}

/** How a batch is sampled. */
export interface SampleOptions {
  readonly steps: number;
  readonly guidanceScale: number;
  /** Default: the schedule's own. */
  readonly spacing?: TimestepSpacing | undefined;
  readonly lora?: LoraAdapter | undefined;
  /** Called after every step. */
  readonly onStep?: ((done: number, steps: number) => void) | undefined;
}

interface StepState {
  readonly [key: string]: Tensor;
  readonly latents: Tensor;
}

type StepArguments = {
  readonly [key: string]: Tree;
  /** f32 [1] */
  readonly timestep: Tensor;
  /** [8] */
  readonly weights: Tensor;
  /** [1] */
  readonly guidanceScale: Tensor;
  /** Context and additional conditions; twice the batch under guidance, the empty prompts first. */
  readonly conditions: { readonly [key: string]: Tensor };
  readonly lora: { readonly [layer: string]: { readonly down: Tensor; readonly up: Tensor } };
};

/**
 * A U-Net and a schedule that turn noise into latents by DDIM at eta 0. Compiled steps are kept, one
 * for each batch shape and LoRA layout, so that many adapters can be compared with one compilation.
 */
export class Sampler {
  readonly #steps = new Map<string, Jitted<StepState, StepArguments, Record<string, Tensor>>>();

  constructor(
    readonly weights: Weights,
    readonly config: UNetConfig,
    readonly schedule: NoiseSchedule,
  ) {}

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
    const { steps, guidanceScale, spacing, lora, onStep } = options;
    const guided = unconditional !== undefined;
    // Joined conditions are new tensors, which end with the run; alone they stay the caller's.
    const conditions = joined(guided ? [unconditional, conditional] : [conditional]);
    const latents = tensor(noise.data.slice(), noise.shape);
    await realize(latents, ...Object.values(conditions));
    await this.weights.realize();

    const step = this.#step(guided, noise.shape, conditions, lora);
    const loraTree = Object.fromEntries(lora?.layers ?? []);
    using scale = tensor([guidanceScale], [1]);
    const timesteps = this.schedule.timesteps(steps, spacing);
    for (const [i, t] of timesteps.entries()) {
      using timestep = tensor([t], [1]);
      using weights = tensor(packStep(ddimStep(this.schedule, t, steps)), [8]);
      await step({ latents }, {
        timestep,
        weights,
        guidanceScale: scale,
        conditions,
        lora: loraTree,
      });
      onStep?.(i + 1, steps);
    }
    if (guided) { for (const t of Object.values(conditions)) t.dispose(); }
    return latents;
  }

  /** Frees the compiled steps (not the weights). */
  dispose(): void {
    for (const step of this.#steps.values()) step.dispose();
    this.#steps.clear();
  }

  /** The compiled step for a batch shape and a LoRA layout. */
  #step(
    guided: boolean,
    shape: readonly number[],
    conditions: { readonly [key: string]: Tensor },
    lora: LoraAdapter | undefined,
  ) {
    const layout = [...lora?.layers ?? []].map(([path, { down }]) => `${path}:${down.shape}`);
    const key = JSON.stringify([guided, shape, conditions.context!.shape, lora?.scale, layout]);
    const found = this.#steps.get(key);
    if (found) return found;
    const made = jit(({ latents }: StepState, args: StepArguments) => {
      const overlay = lora && { scale: lora.scale, layers: new Map(Object.entries(args.lora)) };
      const w = this.weights.withLora(overlay);
      const { textEmbeds, timeIds } = args.conditions;
      const context = args.conditions.context!;
      const batch = context.shape[0]!;
      const output = unet(w, this.config, {
        sample: guided ? concat([latents, latents], 0) : latents,
        timestep: args.timestep.expand([batch]),
        context,
        added: textEmbeds && { textEmbeds, timeIds: timeIds! },
      });
      const predicted = guided
        ? guide(...output.split(0, 2) as [Tensor, Tensor], args.guidanceScale)
        : output;
      const next = applyStep(args.weights, latents, predicted, this.schedule.clipRange);
      return { state: { latents: next }, result: {} };
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
