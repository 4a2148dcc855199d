/**
 * How each operation passes a gradient back to its inputs: one row per operation, built from the same
 * operations, so that gradients are lazy, fuse, and can be differentiated again.
 *
 * @module
 */
import type { BinaryOp, UnaryOp } from "./kernel.ts";
import {
  constant,
  convolve,
  gather,
  scatterAdd,
  type Source,
  type Tensor,
  where,
} from "./tensor.ts";

type Gradients = readonly (Tensor | undefined)[];

/** d/dx of each unary function, times the gradient `g` of its value `y`. */
export const UNARY_VJP: Readonly<Record<UnaryOp, (g: Tensor, x: Tensor, y: Tensor) => Tensor>> = {
  neg: (g) => g.neg(),
  abs: (g, x) => g.mul(where(x.lt(0), -1, 1)),
  exp: (g, _, y) => g.mul(y),
  log: (g, x) => g.div(x),
  sqrt: (g, _, y) => g.mul(0.5).div(y),
  rsqrt: (g, x, y) => g.mul(y).mul(-0.5).div(x),
  recip: (g, _, y) => g.mul(y).mul(y).neg(),
  sin: (g, x) => g.mul(x.cos()),
  cos: (g, x) => g.mul(x.sin()).neg(),
  tanh: (g, _, y) => g.mul(y.mul(y).neg().add(1)),
  erf: (g, x) => g.mul(x.mul(x).neg().exp()).mul(2 / Math.sqrt(Math.PI)),
  sigmoid: (g, _, y) => g.mul(y).mul(y.neg().add(1)),
  floor: (g) => constant(0, g.shape),
};

/** The gradients of each binary function's two arguments; at a tie `max` and `min` take the first. */
export const BINARY_VJP: Readonly<
  Record<BinaryOp, (g: Tensor, a: Tensor, b: Tensor) => Gradients>
> = {
  add: (g) => [g, g],
  sub: (g) => [g, g.neg()],
  mul: (g, a, b) => [g.mul(b), g.mul(a)],
  div: (g, a, b) => [g.div(b), g.mul(a).div(b.mul(b)).neg()],
  max: (g, a, b) => [where(a.lt(b), 0, g), where(a.lt(b), g, 0)],
  min: (g, a, b) => [where(b.lt(a), 0, g), where(b.lt(a), g, 0)],
  lt: () => [undefined, undefined],
  eq: () => [undefined, undefined],
};

/** The gradients of a node's inputs, given the gradient of its value. */
export function vjp(source: Source, g: Tensor, y: Tensor): Gradients {
  const inputs = y.inputs;
  const [a, b] = inputs as [Tensor, Tensor];
  switch (source.op) {
    case "unary":
      return [UNARY_VJP[source.fn](g, a, y)];
    case "binary":
      return BINARY_VJP[source.fn](g, a, b);
    case "where":
      return [undefined, where(a, g, 0), where(a, 0, g)];
    case "cast":
      // f16 and f32 are one number in two widths; integers carry no gradient.
      return [a.dtype === "f32" || a.dtype === "f16" ? g : undefined];
    case "take":
      return [
        scatterAdd(a.size, b.reshape([-1]), g.reshape([-1, 1])).reshape(a.shape),
        undefined,
      ];
    case "move":
      return [movedBack(source, g, a)];
    case "sum":
      return [g.reshape(kept(a, source.axes)).expand(a.shape)];
    case "max": {
      // Ties share the gradient equally.
      const top = y.reshape(kept(a, source.axes)).expand(a.shape);
      const hit = a.eq(top);
      const share = g.reshape(kept(a, source.axes)).div(hit.sum(source.axes, true));
      return [hit.mul(share)];
    }
    case "matmul":
      return [g.matmul(b.transpose(-1, -2)), a.transpose(-1, -2).matmul(g)];
    case "conv2d": {
      const { variant, conv } = source;
      if (variant === "forward") {
        return [convolve("input", conv, g, b), convolve("weight", conv, a, g)];
      }
      if (variant === "input") {
        return [convolve("forward", conv, g, b), convolve("weight", conv, g, a)];
      }
      return [convolve("input", conv, b, g), convolve("forward", conv, a, g)];
    }
    case "scatter": {
      return [undefined, gather(g, a)];
    }
    case "concat": {
      let start = 0;
      return inputs.map((part) => {
        const n = part.shape[source.axis]!;
        start += n;
        return g.slice(source.axis, start - n, start);
      });
    }
    case "stopGradient":
      return [undefined];
    case "host":
    case "constant":
    case "input":
    case "checkpoint":
    case "project":
      return inputs.map(() => undefined);
  }
}

function kept(x: Tensor, axes: readonly number[]): number[] {
  return x.shape.map((n, i) => axes.includes(i) ? 1 : n);
}

function movedBack(source: Source & { op: "move" }, g: Tensor, x: Tensor): Tensor {
  const { move } = source;
  switch (move.kind) {
    case "reshape":
      return g.reshape(x.shape);
    case "permute": {
      const back = new Array<number>(x.rank);
      move.axes.forEach((axis, i) => back[axis] = i);
      return g.permute(back);
    }
    case "expand": {
      const lead = g.rank - x.rank;
      const axes = g.shape.flatMap((n, i) => i < lead || x.shape[i - lead] !== n ? [i] : []);
      return g.sum(axes, true).reshape(x.shape);
    }
    case "slice":
      return g.pad(move.axis, move.start, x.shape[move.axis]! - move.end);
  }
}
