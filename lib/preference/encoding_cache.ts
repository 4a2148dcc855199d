/**
 * Encoded pictures and prompts on disk, for data that are too large for memory and too costly to encode twice.
 *
 * Everything is found by content: a picture by the SHA-256 of its encoded bytes, below a folder for the VAE's weights
 * and the preprocessing; a prompt by its own SHA-256, below one for the text encoders and tokenizers. So runs can share
 * a cache, and an image that was changed under an old name is a new image.
 *
 * As the released code does, a training sees every visit of a pair anew: latents are drawn from the VAE's distribution,
 * of which the mean and the standard deviation are kept, and images are mirrored at random, for which both orientations
 * are encoded (a VAE does not mirror exactly). Numbers are kept in half precision, which is what the released code
 * hands to the U-Net.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { mirrored } from "../data/preprocess.ts";
import { type NewRecord, RecordStore } from "../data/record_store.ts";
import type { Pipeline } from "../diffusion/pipeline.ts";
import type { Weights } from "../nn/weights.ts";
import { decodeF16, encodeF16, randomNormal, randomUniform, stream } from "../tensor/mod.ts";
import { encodePrompts, type ImageEncoder, momentEncoder, type Picture } from "./encode.ts";
import type { PairValues, PreferencePairs } from "./pairs.ts";

/**
 * Whether images are mirrored at a visit, with probability 1/2: never, each image for itself (SD1.5), or both of a
 * pair together (SDXL).
 */
export type Flip = "none" | "independent" | "shared";

/** A picture, and the SHA-256 of the encoded bytes that it was decoded from. */
export interface HashedPicture extends Picture {
  readonly hash: string;
  /** Where it is from, for messages. */
  readonly source: string;
}

/** A pair in the cache. */
export interface CachedPair {
  /** SHA-256 of the images' bytes. */
  readonly winner: string;
  readonly loser: string;
  readonly prompt: string;
  /** SDXL's size conditions: original height and width, top and left of the crop, height and width. */
  readonly timeIds: readonly number[];
}

/** What {@linkcode EncodingCache.open} opens. */
export interface EncodingCacheOptions {
  /** The folder; made if it is missing. Runs may share it. */
  readonly folder: string;
  /** Height and width of the pictures in pixels. */
  readonly size: readonly [number, number];
  /** How the pictures were made from the images: part of what they are found by. */
  readonly preprocessing: { readonly [key: string]: string | number };
  /** Whether both orientations of a picture are kept. */
  readonly mirrored: boolean;
}

/** The bits of a half-precision number's exponent: all are set in infinities and NaN. */
const F16_EXPONENT = 0x7c00;

/** Encoded pictures and prompts on disk. */
export class EncodingCache implements Disposable {
  readonly #pipeline: Pipeline;
  readonly #encoder: ImageEncoder<Picture>;
  /** Pictures as they are, and mirrored where that is wanted. */
  readonly #pictures: readonly RecordStore[];
  readonly #prompts: RecordStore;
  readonly #contextShape: readonly [number, number];

  private constructor(
    pipeline: Pipeline,
    encoder: ImageEncoder<Picture>,
    pictures: readonly RecordStore[],
    prompts: RecordStore,
  ) {
    this.#pipeline = pipeline;
    this.#encoder = encoder;
    this.#pictures = pictures;
    this.#prompts = prompts;
    this.#contextShape = contextShape(pipeline);
  }

  /**
   * Opens a cache, or makes an empty one.
   *
   * @throws {Error} If the folder cannot be used, or the pictures' size does not suit the VAE.
   */
  static async open(pipeline: Pipeline, options: EncodingCacheOptions): Promise<EncodingCache> {
    const { folder, size, preprocessing } = options;
    const encoder = momentEncoder(pipeline.vae, size);
    const vae = { weights: await digestWeights(pipeline.vae.weights), config: pipeline.vae.config };
    const orientations = options.mirrored ? [false, true] : [false];
    const pictures = orientations.map((mirrored) =>
      store(`${folder}/pictures`, 2 * sizeOf(encoder.latentShape), {
        holds: "mean and standard deviation of scaled latents, [height, width, 2 channels], f16",
        ...{ vae: digest(vae), size, preprocessing, mirrored },
      })
    );
    const encoders = await Promise.all(
      pipeline.textEncoders.map(async ({ weights, config, tokenizer }) => ({
        ...{ weights: await digestWeights(weights), config, tokenizer: tokenizer.files },
      })),
    );
    const [length, width] = contextShape(pipeline);
    const prompts = store(`${folder}/prompts`, 2 * (length * width + pooledSize(pipeline)), {
      holds: "prompt embeddings, [tokens, features], and the pooled one of SDXL, f16",
      textEncoders: digest(encoders),
    });
    return new EncodingCache(pipeline, encoder, await Promise.all(pictures), await prompts);
  }

  /** The most pictures that are worth giving to `addPictures` at once. */
  get atOnce(): number {
    return this.#encoder.atOnce;
  }

  /** Whether an image is there, in every orientation. */
  hasPicture(hash: string): boolean {
    return this.#pictures.every((store) => store.find(hash) !== undefined);
  }

  /**
   * Encodes and stores pictures, at most `atOnce`; those that are there already are left out.
   *
   * @param remaining How many more will come, for the message about a full disk.
   * @throws {Error} If the disk is full, or the VAE's numbers are not finite.
   */
  async addPictures(pictures: readonly HashedPicture[], remaining = 0): Promise<void> {
    const stores = this.#pictures.length;
    for (const [i, store] of this.#pictures.entries()) {
      const fresh = pictures.filter(({ hash }) => store.find(hash) === undefined);
      if (fresh.length === 0) continue;
      const encoded = await this.#encoder.encode(i === 0 ? fresh : fresh.map(mirrored));
      const records = fresh.map(({ hash, source }, i) =>
        record(hash, encoded[i]!, "the VAE", source)
      );
      await store.append(records, stores * remaining + (stores - 1 - i) * fresh.length);
    }
  }

  /**
   * Encodes and stores prompts; those that are there already are left out, and those that are too long lose their end.
   *
   * @param onProgress Told how many of the prompts are there, of how many.
   * @throws {Error} If the disk is full, or the text encoder's numbers are not finite.
   */
  async addPrompts(
    prompts: readonly string[],
    onProgress?: (done: number, total: number) => void,
  ): Promise<void> {
    const missing = prompts.filter((prompt) =>
      this.#prompts.find(digestText(prompt)) === undefined
    );
    let done = 0;
    const report = () => onProgress?.(prompts.length - missing.length + done, prompts.length);
    report();
    for await (const batch of encodePrompts(this.#pipeline, missing, this.#encoder.size)) {
      const { count, context, pooled } = batch;
      const records = missing.slice(done, done + count).map((prompt, i) => {
        const part = (values: Float32Array) =>
          values.subarray(i * values.length / count, (i + 1) * values.length / count);
        const values = pooled ? joined([part(context), part(pooled)]) : part(context);
        return record(digestText(prompt), values, "the text encoder", `the prompt "${prompt}"`);
      });
      done += count;
      await this.#prompts.append(records, missing.length - done);
      report();
    }
  }

  /**
   * Pairs whose images and prompts are in the cache; a batch is read from the disk when it is asked for.
   *
   * @param seed Of what is drawn at each visit.
   * @throws {Error} If an image or a prompt is not there.
   */
  pairs(pairs: readonly CachedPair[], flip: Flip, seed: number): PreferencePairs {
    if (flip !== "none" && this.#pictures.length < 2) {
      throw new Error(
        "the cache was opened without mirrored pictures, but pairs are to be flipped",
      );
    }
    const number = (store: RecordStore, key: string, what: string) => {
      const found = store.find(key);
      if (found === undefined) throw new Error(`${store.folder} has no ${what}`);
      return found;
    };
    // Of each store the numbers of winners, losers and prompts.
    const rows = this.#pictures.map((store) =>
      (["winner", "loser"] as const).map((side) =>
        Int32Array.from(pairs, (pair) => number(store, pair[side], `picture ${pair[side]}`))
      )
    );
    const promptRows = Int32Array.from(
      pairs,
      ({ prompt }) => number(this.#prompts, digestText(prompt), `prompt "${prompt}"`),
    );
    const timeIds = Float32Array.from(pairs.flatMap((pair) => pair.timeIds));
    const [height, width, channels] = this.#encoder.latentShape;
    const latentShape = [height, width, channels / 2] as const;

    const latents = async (
      side: 0 | 1,
      indices: readonly number[],
      visits: readonly number[],
    ): Promise<Float32Array> => {
      const parts = await Promise.all(indices.map(async (pair, i) => {
        const step = visits[i]!;
        const chance = randomUniform({ seed, stream: stream("pairs.flip"), step }, [2]);
        const flipped = flip !== "none" && chance[flip === "shared" ? 0 : side]! < 0.5 ? 1 : 0;
        const moments = await this.#pictures[flipped]!.read([rows[flipped]![side]![pair]!]);
        const noise = { seed, stream: stream(`pairs.latents.${side}`), step };
        return drawn(halves(moments), randomNormal(noise, latentShape), latentShape[2]);
      }));
      return joined(parts);
    };
    const values = async (
      indices: readonly number[],
      visits: readonly number[] = indices,
    ): Promise<PairValues> => {
      const [winner, loser, prompts] = await Promise.all([
        latents(0, indices, visits),
        latents(1, indices, visits),
        this.#prompts.read(indices.map((i) => promptRows[i]!)).then(halves),
      ]);
      const size = sizeOf(this.#contextShape), record = prompts.length / indices.length;
      const part = (from: number, to: number) =>
        joined(indices.map((_, i) => prompts.subarray(i * record + from, i * record + to)));
      return {
        ...{ winner, loser, context: part(0, size) },
        ...record > size && {
          added: {
            textEmbeds: part(size, record),
            timeIds: joined(indices.map((i) => timeIds.subarray(6 * i, 6 * i + 6))),
          },
        },
      };
    };
    return {
      length: pairs.length,
      latentShape,
      contextShape: this.#contextShape,
      read: values,
    };
  }

  /** Lets others write, and frees what was compiled. Pairs can still be read. */
  [Symbol.dispose](): void {
    this.#encoder.dispose();
    for (const store of [...this.#pictures, this.#prompts]) store[Symbol.dispose]();
  }
}

/** Opens the store of records so described, in a folder named by the description. */
function store(
  folder: string,
  recordBytes: number,
  description: { readonly [key: string]: unknown },
): Promise<RecordStore> {
  const name = digest(description).slice(0, 16);
  return RecordStore.open({ folder: `${folder}/${name}`, recordBytes, description });
}

/** Tokens and features of a prompt's hidden states. */
function contextShape({ textEncoders }: Pipeline): readonly [number, number] {
  return [
    textEncoders[0]!.tokenizer.maxLength,
    textEncoders.reduce((sum, { config }) => sum + config.hidden_size, 0),
  ];
}

/** Features of SDXL's pooled embedding, which the second text encoder makes. */
function pooledSize({ textEncoders }: Pipeline): number {
  return textEncoders[1]?.config.projection_dim ?? 0;
}

/** Latents [h, w, C] from their moments [h, w, 2 C]. */
function drawn(moments: Float32Array, noise: Float32Array, channels: number): Float32Array {
  return noise.map((value, i) => {
    const mean = i + channels * Math.floor(i / channels);
    return moments[mean]! + moments[mean + channels]! * value;
  });
}

function record(key: string, values: Float32Array, from: string, of: string): NewRecord {
  const half = encodeF16(values);
  if (half.some((bits) => (bits & F16_EXPONENT) === F16_EXPONENT)) {
    throw new Error(
      `${from} gives numbers that no half-precision number can hold for ${of}: ` +
        "load its weights in f32, or take others",
    );
  }
  return { key, bytes: new Uint8Array(half.buffer) };
}

function halves(bytes: Uint8Array<ArrayBuffer>): Float32Array {
  return decodeF16(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2));
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const digestText = (text: string) => createHash("sha256").update(text).digest("hex");
const digest = (value: unknown) => digestText(JSON.stringify(value));

/** The SHA-256 of a model's tensors: names, types, shapes and values. */
async function digestWeights(weights: Weights): Promise<string> {
  const hash = createHash("sha256");
  const tensors = [...weights.tensors].sort(([a], [b]) => a < b ? -1 : 1);
  for (const [name, t] of tensors) {
    const { buffer, byteOffset, byteLength } = await t.data();
    hash.update(`${name} ${t.dtype} [${t.shape}]\n`);
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
}
