/**
 * Pictures and prompts as the U-Net sees them, computed once before a training: what a VAE and a text
 * encoder give does not change while the U-Net is tuned.
 *
 * @module
 */
import type { Pipeline } from "../diffusion/pipeline.ts";
import { type LatentDistribution, scaleLatents, vaeEncode, vaeFactor } from "../diffusion/vae.ts";
import { concat, jit, randomNormal, stream, type Tensor, tensor } from "../tensor/mod.ts";
import { type Pair, pairsInMemory, type PreferencePairs } from "./pairs.ts";

/** An RGB picture, bytes [height, width, 3]. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** A picture by number. */
export interface NumberedImage extends Picture {
  readonly number: number;
}

/** What to encode. */
export interface PairSource {
  readonly prompts: readonly string[];
  /** How many numbers images have; a number that no pair names need not occur. */
  readonly imageCount: number;
  /** The pictures, in any order, all of one size, which the VAE's factor must divide. */
  readonly images: AsyncIterable<NumberedImage> | Iterable<NumberedImage>;
  /** Image and prompt numbers. */
  readonly pairs: readonly Pair[];
  /** Of the VAE's noise: latents are drawn from its distribution, as in the released code. */
  readonly seed: number;
  /** Told how many images and prompts have been encoded, of how many that pairs name. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What became of a {@linkcode PairSource}. */
export interface EncodedPairs {
  /** The pairs both of whose images came. */
  readonly pairs: PreferencePairs;
  /** Their numbers among the source's pairs. */
  readonly kept: readonly number[];
}

/** The most pictures that are encoded at once. */
const IMAGES = 16;
/** Pixels that are encoded at once: a picture of 512 x 512. The widest activations take 512 bytes for each. */
const PIXELS = 2 ** 18;
/** Prompts encoded at once. */
const PROMPTS = 64;

/**
 * Encodes the images and prompts of preference pairs. Prompts that are too long lose their end, as in the released
 * code.
 *
 * @throws {RangeError} If images differ in size, or their size does not suit the VAE.
 * @throws {Error} If no pair has both its images.
 */
export async function encodePairs(pipeline: Pipeline, source: PairSource): Promise<EncodedPairs> {
  const { prompts, onProgress } = source;
  const wanted = new Set(source.pairs.flatMap(({ winner, loser }) => [winner, loser]));
  let total = wanted.size + prompts.length;
  let done = 0;
  const advance = (count: number) => onProgress?.(done += count, total);

  const { latents, shape, size } = await encodeImages(pipeline, source, wanted, advance);
  // Images that did not come are not waited for.
  total = done + prompts.length;
  const kept = [...source.pairs.keys()].filter((i) => {
    const { winner, loser } = source.pairs[i]!;
    return latents[winner] && latents[loser];
  });
  const contexts: Float32Array[] = [];
  const pooled: Float32Array[] = [];
  let contextShape: readonly [number, number] = [0, 0];
  for await (const batch of encodePrompts(pipeline, prompts, size)) {
    contextShape = batch.contextShape;
    contexts.push(batch.context);
    if (batch.pooled) pooled.push(batch.pooled);
    advance(batch.count);
  }
  const length = shape[0] * shape[1] * shape[2];
  const pairs = pairsInMemory({
    latents: join(Array.from(latents, (row) => row ?? new Float32Array(length))),
    latentShape: shape,
    contexts: join(contexts),
    contextShape,
    pairs: kept.map((i) => source.pairs[i]!),
    ...pooled.length > 0 && { pooled: join(pooled), size },
  });
  return { pairs, kept };
}

/** Latents by image number; numbers that no pair names, or that did not come, stay empty. */
async function encodeImages(
  { vae }: Pipeline,
  { images, imageCount, seed }: PairSource,
  wanted: ReadonlySet<number>,
  advance: (count: number) => void,
) {
  const rows: (Float32Array | undefined)[] = new Array(imageCount);
  let batch: NumberedImage[] = [];
  let encoder: ImageEncoder<NumberedImage> | undefined;
  const flush = async () => {
    const latents = await encoder!.encode(batch);
    batch.forEach(({ number }, i) => rows[number] = latents[i]!);
    advance(batch.length);
    batch = [];
  };
  try {
    for await (const image of images) {
      if (!wanted.has(image.number)) continue;
      encoder ??= latentEncoder(vae, [image.height, image.width], seed);
      const [height, width] = encoder.size;
      if (image.height !== height || image.width !== width) {
        throw new RangeError(
          `image ${image.number} is ${image.width} x ${image.height} pixels and others are ` +
            `${width} x ${height}: resize them to one size`,
        );
      }
      batch.push(image);
      if (batch.length === encoder.atOnce) await flush();
    }
    if (!encoder) throw new Error("none of the images that the pairs name is there");
    if (batch.length > 0) await flush();
    return { latents: rows, shape: encoder.latentShape, size: encoder.size };
  } finally {
    encoder?.dispose();
  }
}

/** Encodes pictures of one size with a VAE. */
export interface ImageEncoder<I extends Picture> {
  /** Height and width in pixels. */
  readonly size: readonly [number, number];
  /** Of what comes out for each picture: [h, w, C]. */
  readonly latentShape: readonly [number, number, number];
  /** The most pictures that can be encoded at once. */
  readonly atOnce: number;
  encode(images: readonly I[]): Promise<Float32Array[]>;
  dispose(): void;
}

/** Latents [h, w, C], scaled, drawn once from the distribution that the VAE gives: by seed and image number. */
function latentEncoder(
  { weights, config }: Pipeline["vae"],
  size: readonly [number, number],
  seed: number,
): ImageEncoder<NumberedImage> {
  return imageEncoder({ weights, config }, size, config.latent_channels, {
    noise: ({ number }, shape) =>
      randomNormal({ seed, stream: stream("encode.latents"), step: number }, shape),
    output: ({ mean, logvar }, noise) =>
      scaleLatents(config, mean.add(logvar.mul(0.5).exp().mul(noise!))),
  });
}

/** The distribution's mean, and after it its standard deviation, [h, w, 2 C], both scaled. */
export function momentEncoder(
  { weights, config }: Pipeline["vae"],
  size: readonly [number, number],
): ImageEncoder<Picture> {
  return imageEncoder({ weights, config }, size, 2 * config.latent_channels, {
    output: ({ mean, logvar }) =>
      concat(
        [scaleLatents(config, mean), logvar.mul(0.5).exp().mul(config.scaling_factor)],
        3,
      ),
  });
}

function imageEncoder<I extends Picture>(
  { weights, config }: Pipeline["vae"],
  [height, width]: readonly [number, number],
  channels: number,
  { noise, output }: {
    readonly noise?: (image: I, shape: readonly number[]) => Float32Array;
    readonly output: (distribution: LatentDistribution, noise: Tensor | undefined) => Tensor;
  },
): ImageEncoder<I> {
  const factor = vaeFactor(config);
  if (height % factor !== 0 || width % factor !== 0) {
    throw new RangeError(
      `images of ${width} x ${height} pixels do not suit the VAE, which needs multiples of ` +
        `${factor}: resize the images`,
    );
  }
  const noiseShape = [height / factor, width / factor, config.latent_channels];
  const atOnce = Math.min(IMAGES, Math.max(1, Math.floor(PIXELS / (height * width))));
  const encode = jit((state: Record<never, Tensor>, given: Record<string, Tensor>) => {
    const distribution = vaeEncode(weights, config, given.pixels!.mul(2 / 255).sub(1));
    return { state, result: { latents: output(distribution, given.noise) } };
  });
  return {
    size: [height, width],
    latentShape: [height / factor, width / factor, channels],
    atOnce,
    async encode(images) {
      await weights.realize();
      // A smaller batch is filled up with copies, so that one compiled program serves all.
      const full = Array.from({ length: atOnce }, (_, i) => images[i] ?? images[0]!);
      const pixels = join(full.map(({ data }) => Float32Array.from(data)));
      const noises = noise && join(full.map((image) => noise(image, noiseShape)));
      const { latents } = await encode({}, {
        pixels: tensor(pixels, [atOnce, height, width, 3]),
        ...noises && { noise: tensor(noises, [atOnce, ...noiseShape]) },
      });
      const values = await latents.data() as Float32Array;
      latents.dispose();
      const length = values.length / atOnce;
      return images.map((_, i) => values.slice(i * length, (i + 1) * length));
    },
    dispose: () => encode.dispose(),
  };
}

/** Some prompts, encoded. */
export interface PromptBatch {
  readonly count: number;
  /** [count, L, D] */
  readonly context: Float32Array;
  /** [L, D] */
  readonly contextShape: readonly [number, number];
  /** SDXL's pooled embeddings [count, P]. */
  readonly pooled?: Float32Array;
}

/**
 * Encodes prompts a few at a time; those that are too long lose their end.
 *
 * @param size Of the images in pixels.
 */
export async function* encodePrompts(
  pipeline: Pipeline,
  prompts: readonly string[],
  size: readonly [number, number],
): AsyncGenerator<PromptBatch> {
  for (let i = 0; i < prompts.length; i += PROMPTS) {
    const some = prompts.slice(i, i + PROMPTS);
    const { context, added } = await pipeline.encodePrompts(some, size, "truncate");
    const batch = {
      count: some.length,
      context: await context.data() as Float32Array,
      contextShape: [context.shape[1]!, context.shape[2]!] as const,
      ...added && { pooled: await added.textEmbeds.data() as Float32Array },
    };
    [context, ...added ? [added.textEmbeds, added.timeIds] : []].forEach((t) => t.dispose());
    yield batch;
  }
}

/** Arrays one after another. */
function join(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
