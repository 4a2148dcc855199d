/**
 * Long reductions in two steps: parts, then the parts' results.
 *
 * The rounding error of a sum grows with its length, and a lone sum would keep a single thread busy:
 * a thousand sums of a thousand elements are both nearer to the truth and work for everyone.
 *
 * @module
 */
import type { Access, ReduceKernel } from "../kernel.ts";
import { contiguousStrides } from "../shape.ts";

/** Elements above which a reduction is cut. */
const LONG = 4096;
/** Elements that a part should have at most. */
const PART = 1024;

/**
 * Cuts a reduction as often as it takes; a short one, or one whose length has no suitable divisor, stays
 * as it is.
 *
 * @param scratch Reserves bytes for the results of parts and returns their slot.
 */
export function splitReduction(
  kernel: ReduceKernel,
  scratch: (bytes: number) => number,
): ReduceKernel[] {
  const split = kernel.shape.length - kernel.reduced;
  const kept = kernel.shape.slice(0, split);
  const axes = kernel.shape.slice(split);
  const cut = cutAxes(axes);
  if (!cut) return [kernel];
  const outputs = [...kept, ...cut.parts];
  const { type } = kernel.expr;
  const partial: Access = {
    slot: scratch(outputs.reduce((a, b) => a * b, 1) * 4),
    dtype: type,
    strides: contiguousStrides(outputs),
    offset: 0,
  };
  const { epilogue: _, ...first } = kernel;
  return [
    {
      ...first,
      shape: [...outputs, ...cut.rest],
      reduced: cut.rest.length,
      inputs: kernel.inputs.map((a) => ({ ...a, strides: cutStrides(a.strides, split, cut) })),
      output: partial,
    },
    ...splitReduction({
      ...kernel,
      shape: outputs,
      reduced: cut.parts.length,
      inputs: [partial],
      expr: { kind: "load", type, input: 0 },
    }, scratch),
  ];
}

/** The axes that count parts, and those within a part; the last of the first may be a piece of the first of the others. */
interface Cut {
  readonly parts: readonly number[];
  readonly rest: readonly number[];
  /** Whether an axis was cut in pieces. */
  readonly inPieces: boolean;
}

/** Leading axes become parts until what is left is short; the axis that would go too far is cut in pieces. */
function cutAxes(axes: readonly number[]): Cut | undefined {
  let length = axes.reduce((a, b) => a * b, 1);
  if (length <= LONG) return undefined;
  const parts: number[] = [];
  for (const [i, n] of axes.entries()) {
    const wanted = Math.ceil(length / PART);
    if (wanted <= 1) return { parts, rest: axes.slice(i), inPieces: false };
    if (n <= wanted && length > n) {
      parts.push(n);
      length /= n;
      continue;
    }
    const pieces = divisorNear(n, wanted);
    if (pieces === undefined) {
      return parts.length > 0 ? { parts, rest: axes.slice(i), inPieces: false } : undefined;
    }
    return {
      parts: [...parts, pieces],
      rest: [n / pieces, ...axes.slice(i + 1)],
      inPieces: true,
    };
  }
  return undefined;
}

/** The smallest divisor of n from `wanted` on that leaves pieces worth summing, or else the largest below it. */
function divisorNear(n: number, wanted: number): number | undefined {
  const proper = Array.from({ length: Math.floor(Math.sqrt(n)) }, (_, i) => i + 1)
    .filter((d) => n % d === 0)
    .flatMap((d) => [d, n / d])
    .filter((d) => d > 1 && n / d >= 16)
    .sort((a, b) => a - b);
  return proper.find((d) => d >= wanted) ?? proper.at(-1);
}

/** The strides of an input over the axes as they are after the cut. */
function cutStrides(strides: readonly number[], split: number, { parts, rest, inPieces }: Cut) {
  if (!inPieces) return strides;
  const at = split + parts.length - 1;
  const stride = strides[at]!;
  return [...strides.slice(0, at), stride * rest[0]!, ...strides.slice(at)];
}
