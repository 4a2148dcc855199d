/**
 * AdamW whose state takes two bytes per parameter instead of eight (Dettmers et al. 2022, "8-bit
 * Optimizers via Block-wise Quantization"), in the arithmetic of bitsandbytes' `AdamW8bit`.
 *
 * The running means are stored in blocks of 256: one f32 scale, the block's largest magnitude, and a
 * byte per element that points into a fixed table of 256 values, denser towards zero. Each step
 * widens them, updates them and the parameters in f32, and narrows them again.
 *
 * @module
 */
import { take, type Tensor, tensor, zeros } from "../tensor/mod.ts";
import { adamwDefaults, type AdamWOptions, adamwUpdate } from "./adamw.ts";

/** Elements that share a scale. */
export const BLOCK = 256;

/** Tensors of fewer elements keep a 32-bit state, as bitsandbytes' `min_8bit_size` has it. */
export const MIN_8BIT_SIZE = 4096;

/** Codes u8 [n] and scales f32 [n / 256] of both running means. */
export type AdamW8bitState = {
  readonly mean: Tensor;
  readonly meanScale: Tensor;
  readonly square: Tensor;
  readonly squareScale: Tensor;
};

/**
 * The dynamic map: decades from 1e-6 to 1, the decade below 1 with 64 values per sign (128 without
 * sign) and each smaller one with half as many, evenly spaced; and 0 and 1.
 *
 * @param signed Whether half of the values are negative.
 * @returns 256 ascending values.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const values = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const count = 2 ** (decade + (signed ? 0 : 1));
    for (let i = 0; i < count; i++) {
      const value = 10 ** (decade - 6) * (0.1 + 0.9 * (i + 0.5) / count);
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

/** Where one code ends and the next begins; the last never does. */
function boundaries(map: Float32Array): Float32Array {
  return map.map((value, i) => i < 255 ? (value + map[i + 1]!) / 2 : 2);
}

/**
 * The state before the first step.
 *
 * @param size A multiple of 256.
 */
export function initAdamW8bit(size: number): AdamW8bitState {
  checkSize(size);
  const codes = () => tensor(new Uint8Array(size), [size], "u8");
  return {
    mean: codes(),
    meanScale: zeros([size / BLOCK]),
    square: codes(),
    squareScale: zeros([size / BLOCK]),
  };
}

function checkSize(size: number): void {
  if (size % BLOCK !== 0) {
    throw new RangeError(
      `an 8-bit optimiser needs a multiple of ${BLOCK} parameters, found ${size}: ` +
        `lay them out with an alignment of ${BLOCK}`,
    );
  }
}

/**
 * One step: {@linkcode adamw} on widened running means, which are narrowed again afterwards.
 *
 * @param parameters [n], n a multiple of 256. Tensors packed into it must begin at multiples of 256.
 * @param gradients [n]
 * @param rate From `adamwRate`.
 */
export function adamw8bit(
  parameters: Tensor,
  gradients: Tensor,
  state: AdamW8bitState,
  rate: Tensor,
  options: AdamWOptions = adamwDefaults,
): { parameters: Tensor; state: AdamW8bitState } {
  checkSize(parameters.size);
  const { beta1, beta2 } = options;
  const signed = dynamicMap(true);
  const unsigned = dynamicMap(false);
  const blocks = [parameters.size / BLOCK, BLOCK];
  const g = gradients.reshape(blocks);

  const mean = widen(state.mean, state.meanScale, signed).mul(beta1).add(g.mul(1 - beta1));
  const square = widen(state.square, state.squareScale, unsigned).mul(beta2)
    .add(g.square().mul(1 - beta2));
  const updated = adamwUpdate(parameters.reshape(blocks), mean, square, rate, options);

  const m = narrow(mean, signed);
  const v = narrow(square, unsigned);
  // A mean below zero must not be stored as zero: bitsandbytes keeps its sign.
  const zero = signed.indexOf(0);
  const lostSign = mean.lt(0).mul(m.codes.eq(zero).cast("f32")).cast("i32");
  return {
    parameters: updated.reshape([parameters.size]),
    state: {
      mean: m.codes.sub(lostSign).cast("u8").reshape([parameters.size]),
      meanScale: m.scale,
      square: v.codes.cast("u8").reshape([parameters.size]),
      squareScale: v.scale,
    },
  };
}

/** Codes [n] and scales [n / 256] as values [n / 256, 256]. */
function widen(codes: Tensor, scale: Tensor, map: Float32Array): Tensor {
  return take(tensor(map, [256]), codes.cast("i32").reshape([scale.size, BLOCK]))
    .mul(scale.unsqueeze(1));
}

/**
 * Values [n / 256, 256] as the codes (i32) of the nearest table values and the scales, by a binary
 * search over the boundaries between table values.
 */
function narrow(values: Tensor, map: Float32Array): { codes: Tensor; scale: Tensor } {
  const scale = values.abs().max(1, true);
  // A block of zeros has scale zero, and any code serves.
  const normalised = values.div(scale.maximum(1e-37));
  const table = tensor(boundaries(map), [256]);
  let codes: Tensor | undefined;
  for (let stride = 128; stride >= 1; stride /= 2) {
    const probe: Tensor = codes
      ? take(table, codes.add(stride - 1))
      : take(table, tensor(Int32Array.of(stride - 1), [1]));
    const above: Tensor = probe.lt(normalised).cast("i32").mul(stride);
    codes = codes ? codes.add(above) : above;
  }
  return { codes: codes!, scale: scale.reshape([values.shape[0]!]) };
}
