/**
 * Pictures as a model is tuned on them: brought to its resolution as the released training programs do it, byte for
 * byte.
 *
 * - `crop` (SD1.5): the short side is resized to the resolution (bilinear) and the middle is cut out.
 * - `stretch` (SDXL): both sides are resized to the resolution (bicubic), whatever the picture's proportions.
 *
 * @module
 */
import { type Image, MAX_PIXELS, UnreadableImage } from "./images.ts";
import { resizePil } from "./resample.ts";

/** How a picture becomes a square. */
export type Fit = "crop" | "stretch";

/** What is done to a picture. */
export interface Preprocessing {
  /** The square's side in pixels. */
  readonly resolution: number;
  readonly fit: Fit;
}

/** What a picture is resized to, and where the square is in it. */
export interface Placement {
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly top: number;
}

/**
 * Where the square of a picture lies. Rounding is torchvision's: the long side down, the margins to the nearest even.
 *
 * @example
 * ```ts
 * const at = placementOf({ width: 768, height: 515 }, { resolution: 512, fit: "crop" });
 * console.log(at.width, at.height, at.left, at.top); // 763 512 126 0
 * ```
 */
export function placementOf(
  { width, height }: { readonly width: number; readonly height: number },
  { resolution, fit }: Preprocessing,
): Placement {
  const short = Math.min(width, height);
  const resized = (side: number) =>
    fit === "stretch" || side === short ? resolution : Math.trunc(resolution * side / short);
  const margin = (side: number) => roundToEven((resized(side) - resolution) / 2);
  return {
    width: resized(width),
    height: resized(height),
    left: margin(width),
    top: margin(height),
  };
}

/**
 * The square of a picture.
 *
 * @param source What the picture is, for the error message.
 * @throws {UnreadableImage} If it is so narrow that there is no end to its long side.
 */
export function preprocess(
  image: Image,
  preprocessing: Preprocessing,
  source = "image",
): Image {
  const { resolution, fit } = preprocessing;
  const { width, height, left, top } = placementOf(image, preprocessing);
  if (width * height > MAX_PIXELS) {
    throw new UnreadableImage(
      `${source} is ${image.width} x ${image.height} pixels: with a short side of ${resolution} ` +
        `it would be ${width} x ${height}, more than ${MAX_PIXELS} pixels`,
    );
  }
  const resized = resizePil(image, width, height, fit === "crop" ? "bilinear" : "bicubic");
  if (width === resolution && height === resolution) return resized;
  const data = new Uint8Array(resolution * resolution * 3);
  for (let y = 0; y < resolution; y++) {
    const start = ((top + y) * width + left) * 3;
    data.set(resized.data.subarray(start, start + resolution * 3), y * resolution * 3);
  }
  return { width: resolution, height: resolution, data };
}

/** A picture with left and right changed over. */
export function mirrored({ width, height, data }: Image): Image {
  const out = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + x) * 3, to = (y * width + width - 1 - x) * 3;
      for (let c = 0; c < 3; c++) out[to + c] = data[from + c]!;
    }
  }
  return { width, height, data: out };
}

/** Python's `round`: halves go to the even neighbour. */
function roundToEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
