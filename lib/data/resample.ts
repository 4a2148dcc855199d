/**
 * Changing an image's size as the Python libraries do it, so that a network sees what it was trained
 * on. Both libraries take a weighted mean of neighbouring pixels along rows and then along columns;
 * they differ in the weights and in what is kept in between:
 *
 * - Pillow (`Image.resize`, which torchvision and transformers use for images) widens the filter when
 *   it makes an image smaller, works in 22-bit fixed point and rounds to bytes after each axis.
 * - PyTorch (`interpolate`, which torchvision uses for tensors) stays in floating point. Without
 *   `antialias` its bicubic filter is 4 pixels wide whatever the scale, and has another shape.
 *
 * @module
 */
import type { Image } from "./images.ts";

/** How neighbouring pixels are weighed: by a straight line (2 pixels wide) or by a cubic (4 wide). */
export type ResampleFilter = "bilinear" | "bicubic";

/** What a filter weighs at a distance from its centre, and the distance from which on that is 0. */
interface Filter {
  readonly support: number;
  weight(distance: number): number;
}

const FILTERS: Readonly<Record<ResampleFilter, Filter>> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: (x) => cubic(Math.abs(x), -0.5) },
};

/** Keys' cubic convolution (1981), with the slope `a` at distance 1. */
function cubic(x: number, a: number): number {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** For every output position along one axis, the inputs that it is made from and their weights. */
interface Taps {
  readonly from: number;
  readonly to: number;
  /** First input of an output. */
  readonly starts: Int32Array;
  /** Number of inputs of an output. */
  readonly counts: Int32Array;
  /** Room for one output's weights in `weights`. */
  readonly span: number;
  readonly weights: Float64Array;
}

/** A filter as wide as the scale when that reduces, cut off at the edges and made to sum up to 1. */
function antialiasedTaps(from: number, to: number, filter: Filter): Taps {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const span = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(to), counts = new Int32Array(to);
  const weights = new Float64Array(to * span);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const count = Math.min(from, Math.trunc(centre + support + 0.5)) - start;
    let sum = 0;
    for (let t = 0; t < count; t++) {
      // Times the reciprocal, not divided: the last bit counts where Pillow is to be met exactly.
      const weight = filter.weight((t + start - centre + 0.5) * (1 / stretch));
      weights[i * span + t] = weight;
      sum += weight;
    }
    for (let t = 0; t < count; t++) if (sum !== 0) weights[i * span + t]! /= sum;
    starts[i] = start;
    counts[i] = count;
  }
  return { from, to, starts, counts, span, weights };
}

/** PyTorch's bicubic without antialiasing: 4 inputs around the centre, those beyond an edge are the edge. */
function plainBicubicTaps(from: number, to: number): Taps {
  const starts = new Int32Array(to), counts = new Int32Array(to);
  const weights = new Float64Array(to * 4);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * (from / to) - 0.5;
    const before = Math.floor(centre);
    const inside = (index: number) => Math.min(Math.max(index, 0), from - 1);
    const start = inside(before - 1);
    for (let index = before - 1; index <= before + 2; index++) {
      weights[i * 4 + inside(index) - start]! += cubic(Math.abs(index - centre), -0.75);
    }
    starts[i] = start;
    counts[i] = inside(before + 2) - start + 1;
  }
  return { from, to, starts, counts, span: 4, weights };
}

/** Pillow's fixed point leaves 8 bits for the pixel and 2 for sums beyond [0, 255]. */
const FRACTION_BITS = 32 - 8 - 2;

/** Weights as whole multiples of 2^-22, halves away from 0. */
function fixedPoint(taps: Taps): Taps {
  const weights = taps.weights.map((w) =>
    Math.trunc(w * 2 ** FRACTION_BITS + (w < 0 ? -0.5 : 0.5))
  );
  return { ...taps, weights };
}

/**
 * Resamples the middle axis of [outer, taps.from, inner] to [outer, taps.to, inner]. Bytes take
 * fixed-point weights and are rounded and clamped.
 */
function resampleAxis<T extends Uint8Array | Float32Array>(
  input: T,
  output: T,
  outer: number,
  inner: number,
  { from, to, starts, counts, span, weights }: Taps,
): T {
  const bytes = output instanceof Uint8Array;
  const half = bytes ? 2 ** (FRACTION_BITS - 1) : 0;
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (let x = 0; x < to; x++) {
      const first = (o * from + starts[x]!) * inner;
      const firstWeight = x * span, lastWeight = firstWeight + counts[x]!;
      for (let i = 0; i < inner; i++) {
        let sum = half;
        for (let w = firstWeight, p = first + i; w < lastWeight; w++, p += inner) {
          sum += input[p]! * weights[w]!;
        }
        output[at++] = bytes ? Math.min(Math.max(sum >> FRACTION_BITS, 0), 255) : sum;
      }
    }
  }
  return output;
}

/** Both axes, the width first; an axis that keeps its length is left alone, as both libraries do. */
function resample<T extends Uint8Array | Float32Array>(
  image: { readonly width: number; readonly height: number; readonly data: T },
  width: number,
  height: number,
  taps: (from: number, to: number) => Taps,
  empty: (length: number) => T,
): { width: number; height: number; data: T } {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) {
    throw new RangeError(`an image cannot be resized to ${width}x${height}: a side is 1 or more`);
  }
  let { data } = image;
  if (width !== image.width) {
    const output = empty(image.height * width * 3);
    data = resampleAxis(data, output, image.height, 3, taps(image.width, width));
  }
  if (height !== image.height) {
    const output = empty(height * width * 3);
    data = resampleAxis(data, output, 1, width * 3, taps(image.height, height));
  }
  return { width, height, data };
}

/**
 * An image at another size, with exactly the bytes of Pillow's `Image.resize`.
 *
 * @throws {RangeError} If a side is not a positive integer.
 * @example
 * ```ts
 * const image = { width: 2, height: 1, data: Uint8Array.of(0, 0, 0, 200, 100, 50) };
 * console.log(resizePil(image, 1, 1, "bilinear").data.join()); // 100,50,25
 * ```
 */
export function resizePil(
  image: Image,
  width: number,
  height: number,
  filter: ResampleFilter,
): Image {
  const taps = (from: number, to: number) => fixedPoint(antialiasedTaps(from, to, FILTERS[filter]));
  return resample(image, width, height, taps, (length) => new Uint8Array(length));
}

/** An image of real numbers, [height, width, 3]. */
export interface FloatImage {
  readonly width: number;
  readonly height: number;
  readonly data: Float32Array;
}

/**
 * An image of real numbers at another size: PyTorch's
 * `interpolate(mode="bicubic", align_corners=False)`. Values may leave the input's range, as they do
 * there.
 *
 * @param antialias Whether the filter widens when the image gets smaller. torchvision's `Resize` of a
 * tensor does so from version 0.17 on.
 * @throws {RangeError} If a side is not a positive integer.
 */
export function resizeTorch(
  image: FloatImage,
  width: number,
  height: number,
  antialias: boolean,
): FloatImage {
  const taps = (from: number, to: number) =>
    antialias ? antialiasedTaps(from, to, FILTERS.bicubic) : plainBicubicTaps(from, to);
  return resample(image, width, height, taps, (length) => new Float32Array(length));
}
