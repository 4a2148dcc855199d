/**
 * From an image of any size to the pixels that a CLIP was trained on. Scorers differ here more than in
 * their networks: PickScore's picture is resized as bytes by Pillow and its middle cut out, HPSv2's is
 * resized as real numbers by PyTorch and kept whole.
 *
 * @module
 */
import type { Image } from "../data/images.ts";
import { resizePil, resizeTorch } from "../data/resample.ts";
import type { Json } from "../diffusion/config.ts";

/** Mean of the colours that CLIP was trained on, per channel. */
export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
/** Their standard deviation. */
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;

/** Makes an image's pixels for a network: [side, side, 3]. */
export type ImageProcessor = (image: Image) => Float32Array;

/** RGB bytes as CLIP sees them: `(x / 255 - mean) / std` per channel. */
export function clipPixels(
  bytes: Uint8Array,
  mean: readonly number[] = CLIP_MEAN,
  std: readonly number[] = CLIP_STD,
): Float32Array {
  return Float32Array.from(bytes, (x, i) => (x / 255 - mean[i % 3]!) / std[i % 3]!);
}

/**
 * transformers' `CLIPImageProcessor`, the one that works with Pillow: the short side is resized to
 * `size` (or both sides, if the configuration gives both), the middle is cut out and the colours are
 * normalised.
 *
 * @param side The network's side in pixels.
 * @param json The content of `preprocessor_config.json`; what it leaves out is CLIP's.
 * @param source Its file, for messages.
 * @throws {Error} For a setting that is not implemented, with its key.
 */
export function clipImageProcessor(
  side: number,
  json: Json = {},
  source = "preprocessor_config.json",
): ImageProcessor {
  const refuse = (key: string, expected: string): never => {
    throw new Error(
      `${source}: "${key}" is ${JSON.stringify(json[key])}, but only ${expected} is implemented`,
    );
  };
  for (const key of ["do_resize", "do_center_crop", "do_rescale", "do_normalize"]) {
    if (json[key] === false) refuse(key, "true");
  }
  const filter = { 2: "bilinear", 3: "bicubic" }[Number(json.resample ?? 3)] as
    | "bilinear"
    | "bicubic"
    | undefined;
  if (!filter) refuse("resample", "2 (bilinear) or 3 (bicubic)");
  if (Math.abs(Number(json.rescale_factor ?? 1 / 255) * 255 - 1) > 1e-6) {
    refuse("rescale_factor", "1/255");
  }
  const size = sizeOf(json.size ?? side) ?? refuse("size", "a number, or an object of sides");
  const crop = sizeOf(json.crop_size ?? side);
  if ((crop?.height ?? crop?.short) !== side || (crop?.width ?? crop?.short) !== side) {
    refuse("crop_size", `the model's ${side}`);
  }
  if (Math.min(size.short ?? side, size.width ?? side, size.height ?? side) < side) {
    refuse("size", `at least the model's ${side}`);
  }
  const colours = (key: string, fallback: readonly number[]) => {
    const values = json[key] ?? fallback;
    const fine = Array.isArray(values) && values.length === 3 &&
      values.every((value) => Number.isFinite(value));
    return fine ? values as number[] : refuse(key, "a list of 3 numbers");
  };
  const mean = colours("image_mean", CLIP_MEAN), std = colours("image_std", CLIP_STD);
  return (image) => {
    const { width, height } = size.short === undefined
      ? { width: size.width!, height: size.height! }
      : shortSide(image, size.short);
    const middle = {
      left: Math.floor((width - side) / 2),
      top: Math.floor((height - side) / 2),
      width: side,
      height: side,
    };
    return clipPixels(resizePil(image, width, height, filter!, middle).data, mean, std);
  };
}

/** A size as transformers writes it: `224`, `{ shortest_edge: 224 }` or `{ height: 224, width: 224 }`. */
function sizeOf(value: unknown): { short?: number; width?: number; height?: number } | undefined {
  const fits = (x: unknown): x is number => Number.isInteger(x) && x as number > 0;
  if (fits(value)) return { short: value };
  const { shortest_edge: short, width, height } = Object(value);
  if (fits(short)) return { short };
  return fits(width) && fits(height) ? { width, height } : undefined;
}

/** The size of an image whose short side gets a length; the long one is rounded down, as in torchvision. */
function shortSide({ width, height }: Image, side: number): { width: number; height: number } {
  const long = Math.floor(side * Math.max(width, height) / Math.min(width, height));
  return width <= height ? { width: side, height: long } : { width: long, height: side };
}

/**
 * HPSv2's transform: real numbers in [0, 1], the long side resized to the network's by PyTorch's bicubic,
 * black on both sides of the short one, colours normalised. Resized values may leave [0, 1].
 *
 * @param side The network's side in pixels.
 * @param antialias Whether the filter widens when a picture gets smaller. HPSv2's authors had a
 * torchvision (0.16) that does not; from 0.17 on it does, and scores shift.
 */
export function hpsImageProcessor(side: number, antialias: boolean): ImageProcessor {
  return (image) => {
    const scale = side / Math.max(image.width, image.height);
    // A side that rounds to nothing has no pixels for PyTorch either; here it keeps one.
    const scaled = (length: number) => Math.max(1, roundHalfEven(length * scale));
    const floats = { ...image, data: new Float32Array(image.data).map((x) => x / 255) };
    const { width, height, data } = resizeTorch(
      floats,
      scaled(image.width),
      scaled(image.height),
      antialias,
    );
    const padded = new Float32Array(side * side * 3);
    const left = Math.floor((side - width) / 2), top = Math.floor((side - height) / 2);
    for (let y = 0; y < height; y++) {
      padded.set(
        data.subarray(y * width * 3, (y + 1) * width * 3),
        ((top + y) * side + left) * 3,
      );
    }
    return padded.map((x, i) => (x - CLIP_MEAN[i % 3]!) / CLIP_STD[i % 3]!);
  };
}

/** Python's `round`. */
function roundHalfEven(x: number): number {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}
