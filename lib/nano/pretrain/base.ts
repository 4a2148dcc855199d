/**
 * Stages `unet` and `unet-xl`: the base models. The first is kept once half-trained (weak, the one to be
 * tuned) and once at the end (strong, which helps to make preference data).
 *
 * @module
 */
import { eosPositions } from "../../diffusion/clip_text.ts";
import { promptFeatures, type TextEncoder } from "../../diffusion/conditions.ts";
import type { UNetConfig, VaeConfig } from "../../diffusion/config.ts";
import { NoiseSchedule } from "../../diffusion/noise_schedule.ts";
import { unet } from "../../diffusion/unet.ts";
import type { Weights } from "../../nn/weights.ts";
import {
  randomIntegers,
  randomNormal,
  randomUniform,
  stream,
  type Tensor,
  tensor,
} from "../../tensor/mod.ts";
import { captionText } from "../caption.ts";
import { IMAGE_SIZE, trainingExample } from "../world.ts";
import { encodeImages, trainingImages } from "./autoencoder.ts";
import { nanoTokenizer } from "./clip.ts";
import { SCHEDULER } from "./configs.ts";
import { type Fit, fit } from "./fit.ts";

const BATCH = 64;
/** Pictures whose latents are kept in memory. */
const EXAMPLES = 32_000;
/** Share of steps that see the empty caption, for classifier-free guidance. */
const EMPTY = 0.1;
/** The largest weight beyond 1 of a timestep's error. */
const LARGEST_WEIGHT = 24;

const PICK = stream("nano.pretrain.unet.pick");
const TIME = stream("nano.pretrain.unet.time");
const NOISE = stream("nano.pretrain.unet.noise");
const DROP = stream("nano.pretrain.unet.drop");

/** Which pictures of the world a step may see. */
export type Selection = "all" | "better" | "flawless";

/**
 * Trains the base model on `w(t) |eps - eps_theta|^2` with `w = 1 + min((1 - abar) / abar, 24)`.
 *
 * The plain error hardly trains the captions at this scale: layout and colour are decided at high
 * noise, where it is a hundred times smaller than at low noise. The weight is that of the velocity's error.
 *
 * `better` pictures show what their caption says and are degraded at most once, `flawless` ones not at all.
 *
 * SDXL's U-Net is told each picture's original size. Here none was enlarged, but a blurred one looks as if it
 * had been, by the blur's width in pixels: this is the size it is said to have had.
 *
 * @param model Its layout and what encodes its prompts.
 * @param options.select Which pictures a step sees.
 */
export async function trainBase(
  vae: { readonly weights: Weights; readonly config: VaeConfig },
  model: { readonly config: UNetConfig; readonly textEncoders: readonly TextEncoder[] },
  options:
    & Omit<Fit, "warmup" | "floor" | "weightDecay" | "average" | "batch" | "loss">
    & { select(step: number): Selection },
): Promise<Map<string, Tensor>> {
  const { seed, steps } = options;
  const latents = await encodeImages(
    vae.weights,
    vae.config,
    EXAMPLES,
    (first, count) => trainingImages(seed, first, count),
    (done) => options.onProgress?.(0, steps, `${done} of ${EXAMPLES} pictures encoded`),
  );
  const tokenizer = nanoTokenizer();
  const captions: Int32Array[] = [];
  const sizes: number[] = [];
  const pictures: Record<Selection, number[]> = { all: [], better: [], flawless: [] };
  for (let i = 0; i < EXAMPLES; i++) {
    const { caption, wrong, degradations, blur } = trainingExample(seed, i);
    captions.push(tokenizer.encode(captionText(caption)));
    sizes.push(Math.round(IMAGE_SIZE / Math.max(1, blur)));
    pictures.all.push(i);
    if (wrong === undefined && degradations < 2) pictures.better.push(i);
    if (wrong === undefined && degradations === 0) pictures.flawless.push(i);
  }
  const empty = tokenizer.encode("");
  const { alphasCumprod } = NoiseSchedule.fromConfig(SCHEDULER);
  const { config, textEncoders } = model;
  for (const { weights } of textEncoders) await weights.realize();

  return await fit({
    ...options,
    warmup: 100,
    floor: 0.03,
    average: 0.998,
    batch: (step) => {
      const some = pictures[options.select(step)];
      const pick = randomIntegers({ seed, stream: PICK, step }, [BATCH], 0, some.length)
        .map((i) => some[i]!);
      // One timestep from each of as many equal stretches: the loss depends on t far more than on the picture.
      const times = randomUniform({ seed, stream: TIME, step }, [BATCH])
        .map((u, i) => Math.floor((i + u) / BATCH * alphasCumprod.length));
      const drop = randomUniform({ seed, stream: DROP, step }, [BATCH]);
      const length = empty.length;
      const original = new Float32Array(BATCH * 1024);
      const ids = new Int32Array(BATCH * length);
      const coefficients = new Float32Array(BATCH * 3);
      const timeIds = new Float32Array(BATCH * 6);
      for (let i = 0; i < BATCH; i++) {
        original.set(latents.subarray(pick[i]! * 1024, (pick[i]! + 1) * 1024), i * 1024);
        ids.set(drop[i]! < EMPTY ? empty : captions[pick[i]!]!, i * length);
        const kept = alphasCumprod[times[i]!]!;
        const weight = 1 + Math.min((1 - kept) / kept, LARGEST_WEIGHT);
        coefficients.set([Math.sqrt(kept), Math.sqrt(1 - kept), weight], i * 3);
        const size = sizes[pick[i]!]!;
        timeIds.set([size, size, 0, 0, IMAGE_SIZE, IMAGE_SIZE], i * 6);
      }
      return {
        original: tensor(original, [BATCH, 16, 16, 4]),
        noise: tensor(randomNormal({ seed, stream: NOISE, step }, [BATCH, 16, 16, 4]), [
          BATCH,
          16,
          16,
          4,
        ]),
        ids: tensor(ids, [BATCH, length]),
        eos: tensor(eosPositions(textEncoders[0]!.config, ids, length), [BATCH]),
        ...config.addition_embed_type && { timeIds: tensor(timeIds, [BATCH, 6]) },
        timestep: tensor(Float32Array.from(times), [BATCH]),
        coefficients: tensor(coefficients, [BATCH, 3]),
      };
    },
    loss: (w, { original, noise, ids, eos, timestep, coefficients, timeIds }) => {
      const [signal, sigma, weight] = coefficients.split(1, 3).map((c) =>
        c.reshape([BATCH, 1, 1, 1])
      ) as [Tensor, Tensor, Tensor];
      const sample = original.mul(signal).add(noise.mul(sigma));
      const { context, textEmbeds } = promptFeatures(
        textEncoders,
        textEncoders.map(() => ({ ids, eos })),
      );
      const added = textEmbeds && { textEmbeds, timeIds: timeIds! };
      const predicted = unet(w, config, { sample, timestep, context, added });
      const error = predicted.sub(noise).square().mean([1, 2, 3]);
      return { loss: error.mul(weight.reshape([BATCH])).mean(), plain: error.mean() };
    },
  });
}
