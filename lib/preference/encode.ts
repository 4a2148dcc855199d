/**
 * Pictures and prompts as the U-Net sees them, computed once before a training: what a VAE and a text
 * encoder give does not change while the U-Net is tuned.
 *
 * @module
 */
import type { Pipeline } from "../diffusion/pipeline.ts";
import { scaleLatents, vaeEncode, vaeFactor } from "../diffusion/vae.ts";
import { jit, randomNormal, stream, type Tensor, tensor } from "../tensor/mod.ts";
import { type Pair, pairsInMemory, type PreferencePairs } from "./pairs.ts";

/** An RGB picture, bytes [height, width, 3], by number. */
export interface NumberedImage {
  readonly number: number;
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
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

/** Pictures encoded at once. */
const IMAGES = 16;
/** Prompts encoded at once. */
const PROMPTS = 64;

/**
 * Encodes the images and prompts of preference pairs.
 *
 * @throws {RangeError} If images differ in size, or their size does not suit the VAE.
 * @throws {Error} If an image that a pair names does not come.
 */
export async function encodePairs(
  pipeline: Pipeline,
  source: PairSource,
): Promise<PreferencePairs> {
  const { prompts, pairs, onProgress } = source;
  const wanted = new Set(pairs.flatMap(({ winner, loser }) => [winner, loser]));
  const total = wanted.size + prompts.length;
  let done = 0;
  const advance = (count: number) => onProgress?.(done += count, total);

  const { latents, shape, size } = await encodeImages(pipeline, source, wanted, advance);
  const contexts: Float32Array[] = [];
  const pooled: Float32Array[] = [];
  let contextShape: readonly [number, number] = [0, 0];
  for (let i = 0; i < prompts.length; i += PROMPTS) {
    const some = prompts.slice(i, i + PROMPTS);
    const { context, added } = await pipeline.encodePrompts(some, size);
    contextShape = [context.shape[1]!, context.shape[2]!];
    contexts.push(await context.data() as Float32Array);
    if (added) pooled.push(await added.textEmbeds.data() as Float32Array);
    [context, ...added ? [added.textEmbeds, added.timeIds] : []].forEach((t) => t.dispose());
    advance(some.length);
  }
  return pairsInMemory({
    latents: join(latents),
    latentShape: shape,
    contexts: join(contexts),
    contextShape,
    pairs,
    ...pooled.length > 0 && { pooled: join(pooled), size },
  });
}

/** Latents by image number; numbers that no pair names stay empty. */
async function encodeImages(
  pipeline: Pipeline,
  { images, imageCount, seed }: PairSource,
  wanted: ReadonlySet<number>,
  advance: (count: number) => void,
) {
  const { weights, config } = pipeline.vae;
  const factor = vaeFactor(config);
  await weights.realize();
  const encode = jit((state: Record<never, Tensor>, given: { pixels: Tensor; noise: Tensor }) => {
    const { mean, logvar } = vaeEncode(weights, config, given.pixels.mul(2 / 255).sub(1));
    const drawn = mean.add(logvar.mul(0.5).exp().mul(given.noise));
    return { state, result: { latents: scaleLatents(config, drawn) } };
  });
  let size: readonly [number, number] | undefined;
  let shape: readonly [number, number, number] = [0, 0, config.latent_channels];
  const rows: (Float32Array | undefined)[] = new Array(imageCount);
  let batch: NumberedImage[] = [];

  const flush = async () => {
    if (batch.length === 0) return;
    // The last batch is filled up with copies, so that one compiled program serves all.
    const full = Array.from({ length: IMAGES }, (_, i) => batch[i] ?? batch[0]!);
    const pixels = join(full.map(({ data }) => Float32Array.from(data)));
    const noise = join(
      full.map(({ number }) =>
        randomNormal({ seed, stream: stream("encode.latents"), step: number }, shape)
      ),
    );
    const { latents } = await encode({}, {
      pixels: tensor(pixels, [IMAGES, ...size!, 3]),
      noise: tensor(noise, [IMAGES, ...shape]),
    });
    const values = await latents.data() as Float32Array;
    latents.dispose();
    const length = values.length / IMAGES;
    batch.forEach(({ number }, i) => rows[number] = values.slice(i * length, (i + 1) * length));
    advance(batch.length);
    batch = [];
  };

  try {
    for await (const image of images) {
      const { number, height, width } = image;
      if (!wanted.has(number)) continue;
      if (!size) {
        if (height % factor !== 0 || width % factor !== 0) {
          throw new RangeError(
            `image ${number} is ${width} x ${height} pixels, ` +
              `but the VAE needs multiples of ${factor}: resize the images`,
          );
        }
        size = [height, width];
        shape = [height / factor, width / factor, config.latent_channels];
      }
      if (height !== size[0] || width !== size[1]) {
        throw new RangeError(
          `image ${number} is ${width} x ${height} pixels and others are ${size[1]} x ${
            size[0]
          }: ` +
            `resize them to one size`,
        );
      }
      batch.push(image);
      if (batch.length === IMAGES) await flush();
    }
    await flush();
  } finally {
    encode.dispose();
  }
  const missing = [...wanted].find((number) => !rows[number]);
  if (missing !== undefined) {
    throw new Error(`a pair names image ${missing}, which is not among the images given`);
  }
  const length = shape[0] * shape[1] * shape[2];
  const latents = Array.from(rows, (row) => row ?? new Float32Array(length));
  return { latents, shape, size: size! };
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
