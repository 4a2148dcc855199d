/**
 * Embeddings: rows of a table by integer, and sinusoids of a timestep.
 *
 * @module
 */
import { concat, gather, type Tensor, tensor } from "../tensor/mod.ts";
import type { Weights } from "./weights.ts";

/**
 * Rows of a table.
 *
 * @param w Holds `weight` [V, C].
 * @param ids i32 [...]
 * @returns [..., C]
 */
export function embedding(w: Weights, ids: Tensor): Tensor {
  return gather(w.get("weight"), ids);
}

/** Options of {@linkcode timestepEmbedding}, named as in diffusers' configurations. */
export interface TimestepEmbeddingOptions {
  /** Cosines first. */
  readonly flipSinToCos: boolean;
  /** Subtracted from the number of frequencies in the exponent's denominator. */
  readonly freqShift: number;
}

// 2 pi in two parts: multiples of the first, which has 8 bits, are exact in f32.
const TWO_PI_HIGH = 6.28125;
const TWO_PI_LOW = 2 * Math.PI - TWO_PI_HIGH;

/**
 * Sinusoidal embedding of numbers such as timesteps:
 * `[sin(t f_i), cos(t f_i)]`, `f_i = 10000^(-i / (width / 2 - freqShift))`.
 *
 * @param t f32 [N]
 * @param width Even.
 * @returns [N, width]
 */
export function timestepEmbedding(
  t: Tensor,
  width: number,
  { flipSinToCos, freqShift }: TimestepEmbeddingOptions,
): Tensor {
  const half = width / 2;
  if (!Number.isInteger(half)) {
    throw new RangeError(`a timestep embedding needs an even width, not ${width}`);
  }
  const frequencies = Float32Array.from(
    { length: half },
    (_, i) => Math.exp(-Math.log(10000) * i / (half - freqShift)),
  );
  const angle = t.reshape([-1, 1]).mul(tensor(frequencies, [1, half]));
  // Devices promise a sine's accuracy only within (-pi, pi); angles here reach a thousand.
  const turns = angle.mul(1 / (2 * Math.PI)).add(0.5).floor();
  const reduced = angle.sub(turns.mul(TWO_PI_HIGH)).sub(turns.mul(TWO_PI_LOW));
  const sine = reduced.sin();
  const cosine = reduced.cos();
  return concat(flipSinToCos ? [cosine, sine] : [sine, cosine], 1);
}
