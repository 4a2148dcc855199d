/**
 * One optimiser step of NCP-DPO on the nano U-Net with random weights, made of the trainer's parts: the
 * batch is drawn on the host, the loss differentiated, the gradient clipped, AdamW's step taken.
 *
 * @module
 */
import { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import { initUNet } from "../diffusion/unet.ts";
import { SCHEDULER, UNET } from "../nano/pretrain/configs.ts";
import { clipGradNorm } from "../nn/clip_grad_norm.ts";
import { Weights } from "../nn/weights.ts";
import { type GroupState, PackedLora } from "../preference/adapter.ts";
import { Batches } from "../preference/batches.ts";
import { type PreferenceBatch, preferenceLoss } from "../preference/loss.ts";
import { methods } from "../preference/method.ts";
import { pairsInMemory } from "../preference/pairs.ts";
import { contractionFlops } from "../tensor/kernel.ts";
import {
  grad,
  jit,
  leavesOf,
  type Plan,
  randomNormal,
  type Shape,
  stream,
  type Tensor,
  type Tree,
} from "../tensor/mod.ts";
import type { Prepared } from "./workloads.ts";

/** Pairs per step. */
const PAIRS = 16;
/** The nano lineage's latents [h, w, C] and prompts [tokens, width]. */
const LATENT = [16, 16, 4] as const;
const CONTEXT = [16, 64] as const;
const SEED = 0;

/** The step, compiled for the current device. */
export async function nanoStep(): Promise<Prepared & { readonly plan: Plan }> {
  const method = methods["ncp-dpo"];
  const weights = initUNet(UNET, SEED);
  const base = new Weights(weights);
  await base.realize();
  const adapter = new PackedLora(base, {
    rank: 8,
    targets: "attention",
    optimizer: "adamw",
    seed: SEED,
  });
  const random = (name: string, shape: Shape) =>
    randomNormal({ seed: SEED, stream: stream(`bench.${name}`), step: 0 }, shape);
  const batches = new Batches({
    pairs: pairsInMemory({
      latents: random("latents", [2 * PAIRS, ...LATENT]),
      latentShape: LATENT,
      contexts: random("contexts", [PAIRS, ...CONTEXT]),
      contextShape: CONTEXT,
      pairs: Array.from({ length: PAIRS }, (_, i) => ({
        winner: 2 * i,
        loser: 2 * i + 1,
        prompt: i,
      })),
    }),
    schedule: NoiseSchedule.fromConfig(SCHEDULER),
    method,
    size: PAIRS,
    seed: SEED,
  });
  const step = jit((groups: readonly GroupState[], args: Record<string, Tree>) => {
    const { rate, ...batch } = args;
    const lora = adapter.lora(groups.map((group) => group.parameters));
    const { loss } = preferenceLoss(
      { base, config: UNET, lora },
      batch as unknown as PreferenceBatch,
      { ...method, features: "down" },
    );
    const gradients = adapter.gradients(lora, (parameters) => grad(loss, parameters));
    const clipped = clipGradNorm(gradients, 1);
    return { state: adapter.update(groups, clipped.gradients, rate as Tensor), result: loss };
  });
  const groups = adapter.start();
  let done = 0;
  const run = async () => {
    const batch = await batches.draw(done++);
    const rate = adapter.rate(done, method.learningRate);
    (await step(groups, { ...batch as unknown as Record<string, Tree>, rate })).dispose();
  };
  await run();
  const plan = step.plan!;
  const { list, kernels } = plan;
  return {
    run,
    plan,
    flops: list.reduce((sum, kernel) => sum + contractionFlops(kernel), 0),
    kernels,
    dispose: () => {
      step.dispose();
      for (const leaf of leavesOf(groups)) leaf.dispose();
      for (const weight of weights.values()) weight.dispose();
    },
  };
}
