/**
 * A figure that grows while a cell runs, such as a loss curve, redrawn in place.
 *
 * In between it is drawn as SVG and only at the end in all forms: JupyterLab's renderer for Plotly
 * draws an output once and ignores that it changes, but a change of form makes it anew.
 *
 * @module
 */
import { type Figure, figureSvg } from "../experiments/figure.ts";
import { figureBundle, type FigureOptions } from "./figure.ts";
import { type CellOutput, interruptCheck, openOutput } from "./kernel.ts";
import { show } from "./show.ts";

/** How a live figure is shown. */
export interface LiveFigureOptions extends FigureOptions {
  /** Least time between two drawings, in milliseconds. Default 1000. */
  readonly interval?: number;
  /** Where it appears; by default below the running cell. */
  readonly output?: CellOutput;
  /** Milliseconds on a monotonic clock. */
  readonly now?: () => number;
}

/**
 * A figure that is redrawn in place. Its last form is that of {@linkcode showFigure}, so that a saved
 * notebook holds the whole curve. In a terminal only the end is told.
 *
 * @example
 * ```ts
 * import { LiveFigure } from "./live.ts";
 *
 * const y: number[] = [];
 * const live = new LiveFigure({ caption: "The loss of each step" });
 * for (let step = 0; step < 3; step++) {
 *   y.push(1 / (1 + step));
 *   await live.update(() => ({ data: [{ type: "scatter", y }], layout: {} }));
 * }
 * // At last: await live.end();
 * ```
 */
export class LiveFigure {
  readonly #options: LiveFigureOptions;
  readonly #output: CellOutput | undefined;
  readonly #now: () => number;
  readonly #check = interruptCheck();
  #figure: (() => Figure) | undefined;
  #drawing: Promise<void> | undefined;
  /** When the next drawing may begin. */
  #next = -Infinity;

  /** @param options Size, caption and pace. */
  constructor(options: LiveFigureOptions) {
    this.#options = options;
    this.#output = options.output ?? openOutput();
    this.#now = options.now ?? (() => performance.now());
  }

  /**
   * Says that there is more to draw; draws unless the last drawing is too recent, and never spends
   * more than a tenth of the time on drawing.
   *
   * @param figure Makes the figure; called when it is drawn.
   * @returns For a drawing, when it is done. Await it: drawing needs the event loop, which a loop that
   * computes on the CPU does not reach by itself.
   * @throws {Interrupted} if the user pressed Stop since this figure was made.
   */
  update(figure: () => Figure): void | Promise<void> {
    this.#check();
    this.#figure = figure;
    if (!this.#output || this.#drawing || this.#now() < this.#next) return;
    this.#drawing = this.#draw(this.#output, figure()).finally(() => this.#drawing = undefined);
    return this.#drawing;
  }

  async #draw(output: CellOutput, figure: Figure): Promise<void> {
    const { width, height, caption, interval = 1000 } = this.#options;
    const begin = this.#now();
    const first = this.#next === -Infinity;
    const svg = await figureSvg(figure, width, height);
    // What is lost by not waiting is at most a drawing in between: the end waits.
    output.put({ "image/svg+xml": svg, "text/plain": caption });
    const end = this.#now();
    // The first drawing loads Plotly, which says nothing of the next ones.
    this.#next = first ? end + interval : begin + Math.max(interval, 10 * (end - begin));
  }

  /** Draws the last state in all forms and waits until it cannot be lost any more. */
  async end(): Promise<void> {
    // A drawing that nobody awaited would come later and hide the end.
    await this.#drawing;
    if (!this.#figure) return;
    const bundle = await figureBundle(this.#figure(), this.#options);
    await (this.#output?.put(bundle) ?? show(bundle));
  }
}
