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

/** The most pixels that an image may have, which is Pillow's limit too: a small file can claim any size. */
export const MAX_PIXELS = 178_956_970;

/** Thrown for an image that cannot be used, as opposed to faults of the file that holds it. */
export class UnreadableImage extends Error {
  override name = "UnreadableImage";
}

/**
 * Decodes an image of any usual format to RGB, to what Pillow's `convert("RGB")` gives: transparency is dropped without
 * blending, colour profiles and EXIF orientation are not applied, CMYK is converted by the plain formula, of an
 * animation the first frame is taken, and grey values of 16 bits are cut off at 255.
 *
 * @param source What the bytes are, for the error message, for example a file, column and row.
 * @throws {UnreadableImage} If the bytes are no image, or one of too many pixels; the message begins with `source`.
 */
export async function decodeImage(bytes: Uint8Array, source = "image"): Promise<Image> {
  if (bytes.length === 0) throw new UnreadableImage(`${source} holds no image bytes`);
  try {
    const { space, width, height } = await sharp(bytes, { limitInputPixels: false }).metadata();
    if (width * height > MAX_PIXELS) {
      throw new RangeError(`${width} x ${height} pixels are more than ${MAX_PIXELS}`);
    }
    const image = sharp(bytes, { failOn: "error", ignoreIcc: true, limitInputPixels: MAX_PIXELS });
    if (space === "cmyk") {
      image.pipelineColourspace("cmyk").toColourspace("cmyk").raw();
    } else if (space === "grey16") {
      image.removeAlpha().toColourspace("grey16").raw({ depth: "ushort" });
    } else {
      image.removeAlpha().toColourspace("srgb").raw();
    }
    const { data, info } = await image.toBuffer({ resolveWithObject: true });
    const rgb = space === "cmyk"
      ? rgbFromCmyk(data)
      : space === "grey16"
      ? rgbFromGrey16(data)
      : new Uint8Array(data);
    return { width: info.width, height: info.height, data: rgb };
  } catch (cause) {
    const reason = (cause as Error).message.trim().replaceAll(/\s*\n\s*/g, "; ");
    throw new UnreadableImage(
      `${source}: ${bytes.length} bytes are not a readable image (${reason}). Expected an encoded ` +
        "JPEG, PNG, WebP or AVIF; fetch the file again if it may be damaged",
      { cause },
    );
  }
}

/** What is left of white after black and each ink: 255 - K - C (255 - K) / 255. */
function rgbFromCmyk(inks: Uint8Array): Uint8Array {
  const rgb = new Uint8Array(inks.length / 4 * 3);
  for (let from = 0, to = 0; from < inks.length; from += 4) {
    const white = 255 - inks[from + 3]!;
    for (let ink = 0; ink < 3; ink++) {
      rgb[to++] = white - Math.round(inks[from + ink]! * white / 255);
    }
  }
  return rgb;
}

function rgbFromGrey16(data: Uint8Array): Uint8Array {
  const grey = new Uint16Array(data.buffer, data.byteOffset, data.length / 2);
  return Uint8Array.from(
    { length: 3 * grey.length },
    (_, i) => Math.min(grey[Math.trunc(i / 3)]!, 255),
  );
}
