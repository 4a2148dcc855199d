/**
 * Plotly figures in a notebook: interactive where the front end can, else the same figure as SVG.
 *
 * @module
 */
import { type Figure, figureSvg } from "../experiments/figure.ts";
import type { MimeBundle } from "./kernel.ts";
import { show } from "./show.ts";

/** How a figure is shown. */
export interface FigureOptions {
  /** Of the SVG, in pixels; the interactive figure is as wide as the page. Default 760. */
  readonly width?: number;
  /** In pixels. Default 420. */
  readonly height?: number;
  /** What it shows, in words, for whoever cannot see it. */
  readonly caption: string;
}

/**
 * Shows a figure. There is no HTML among its forms: front ends prefer HTML to SVG, and GitHub and
 * untrusted notebooks take the scripts out of it.
 *
 * @param figure The figure: lines, bars or boxes.
 * @param options Size and caption.
 * @throws {TypeError} if Plotly doesn't know an attribute of the figure.
 */
export async function showFigure(figure: Figure, options: FigureOptions): Promise<void> {
  await show(await figureBundle(figure, options));
}

/**
 * All forms of a figure.
 *
 * @param figure The figure.
 * @param options Size and caption.
 */
export async function figureBundle(figure: Figure, options: FigureOptions): Promise<MimeBundle> {
  const { width = 760, height = 420, caption } = options;
  const { data, layout } = figure;
  // Plotly draws typed arrays, which JSON would turn into objects.
  const plain = (_: string, value: unknown) =>
    ArrayBuffer.isView(value) ? Array.from(value as Float32Array) : value;
  return {
    "application/vnd.plotly.v1+json": JSON.parse(
      JSON.stringify(
        { data, layout: { ...layout, width: undefined, height, autosize: true } },
        plain,
      ),
    ),
    "image/svg+xml": await figureSvg(figure, width, height),
    "text/plain": caption,
  };
}
