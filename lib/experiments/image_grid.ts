/**
 * Images side by side with their captions, as one PNG.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import sharp from "sharp";
import type { Images } from "../diffusion/mod.ts";

/** One picture of a grid. */
export interface GridImage {
  /** RGB, `width * height * 3` bytes. */
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly height: number;
  /** Shown under the picture. */
  readonly caption: string;
}

/** How a grid is laid out. */
export interface GridOptions {
  /** Pictures per row. */
  readonly columns: number;
  /** Side of a cell in pixels; small pictures are enlarged so that a person can judge them. */
  readonly cell?: number;
  /** Headings over the columns. */
  readonly headings?: readonly string[];
}

const fontSize = 13, lineHeight = 16, gap = 8;

/**
 * Draws the grid.
 *
 * @param images The pictures in reading order.
 * @param options The layout.
 * @returns A PNG file's bytes.
 */
export async function imageGrid(
  images: readonly GridImage[],
  options: GridOptions,
): Promise<Uint8Array> {
  const cell = options.cell ?? Math.max(192, ...images.map((image) => image.width));
  const captions = images.map((image) => captionLines(image.caption, cell));
  const captionHeight = Math.max(0, ...captions.map((lines) => lines.length)) * lineHeight + gap;
  const top = options.headings ? lineHeight + gap : 0;
  const rows = Math.ceil(images.length / options.columns);
  const width = options.columns * (cell + gap) + gap;
  const height = top + rows * (cell + captionHeight + gap) + gap;
  const place = (i: number) => ({
    left: gap + i % options.columns * (cell + gap),
    top: top + gap + Math.floor(i / options.columns) * (cell + captionHeight + gap),
  });
  const pictures = await Promise.all(images.map(async (image, i) => ({
    ...place(i),
    input: await sharp(image.pixels, {
      raw: { width: image.width, height: image.height, channels: 3 },
    })
      // Whole multiples keep small pictures' pixels as they are.
      .resize(cell, cell, {
        fit: "contain",
        background: "#ffffff",
        kernel: cell >= 2 * image.width ? "nearest" : "lanczos3",
      })
      .png().toBuffer(),
  })));
  const text = (x: number, y: number, line: string, weight: string) =>
    `<text x="${x}" y="${y}" text-anchor="middle" font-weight="${weight}">${
      escapeXml(line)
    }</text>`;
  const words = [
    ...(options.headings ?? []).map((heading, i) =>
      text(place(i).left + cell / 2, gap + fontSize, heading, "bold")
    ),
    ...captions.flatMap((lines, i) =>
      lines.map((line, k) =>
        text(place(i).left + cell / 2, place(i).top + cell + (k + 1) * lineHeight, line, "normal")
      )
    ),
  ];
  const overlay = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `font-family="sans-serif" font-size="${fontSize}" fill="#222">${words.join("")}</svg>`;
  return await sharp({ create: { width, height, channels: 3, background: "#ffffff" } })
    .composite([...pictures, { input: Buffer.from(overlay), left: 0, top: 0 }])
    .png().toBuffer();
}

/**
 * What several models drew for the same prompts: a column per model, and one or more prompts in a row.
 *
 * @param prompts The captions.
 * @param columns Each model's images, one per prompt.
 * @param perRow Prompts in a row.
 * @returns A PNG file's bytes.
 */
export async function sheetOf(
  prompts: readonly string[],
  columns: readonly { readonly heading: string; readonly images: Images }[],
  perRow = 1,
): Promise<Uint8Array> {
  const pictures = prompts.flatMap((caption, row) =>
    columns.map(({ images: { data, width, height } }) => {
      const bytes = width * height * 3;
      return { pixels: data.subarray(row * bytes, (row + 1) * bytes), width, height, caption };
    })
  );
  return await imageGrid(pictures, {
    columns: perRow * columns.length,
    headings: Array.from({ length: perRow }, () => columns.map(({ heading }) => heading)).flat(),
  });
}

/** Breaks a caption at spaces; a sans-serif letter is about 0.56 of its font size wide. */
function captionLines(caption: string, width: number): string[] {
  const most = Math.max(8, Math.floor(width / (fontSize * 0.56)));
  const lines: string[] = [];
  for (const word of caption.split(" ").filter((word) => word !== "")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= most) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else lines.push(word);
  }
  return lines;
}

function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}
