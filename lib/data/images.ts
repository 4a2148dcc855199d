/**
 * Encoded image bytes to RGB and back.
 *
 * @module
 */
import sharp from "sharp";

/** An RGB image. */
export interface Image {
  readonly width: number;
  readonly height: number;
  /** RGB bytes, `[height, width, 3]`. */
  readonly data: Uint8Array;
}

/** How {@linkcode encodeImage} stores an image. */
export type ImageFormat =
  /** Without loss: WebP is the smallest such format for small synthetic images. */
  | { readonly kind: "webp"; readonly lossless: true }
  /** With loss, quality from 1 to 100; AVIF and JPEG keep the full resolution of colour, WebP halves it. */
  | { readonly kind: "webp" | "avif" | "jpeg"; readonly quality: number };

/** The format that changes no pixel. */
export const LOSSLESS: ImageFormat = { kind: "webp", lossless: true };

/**
 * Encodes an RGB image.
 *
 * @throws {RangeError} If the number of bytes is not width x height x 3.
 */
export async function encodeImage(
  image: Image,
  format: ImageFormat = LOSSLESS,
): Promise<Uint8Array> {
  const { width, height, data } = image;
  if (data.length !== width * height * 3) {
    throw new RangeError(
      `A ${width}x${height} RGB image has ${width * height * 3} bytes, got ${data.length}`,
    );
  }
  const input = sharp(data, { raw: { width, height, channels: 3 } });
  const output = format.kind === "jpeg"
    ? input.jpeg({ quality: format.quality, chromaSubsampling: "4:4:4", mozjpeg: true })
    : format.kind === "avif"
    ? input.avif({ quality: format.quality, chromaSubsampling: "4:4:4", effort: 4 })
    : "lossless" in format
    ? input.webp({ lossless: true, effort: 3 })
    : input.webp({ quality: format.quality, smartSubsample: true, effort: 6 });
  return new Uint8Array(await output.toBuffer());
}

/** How {@linkcode decodeImage} reads an image. */
export interface DecodeOptions {
  /** Side of the square result: the short side is resized to it (bilinear) and the middle is cut out. Default: no resize. */
  readonly resolution?: number;
  /** What the bytes are, for the error message, for example a file, column and row. */
  readonly source?: string;
}

/**
 * Decodes an image of any usual format to RGB; transparency is dropped.
 *
 * @throws {Error} If the bytes are no image; the message begins with `source`.
 */
export async function decodeImage(bytes: Uint8Array, options: DecodeOptions = {}): Promise<Image> {
  const { resolution, source = "image" } = options;
  try {
    let image = sharp(bytes, { failOn: "truncated" }).toColourspace("srgb").removeAlpha();
    if (resolution !== undefined) {
      image = image.resize({
        width: resolution,
        height: resolution,
        fit: "cover",
        position: "centre",
        kernel: "linear",
      });
    }
    const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
    return { width: info.width, height: info.height, data: new Uint8Array(data) };
  } catch (cause) {
    throw new Error(
      `${source}: ${bytes.length} bytes are not a readable image (${
        (cause as Error).message
      }). Expected an encoded JPEG, PNG, WebP or AVIF; fetch the file again if it may be damaged`,
      { cause },
    );
  }
}
