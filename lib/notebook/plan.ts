/**
 * A compiled step's plan for people: its kernels as a table, its memory as a figure, and a kernel's
 * expression as a formula.
 *
 * @module
 */
import type { Figure } from "../experiments/figure.ts";
import type { Table } from "../experiments/report.ts";
import type { Expr, Kernel } from "../tensor/kernel.ts";
import { BYTES, contractionFlops, reads } from "../tensor/kernel.ts";
import type { Plan } from "../tensor/mod.ts";

/** How kernels of each kind are coloured. */
const hues: Readonly<Record<Kernel["kind"], string>> = {
  map: "#98c379",
  reduce: "#f5b07a",
  matmul: "#1f5fa8",
  conv2d: "#7fb2e5",
  scatter: "#8e5bb5",
};

/** What a kernel computes, one of its output's elements at a time. */
export function kernelFormula(kernel: Kernel): string {
  switch (kernel.kind) {
    case "map":
      return formula(kernel.expr);
    case "reduce": {
      const inner = `${kernel.combine}(${formula(kernel.expr)})`;
      return kernel.epilogue ? formula(kernel.epilogue.expr, inner) : inner;
    }
    case "matmul":
      return kernel.epilogue ? formula(kernel.epilogue.expr, "a·b") : "a·b";
    case "conv2d":
      return kernel.epilogue ? formula(kernel.epilogue.expr, "conv(x, w)") : "conv(x, w)";
    case "scatter":
      return "scattered sum";
  }
}

const signs: Readonly<Record<string, string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  div: "/",
  lt: "<",
  eq: "==",
};

/** Longer formulas are cut: what several terms share would be written out for each. */
const longest = 400;

/** Inputs are a, b, c, ... in the order in which the kernel names them. */
function formula(expr: Expr, accumulated = "acc"): string {
  const known = new Map<Expr, string>();
  const of = (e: Expr): string => {
    const text = known.get(e) ?? term(e, accumulated, of);
    const shown = text.length > longest ? "..." : text;
    known.set(e, shown);
    return shown;
  };
  return of(expr);
}

function term(expr: Expr, accumulated: string, of: (e: Expr) => string): string {
  switch (expr.kind) {
    case "const":
      return String(Number(expr.value.toPrecision(4)));
    case "load":
      return String.fromCharCode(97 + expr.input);
    case "take":
      return `${String.fromCharCode(97 + expr.input)}[${of(expr.index)}]`;
    case "acc":
      return accumulated;
    case "unary":
      return expr.op === "neg" ? `-${of(expr.a)}` : `${expr.op}(${of(expr.a)})`;
    case "binary": {
      const sign = signs[expr.op];
      return sign
        ? `(${of(expr.a)} ${sign} ${of(expr.b)})`
        : `${expr.op}(${of(expr.a)}, ${of(expr.b)})`;
    }
    case "where":
      return `where(${of(expr.test)}, ${of(expr.a)}, ${of(expr.b)})`;
    case "cast":
      return `${expr.type}(${of(expr.a)})`;
  }
}

/** The kernels of a plan in their order. Long formulas are cut. */
export function kernelTable({ list }: Plan): Table {
  return {
    columns: [
      { heading: "Kernel", name: "kernel" },
      { heading: "Kind", name: "kind" },
      { heading: "Output elements", name: "elements", decimals: 0 },
      { heading: "Slots read", name: "reads", decimals: 0 },
      { heading: "Million operations of products", name: "mflop", decimals: 2 },
      { heading: "Formula", name: "formula" },
    ],
    rows: list.map((kernel, i) => [
      `${i + 1}. ${kernel.name}`,
      kernel.kind,
      outputElements(kernel),
      reads(kernel).length,
      contractionFlops(kernel) / 1e6,
      shortened(kernelFormula(kernel)),
    ]),
  };
}

function shortened(text: string): string {
  return text.length > 70 ? `${text.slice(0, 67)}...` : text;
}

/** How many kernels there are of each kind, and what they compute. */
export function kindTable({ list }: Plan): Table {
  const kinds = Map.groupBy(list, (kernel) => kernel.kind);
  return {
    columns: [
      { heading: "Kind", name: "kind" },
      { heading: "Kernels", name: "kernels", decimals: 0 },
      { heading: "Output elements, million", name: "elements", decimals: 2 },
      { heading: "Billion operations of products", name: "gflop", decimals: 2 },
    ],
    rows: [...kinds].map(([kind, kernels]) => [
      kind,
      kernels.length,
      kernels.reduce((sum, kernel) => sum + outputElements(kernel), 0) / 1e6,
      kernels.reduce((sum, kernel) => sum + contractionFlops(kernel), 0) / 1e9,
    ]),
  };
}

function outputElements(kernel: Kernel): number {
  const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  switch (kernel.kind) {
    case "map":
      return product(kernel.shape);
    case "reduce":
      return product(kernel.shape.slice(0, kernel.shape.length - kernel.reduced));
    case "matmul":
      return product(kernel.batch) * kernel.m * kernel.n;
    case "conv2d": {
      const { conv: c, variant } = kernel;
      if (variant === "weight") {
        return c.kernelHeight * c.kernelWidth * c.inChannels * c.outChannels;
      }
      return variant === "input"
        ? c.batch * c.height * c.width * c.inChannels
        : c.batch * c.outHeight * c.outWidth * c.outChannels;
    }
    case "scatter":
      return kernel.size * kernel.width;
  }
}

/**
 * What a step holds in memory while its kernels run: every value from the kernel that makes it to the last
 * one that reads it, and the size that the plan gives to all of them.
 */
export function memoryFigure({ list, arenaBytes }: Plan, title: string): Figure {
  const first = new Map<number, number>(), last = new Map<number, number>();
  const bytes = new Map<number, number>();
  list.forEach((kernel, i) => {
    const { slot, dtype } = kernel.output;
    if (!first.has(slot)) first.set(slot, i);
    last.set(slot, i);
    bytes.set(slot, outputElements(kernel) * BYTES[dtype]);
    for (const { slot } of reads(kernel)) if (first.has(slot)) last.set(slot, i);
  });
  // What is not read again leaves the step: a result, or new state.
  const live = list.map((_, i) =>
    [...first].reduce(
      (sum, [slot, made]) => made <= i && i <= last.get(slot)! ? sum + bytes.get(slot)! : sum,
      0,
    ) / 2 ** 20
  );
  const kinds = Object.keys(hues) as Kernel["kind"][];
  return {
    data: [
      ...kinds.filter((kind) => list.some((kernel) => kernel.kind === kind)).map((kind) => {
        const some = list.flatMap((kernel, i) => kernel.kind === kind ? [i] : []);
        return {
          type: "bar" as const,
          name: kind,
          x: some.map((i) => i + 1),
          y: some.map((i) => live[i]!),
          width: some.map(() => 1),
          marker: { color: hues[kind], line: { width: 0 } },
        };
      }),
      {
        type: "scatter",
        mode: "lines",
        name: "memory of the plan",
        x: [0.5, list.length + 0.5],
        y: [arenaBytes / 2 ** 20, arenaBytes / 2 ** 20],
        line: { color: "#333", dash: "dash", width: 1 },
      },
    ],
    layout: {
      title: { text: title },
      bargap: 0,
      xaxis: { title: { text: "kernel" } },
      yaxis: { title: { text: "MiB alive" }, rangemode: "tozero" },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      margin: { l: 60, r: 20, t: 90, b: 50 },
    },
  };
}
