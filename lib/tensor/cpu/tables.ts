/**
 * Where the pixels under a convolution's taps lie: byte offsets within one image, or -1 in the padding.
 *
 * @module
 */
import type { ConvShape } from "../kernel.ts";

/** Offsets [taps][output pixels] into an input image, for the forward pass and the weight gradient. */
export function forwardTable(conv: ConvShape): Int32Array<ArrayBuffer> {
  const { kernelHeight, kernelWidth, outHeight, outWidth, height, width } = conv;
  const table = new Int32Array(kernelHeight * kernelWidth * outHeight * outWidth);
  let at = 0;
  for (let ky = 0; ky < kernelHeight; ky++) {
    for (let kx = 0; kx < kernelWidth; kx++) {
      for (let oy = 0; oy < outHeight; oy++) {
        for (let ox = 0; ox < outWidth; ox++) {
          const y = oy * conv.stride + ky - conv.padTop;
          const x = ox * conv.stride + kx - conv.padLeft;
          const inside = y >= 0 && y < height && x >= 0 && x < width;
          table[at++] = inside ? (y * width + x) * conv.inChannels * 4 : -1;
        }
      }
    }
  }
  return table;
}

/** Offsets [taps][input pixels] into an image of output gradients, for the input gradient. */
export function inputTable(conv: ConvShape): Int32Array<ArrayBuffer> {
  const { kernelHeight, kernelWidth, outHeight, outWidth, height, width, stride } = conv;
  const table = new Int32Array(kernelHeight * kernelWidth * height * width);
  let at = 0;
  for (let ky = 0; ky < kernelHeight; ky++) {
    for (let kx = 0; kx < kernelWidth; kx++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const oy = (y + conv.padTop - ky) / stride;
          const ox = (x + conv.padLeft - kx) / stride;
          const inside = Number.isInteger(oy) && Number.isInteger(ox) &&
            oy >= 0 && oy < outHeight && ox >= 0 && ox < outWidth;
          table[at++] = inside ? (oy * outWidth + ox) * conv.outChannels * 4 : -1;
        }
      }
    }
  }
  return table;
}
