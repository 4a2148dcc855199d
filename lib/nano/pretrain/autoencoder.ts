/**
 * Stage `vae`: an autoencoder for the nano world.
 *
 * @module
 */
import type { VaeConfig } from "../../diffusion/config.ts";
import { initVae, vaeDecode, vaeEncode } from "../../diffusion/vae.ts";
import { Weights } from "../../nn/weights.ts";
import { generator, jit, randomNormal, stream, type Tensor, tensor } from "../../tensor/mod.ts";
import { sampleCaption } from "../caption.ts";
import { cleanExample, IMAGE_SIZE, IMAGE_VALUES, trainingExample } from "../world.ts";
import { VAE } from "./configs.ts";
import { type Fit, fit } from "./fit.ts";

const BATCH = 16;
const NOISE = stream("nano.pretrain.vae.noise");
const CLEAN = stream("nano.pretrain.vae.clean");
/** Clean pictures from here on are no other stage's. */
const FIRST_CLEAN = 1_000_000;
/** Weight of the divergence from a unit normal distribution. */
const KL = 2e-4;

/** Training images `first`, `first + 1`, ... in [-1, 1], [count, 64, 64, 3]. */
export function trainingImages(seed: number, first: number, count: number): Float32Array {
  const data = new Float32Array(count * IMAGE_VALUES);
  for (let i = 0; i < count; i++) {
    trainingExample(seed, first + i, data.subarray(i * IMAGE_VALUES, (i + 1) * IMAGE_VALUES));
  }
  for (let i = 0; i < data.length; i++) data[i] = 2 * data[i]! - 1;
  return data;
}

/**
 * A batch's pictures in [-1, 1], [BATCH, 64, 64, 3]: one half as the world has them, the other half clean.
 * What the autoencoder loses of clean pictures is lost to every model that draws through it.
 */
function batchOf(seed: number, step: number): Float32Array {
  const half = BATCH / 2;
  const first = (step - 1) * half;
  const data = new Float32Array(BATCH * IMAGE_VALUES);
  data.set(trainingImages(seed, first, half));
  for (let i = 0; i < half; i++) {
    const at = (half + i) * IMAGE_VALUES;
    const clean = data.subarray(at, at + IMAGE_VALUES);
    cleanExample(
      sampleCaption(generator({ seed, stream: CLEAN, step: first + i })),
      seed,
      FIRST_CLEAN + first + i,
      clean,
    );
    for (let j = 0; j < clean.length; j++) clean[j] = 2 * clean[j]! - 1;
  }
  return data;
}

/** Trains the autoencoder and returns its weights and its configuration with the latents' scale. */
export async function trainVae(
  options: Pick<Fit, "directory" | "seed" | "onProgress" | "steps">,
): Promise<{ weights: Map<string, Tensor>; config: VaeConfig }> {
  const { seed } = options;
  const side = IMAGE_SIZE / 4;
  const initial = initVae(VAE, seed);
  // Latents begin almost without noise: with the usual start, a variance of 1, the decoder learns little for
  // the first hundreds of steps.
  const quantisation = new Float32Array(2 * VAE.latent_channels).fill(-6, VAE.latent_channels);
  initial.set("quant_conv.bias", tensor(quantisation, [quantisation.length]));
  const weights = await fit({
    ...options,
    name: "vae",
    initial,
    learningRate: 2e-3,
    warmup: 50,
    floor: 0.02,
    average: 0.998,
    batch: (step) => ({
      images: tensor(batchOf(seed, step), [BATCH, IMAGE_SIZE, IMAGE_SIZE, 3]),
      noise: tensor(
        randomNormal({ seed, stream: NOISE, step }, [BATCH, side, side, 4]),
        [BATCH, side, side, 4],
      ),
    }),
    loss: (w, { images, noise }) => {
      const { mean, logvar } = vaeEncode(w, VAE, images);
      const decoded = vaeDecode(w, VAE, mean.add(logvar.mul(0.5).exp().mul(noise)));
      const difference = decoded.sub(images);
      const l1 = difference.abs().mean();
      const mse = difference.square().mean();
      const kl = mean.square().add(logvar.exp()).sub(logvar).sub(1).mul(0.5).mean();
      return { loss: l1.add(mse).add(kl.mul(KL)), l1, mse, kl };
    },
  });
  const deviation = await latentDeviation(weights, seed);
  return { weights, config: { ...VAE, scaling_factor: Number((1 / deviation).toPrecision(6)) } };
}

/** The standard deviation of latents over 256 training images. */
async function latentDeviation(tensors: ReadonlyMap<string, Tensor>, seed: number) {
  const w = new Weights(tensors);
  const images = tensor(trainingImages(seed, 1_000_000, 256), [256, 64, 64, 3]);
  const { mean } = vaeEncode(w, VAE, images);
  using deviation = mean.square().mean().sub(mean.mean().square()).sqrt();
  return await deviation.item();
}

/** Encodes training images to scaled latents: the means [count, 16, 16, 4]. */
export async function encodeImages(
  weights: Weights,
  config: VaeConfig,
  count: number,
  images: (first: number, count: number) => Float32Array,
  onProgress?: (done: number) => void,
): Promise<Float32Array> {
  await weights.realize();
  const batch = 64;
  const latents = new Float32Array(count * 1024);
  const encode = jit((state: Record<string, never>, { x }: { x: Tensor }) => ({
    state,
    result: { z: vaeEncode(weights, config, x).mean.mul(config.scaling_factor) },
  }));
  for (let i = 0; i < count; i += batch) {
    // The last batch reaches back, so that one compiled step serves all.
    const first = Math.min(i, Math.max(0, count - batch));
    const n = Math.min(batch, count);
    const { z } = await encode({}, { x: tensor(images(first, n), [n, 64, 64, 3]) });
    latents.set(await z.data() as Float32Array, first * 1024);
    z.dispose();
    onProgress?.(Math.min(i + batch, count));
  }
  encode.dispose();
  return latents;
}
