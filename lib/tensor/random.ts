/**
 * Random numbers as a pure function of (seed, stream, step, index): Philox 4x32-10, a counter-based generator.
 *
 * Nothing is carried from one draw to the next, so a resumed run sees the same numbers as an uninterrupted one and
 * every device sees the same bits. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
 * SC11.
 *
 * @module
 */

/** Names one independent sequence of random numbers. */
export interface RandomKey {
  /** The run's seed: an integer in [0, 2^53). */
  readonly seed: number;
  /** What the numbers are for: an integer in [0, 2^32), see {@linkcode stream}. */
  readonly stream: number;
  /** Which draw of that stream: an integer in [0, 2^53), for example the training step. */
  readonly step: number;
}

const TWO_32 = 2 ** 32;
const MULTIPLIER_0 = 0xD2511F53;
const MULTIPLIER_1 = 0xCD9E8D57;
const WEYL_0 = 0x9E3779B9;
const WEYL_1 = 0xBB67AE85;
const ROUNDS = 10;

/**
 * One Philox 4x32-10 block: encrypts a 128-bit counter under a 64-bit key.
 *
 * @param counter Four unsigned 32-bit words.
 * @param key Two unsigned 32-bit words.
 * @param out Receives the four random words.
 */
export function philox4x32(
  counter: ArrayLike<number>,
  key: ArrayLike<number>,
  out: Uint32Array,
): void {
  let c0 = counter[0]! >>> 0,
    c1 = counter[1]! >>> 0,
    c2 = counter[2]! >>> 0,
    c3 = counter[3]! >>> 0;
  let k0 = key[0]! >>> 0, k1 = key[1]! >>> 0;
  for (let round = 0; round < ROUNDS; round++) {
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    // A 64-bit product in doubles is off by at most 2^11; without its exact low word it is a multiple of 2^32,
    // so rounding gives the exact high word.
    const high0 = ((MULTIPLIER_0 * c0 - low0) / TWO_32 + 0.5) >>> 0;
    const high1 = ((MULTIPLIER_1 * c2 - low1) / TWO_32 + 0.5) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/**
 * The stream number of a name (32-bit FNV-1a), so that modules need no shared list of numbers.
 *
 * @example
 * ```ts
 * const noise = randomNormal({ seed: 1, stream: stream("trainer.epsilon"), step: 0 }, [2, 3]);
 * ```
 */
export function stream(name: string): number {
  let hash = 0x811C9DC5;
  for (const byte of new TextEncoder().encode(name)) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash;
}

/** The blocks of one sequence, in order. */
class Blocks {
  readonly #counter: Uint32Array;
  readonly #key: Uint32Array;
  readonly words = new Uint32Array(4);

  constructor({ seed, stream, step }: RandomKey) {
    checkInteger("seed", seed, Number.MAX_SAFE_INTEGER);
    checkInteger("stream", stream, TWO_32 - 1);
    checkInteger("step", step, Number.MAX_SAFE_INTEGER);
    // The step fills the counter's upper half. The seed's upper bits are folded into the stream's key word, so
    // that seeds below 2^32 keep (seed, stream) as the plain key.
    const seedHigh = Math.floor(seed / TWO_32);
    this.#key = Uint32Array.of(seed >>> 0, (stream ^ Math.imul(seedHigh, WEYL_0)) >>> 0);
    this.#counter = Uint32Array.of(0, 0, step % TWO_32, Math.floor(step / TWO_32));
  }

  /** Fills `words` with the next four random words. */
  next(): void {
    philox4x32(this.#counter, this.#key, this.words);
    if (++this.#counter[0]! === 0) this.#counter[1]!++;
  }
}

/**
 * Uniform numbers in [0, 1), multiples of 2^-24.
 *
 * @throws {RangeError} If a part of the key is out of range.
 */
export function randomUniform(key: RandomKey, shape: readonly number[]): Float32Array {
  const out = new Float32Array(sizeOf(shape));
  const blocks = new Blocks(key);
  for (let i = 0; i < out.length; i++) {
    if (i % 4 === 0) blocks.next();
    out[i] = (blocks.words[i % 4]! >>> 8) * 2 ** -24;
  }
  return out;
}

/**
 * Standard normal numbers by Box-Muller, computed in f64 and rounded to f32; |value| < 6.8.
 *
 * @throws {RangeError} If a part of the key is out of range.
 */
export function randomNormal(key: RandomKey, shape: readonly number[]): Float32Array {
  const out = new Float32Array(sizeOf(shape));
  const blocks = new Blocks(key);
  const { words } = blocks;
  for (let i = 0; i < out.length; i += 2) {
    const at = i % 4;
    if (at === 0) blocks.next();
    const radius = radiusOf(words[at]!);
    const angle = angleOf(words[at + 1]!);
    out[i] = radius * Math.cos(angle);
    if (i + 1 < out.length) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/**
 * Uniform integers in [low, high).
 *
 * @throws {RangeError} If the range is empty or a part of the key is out of range.
 */
export function randomIntegers(
  key: RandomKey,
  shape: readonly number[],
  low: number,
  high: number,
): Int32Array {
  if (!(high > low)) throw new RangeError(`Random integers need low < high, got [${low}, ${high})`);
  const out = new Int32Array(sizeOf(shape));
  const blocks = new Blocks(key);
  for (let i = 0; i < out.length; i++) {
    if (i % 4 === 0) blocks.next();
    out[i] = low + Math.floor(blocks.words[i % 4]! / TWO_32 * (high - low));
  }
  return out;
}

/** A sequential reader of one random sequence, for host-side sampling with branches. */
export class Generator {
  readonly #blocks: Blocks;
  #used = 4;

  /** @param key The sequence to read from its start. */
  constructor(key: RandomKey) {
    this.#blocks = new Blocks(key);
  }

  #word(): number {
    if (this.#used === 4) {
      this.#blocks.next();
      this.#used = 0;
    }
    return this.#blocks.words[this.#used++]!;
  }

  /** A uniform number in [0, 1) with 32 bits. */
  next(): number {
    return this.#word() / TWO_32;
  }

  /** A uniform number in [low, high). */
  uniform(low: number, high: number): number {
    return low + (high - low) * this.next();
  }

  /** A uniform integer in [0, n). */
  int(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** A standard normal number (the cosine half of Box-Muller). */
  normal(): number {
    return radiusOf(this.#word()) * Math.cos(angleOf(this.#word()));
  }

  /** A standard logistic number, by inversion. */
  logistic(): number {
    const u = (this.#word() + 0.5) / TWO_32;
    return Math.log(u / (1 - u));
  }

  /** One of the items, each equally likely. */
  choice<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("Cannot choose from an empty list");
    return items[this.int(items.length)]!;
  }

  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(items: readonly T[]): T[] {
    const out = items.slice();
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}

/** A sequential generator over the sequence that `key` names. */
export function generator(key: RandomKey): Generator {
  return new Generator(key);
}

function radiusOf(word: number): number {
  return Math.sqrt(-2 * Math.log((word + 0.5) / TWO_32));
}

function angleOf(word: number): number {
  return 2 * Math.PI * word / TWO_32;
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, extent) => size * extent, 1);
}

function checkInteger(name: string, value: number, maximum: number): void {
  if (!Number.isInteger(value) || value < 0 || value > maximum) {
    throw new RangeError(
      `A random key's ${name} must be an integer from 0 to ${maximum}, got ${value}`,
    );
  }
}
