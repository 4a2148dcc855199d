/**
 * Pictures in a notebook.
 *
 * @module
 */
import { show } from "./show.ts";

const signature = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * Shows a PNG picture; in a terminal, its caption.
 *
 * @param png The file's bytes.
 * @param caption What it shows, in words.
 * @throws {TypeError} if the bytes are no PNG file.
 */
export async function showImage(png: Uint8Array, caption: string): Promise<void> {
  if (!signature.every((byte, i) => png[i] === byte)) {
    throw new TypeError(
      `these ${png.length} bytes are no PNG file: encode the pixels first, as imageGrid does`,
    );
  }
  await show({ "image/png": png.toBase64(), "text/plain": caption });
}
