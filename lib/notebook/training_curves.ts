/**
 * Trainings while they run, in one live figure: the loss of each, and the share of pairs whose winner it
 * prefers.
 *
 * @module
 */
import type { Figure } from "../experiments/figure.ts";
import type { StepMetrics } from "../preference/mod.ts";
import { LiveFigure } from "./live.ts";

/** The curves of trainings that follow each other. */
export class TrainingCurves {
  readonly #title: string;
  readonly #curves = new Map<string, StepMetrics[]>();
  readonly #live: LiveFigure;

  /** @param title What is trained. */
  constructor(title: string) {
    this.#title = title;
    this.#live = new LiveFigure({
      caption: `${title}: loss and preferred winners of each training`,
      width: 900,
      height: 380,
    });
  }

  /**
   * Adds a step of a training.
   *
   * @returns For a drawing, when it is done: see {@linkcode LiveFigure.update}.
   */
  add(training: string, metrics: StepMetrics): void | Promise<void> {
    this.#curves.set(training, [...this.#curves.get(training) ?? [], metrics]);
    return this.#live.update(() => curvesFigure(this.#title, this.#curves));
  }

  /** Draws the last state. */
  async end(): Promise<void> {
    await this.#live.end();
  }
}

/**
 * Curves as a figure.
 *
 * @param title What is trained.
 * @param curves The metrics of some steps, by training.
 */
export function curvesFigure(
  title: string,
  curves: ReadonlyMap<string, readonly StepMetrics[]>,
): Figure {
  const panels = [
    { value: ({ loss }: StepMetrics) => loss, suffix: "" },
    { value: ({ accuracy }: StepMetrics) => accuracy, suffix: "2" },
  ];
  const data = [...curves].flatMap(([name, metrics], i) =>
    panels.flatMap(({ value, suffix }) => {
      const shown = metrics.filter((line) => value(line) !== undefined);
      // Plotly refuses a trace without points, and an axis without traces.
      return shown.length === 0 ? [] : {
        type: "scatter" as const,
        mode: "lines" as const,
        name,
        legendgroup: name,
        showlegend: suffix === "",
        line: { color: palette[i % palette.length]!, width: 1.5 },
        x: shown.map(({ step }) => step),
        y: shown.map((line) => value(line)!),
        xaxis: `x${suffix}`,
        yaxis: `y${suffix}`,
      };
    })
  );
  return {
    data,
    layout: {
      title: { text: title },
      // More names than fit beside the curves would hide them.
      showlegend: curves.size <= 8,
      margin: { l: 60, r: 20, t: 60, b: 50 },
      xaxis: { title: { text: "step" }, domain: [0, 0.45] },
      yaxis: { title: { text: "loss" }, type: "log" },
      ...data.some(({ xaxis }) => xaxis === "x2") && {
        xaxis2: { title: { text: "step" }, domain: [0.55, 1], anchor: "y2" },
        yaxis2: { title: { text: "pairs whose winner is preferred" }, range: [0, 1], anchor: "x2" },
      },
    },
  };
}

const palette = [
  "#1f5fa8",
  "#c4501b",
  "#2d7d32",
  "#8e5bb5",
  "#7fb2e5",
  "#f5b07a",
  "#98c379",
  "#7f7f7f",
];
