/**
 * An image as a person judges it: small ones enlarged by a whole multiple, which leaves their pixels
 * as they are.
 *
 * @module
 */
import sharp from "sharp";

/** Images are enlarged as long as they stay within this many pixels. */
const mostPixels = 512;

/**
 * Encodes an image for the page.
 *
 * @param rgb RGB, `width * height * 3` bytes.
 * @param width In pixels.
 * @param height In pixels.
 * @returns A PNG file's bytes, without any metadata.
 */
export async function pictureOf(
  rgb: Uint8Array,
  width: number,
  height: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const times = Math.max(1, Math.floor(mostPixels / Math.max(width, height)));
  const png = await sharp(rgb, { raw: { width, height, channels: 3 } })
    .resize(width * times, height * times, { kernel: "nearest" }).png().toBuffer();
  return new Uint8Array(png);
}
