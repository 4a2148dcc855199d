/**
 * A Plotly figure as SVG, drawn without a browser: plotly.js runs in a DOM of its own, where text
 * sizes are estimated and identifiers are counted, so that the same figure gives the same bytes.
 *
 * @module
 */
// @ts-types="npm:@types/jsdom@28.0.3"
import { JSDOM } from "jsdom";
import plotlySource from "plotly.js-dist-min/plotly.min.js" with { type: "text" };
import type { Data, Layout } from "plotly.js-dist-min";

/** What Plotly draws. */
export interface Figure {
  readonly data: Partial<Data>[];
  readonly layout: Partial<Layout>;
}

/** What is used of plotly.js inside its DOM. */
interface Plotly {
  validate(data: unknown, layout: unknown): { msg: string }[] | undefined;
  toImage(figure: Figure, options: Record<string, unknown>): Promise<string>;
}

/**
 * Draws a figure of lines, bars or boxes (heatmaps and violins need a real browser).
 *
 * @param figure The figure.
 * @param width In pixels.
 * @param height In pixels.
 * @returns The SVG document.
 * @throws {TypeError} if Plotly doesn't know an attribute of the figure.
 */
export async function figureSvg(figure: Figure, width = 760, height = 420): Promise<string> {
  plotly ??= loadPlotly();
  randomState = 1;
  const faults = plotly.validate(figure.data, figure.layout);
  if (faults) {
    throw new TypeError(`Plotly rejects the figure: ${faults.map((f) => f.msg).join("; ")}`);
  }
  return await plotly.toImage(figure, { format: "svg", width, height, imageDataOnly: true });
}

let plotly: Plotly | undefined;
/** Of Lehmer's generator: a figure's element identifiers are the same in every process. */
let randomState = 1;

function loadPlotly(): Plotly {
  const { window } = new JSDOM("<!doctype html><body></body>", {
    runScripts: "outside-only",
    pretendToBeVisual: true,
  });
  window.Math.random = () => (randomState = randomState * 16807 % 2147483647) / 2147483647;
  window.URL.createObjectURL ??= () => "blob:none";
  window.HTMLCanvasElement.prototype.getContext = () => null;
  Object.assign(window.SVGElement.prototype, {
    getBBox: boundingBox,
    getBoundingClientRect: boundingBox,
    getComputedTextLength(this: Element) {
      return textSize(this).width;
    },
  });
  window.eval(plotlySource);
  return (window as unknown as { Plotly: Plotly }).Plotly;
}

/** jsdom has no layout; without sizes Plotly would clip legends and margins. */
function boundingBox(this: Element) {
  const tag = this.tagName.toLowerCase();
  const isText = tag === "text" || tag === "tspan";
  const sizes = isText ? [textSize(this)] : [...this.querySelectorAll("text")].map(textSize);
  const width = Math.max(0, ...sizes.map((size) => size.width));
  const height = Math.max(0, ...sizes.map((size) => size.height));
  const y = isText ? -sizes[0]!.fontSize : 0;
  return { x: 0, y, left: 0, top: y, right: width, bottom: y + height, width, height };
}

function textSize(element: Element): { fontSize: number; width: number; height: number } {
  let fontSize = 12;
  for (let e: Element | null = element; e; e = e.parentElement) {
    const own = parseFloat((e as HTMLElement).style?.fontSize ?? "");
    if (own) {
      fontSize = own;
      break;
    }
  }
  const tspans = [...element.querySelectorAll("tspan.line")].map((line) => line.textContent ?? "");
  const lines = tspans.length > 0 ? tspans : [element.textContent ?? ""];
  const width = Math.max(...lines.map((line) => fontSize * lengthInEms(line)));
  return { fontSize, width, height: lines.length * fontSize * 1.2 };
}

/** Advance widths of a wide sans-serif face: a legend that reserves too little room is cut off. */
function lengthInEms(line: string): number {
  let ems = 0;
  for (const c of line) {
    ems += "iljtfrI.,:;'|! ()[]".includes(c)
      ? 0.34
      : "mwMW%@".includes(c)
      ? 0.95
      : c >= "A" && c <= "Z"
      ? 0.72
      : 0.61;
  }
  return ems;
}
