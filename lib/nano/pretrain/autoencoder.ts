/**
 * Stage `vae`: an autoencoder for the nano world.
 *
 * @module
 */
import type { VaeConfig } from "../../diffusion/config.ts";
import { initVae, vaeDecode, vaeEncode } from "../../diffusion/vae.ts";
import { Weights } from "../../nn/weights.ts";
import { jit, randomNormal, stream, type Tensor, tensor } from "../../tensor/mod.ts";
import { IMAGE_SIZE, IMAGE_VALUES, trainingExample } from "../world.ts";
import { VAE } from "./configs.ts";
import { type Fit, fit } from "./fit.ts";

const BATCH = 16;
const NOISE = stream("nano.pretrain.vae.noise");
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
 * Trains the autoencoder and returns its weights and its configuration with the latents' scale.
 *
 * @param options.steps Steps of each round; every round starts with the full learning rate again.
 */
export async function trainVae(
  options: Pick<Fit, "directory" | "seed" | "onProgress"> & { readonly steps: readonly number[] },
): Promise<{ weights: Map<string, Tensor>; config: VaeConfig }> {
  const { seed, steps } = options;
  let weights = initVae(VAE, seed);
  for (const [round, count] of steps.entries()) {
    const before = steps.slice(0, round).reduce((a, b) => a + b, 0);
    weights = await fitVae(`vae-${round + 1}`, weights, { ...options, steps: count }, before);
  }
  const deviation = await latentDeviation(weights, seed);
  return { weights, config: { ...VAE, scaling_factor: Number((1 / deviation).toPrecision(6)) } };
}

/** One round; `before` steps have been taken in earlier ones, so that it sees other pictures. */
function fitVae(
  name: string,
  initial: ReadonlyMap<string, Tensor>,
  options: Pick<Fit, "directory" | "seed" | "onProgress" | "steps">,
  before: number,
): Promise<Map<string, Tensor>> {
  const { seed, steps } = options;
  const side = IMAGE_SIZE / 4;
  return fit({
    ...options,
    name,
    initial,
    learningRate: 2e-3,
    warmup: 50,
    floor: 0.02,
    average: 0.998,
    steps,
    batch: (step) => ({
      images: tensor(
        trainingImages(seed, (before + step - 1) * BATCH, BATCH),
        [BATCH, 64, 64, 3],
      ),
      noise: tensor(
        randomNormal({ seed, stream: NOISE, step: before + step }, [BATCH, side, side, 4]),
        [
          BATCH,
          side,
          side,
          4,
        ],
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
