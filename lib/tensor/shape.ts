/**
 * Shapes and strided views: pure arithmetic on lists of sizes.
 *
 * @module
 */

/** The sizes of a tensor's axes, outermost first. */
export type Shape = readonly number[];

/** How a shape walks a contiguous source: element `offset + sum(coordinate * stride)`. */
export interface View {
  readonly shape: Shape;
  readonly strides: readonly number[];
  readonly offset: number;
}

/** The number of elements. */
export function sizeOf(shape: Shape): number {
  return shape.reduce((product, n) => product * n, 1);
}

/** Whether two shapes are the same. */
export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** `[2, 3]`, for messages. */
export function show(shape: Shape): string {
  return `[${shape.join(", ")}]`;
}

/** Row-major strides in elements. */
export function contiguousStrides(shape: Shape): number[] {
  const strides = new Array<number>(shape.length);
  for (let i = shape.length - 1, step = 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]!;
  }
  return strides;
}

/** The view that walks a whole contiguous source. */
export function contiguousView(shape: Shape): View {
  return { shape, strides: contiguousStrides(shape), offset: 0 };
}

/** Whether a view walks its elements in order without gaps (it may start at an offset). */
export function isContiguous(view: View): boolean {
  let step = 1;
  for (let i = view.shape.length - 1; i >= 0; i--) {
    if (view.shape[i] !== 1 && view.strides[i] !== step) return false;
    step *= view.shape[i]!;
  }
  return true;
}

/** An axis counted from the front; negative axes count from the back. */
export function axisOf(axis: number, rank: number, op: string): number {
  const found = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || found < 0 || found >= rank) {
    throw new RangeError(`${op}: axis ${axis} is outside a tensor of ${rank} axes`);
  }
  return found;
}

/** The shape that two operands broadcast to, as in NumPy. */
export function broadcastShape(a: Shape, b: Shape, op: string): Shape {
  const rank = Math.max(a.length, b.length);
  const shape: number[] = [];
  for (let i = 0; i < rank; i++) {
    const m = a[i - rank + a.length] ?? 1;
    const n = b[i - rank + b.length] ?? 1;
    if (m !== n && m !== 1 && n !== 1) {
      throw new RangeError(`${op}: shapes ${show(a)} and ${show(b)} do not broadcast`);
    }
    shape.push(m === 1 ? n : m);
  }
  return shape;
}

/** A change of view that moves no data. */
export type Movement =
  | { readonly kind: "reshape"; readonly shape: Shape }
  | { readonly kind: "permute"; readonly axes: readonly number[] }
  | { readonly kind: "expand"; readonly shape: Shape }
  | { readonly kind: "slice"; readonly axis: number; readonly start: number; readonly end: number };

/** Applies a movement to a view; `undefined` when no strided view can express the result. */
export function moveView(view: View, move: Movement): View | undefined {
  switch (move.kind) {
    case "permute":
      return {
        shape: move.axes.map((a) => view.shape[a]!),
        strides: move.axes.map((a) => view.strides[a]!),
        offset: view.offset,
      };
    case "expand": {
      const lead = move.shape.length - view.shape.length;
      const strides = move.shape.map((n, i) =>
        i < lead || view.shape[i - lead] !== n ? 0 : view.strides[i - lead]!
      );
      return { shape: move.shape, strides, offset: view.offset };
    }
    case "slice":
      return {
        shape: view.shape.map((n, i) => i === move.axis ? move.end - move.start : n),
        strides: view.strides,
        offset: view.offset + move.start * view.strides[move.axis]!,
      };
    case "reshape":
      return reshapeView(view, move.shape);
  }
}

function reshapeView(view: View, shape: Shape): View | undefined {
  const strides = new Array<number>(shape.length).fill(0);
  // Axes of size 1 carry no information; match runs of old axes with runs of new axes of equal size.
  const old = view.shape.flatMap((n, i) => n === 1 ? [] : [{ n, stride: view.strides[i]! }]);
  let o = 0;
  let i = 0;
  while (i < shape.length) {
    if (shape[i] === 1) {
      i++;
      continue;
    }
    if (o >= old.length) return undefined;
    let oldSize = old[o]!.n;
    let newSize = shape[i]!;
    let oEnd = o + 1;
    let iEnd = i + 1;
    while (oldSize !== newSize) {
      if (oldSize < newSize) {
        if (oEnd >= old.length) return undefined;
        oldSize *= old[oEnd++]!.n;
      } else {
        if (iEnd >= shape.length) return undefined;
        newSize *= shape[iEnd++]!;
      }
    }
    for (let k = o; k + 1 < oEnd; k++) {
      if (old[k]!.stride !== old[k + 1]!.stride * old[k + 1]!.n) return undefined;
    }
    let step = old[oEnd - 1]!.stride;
    for (let k = iEnd - 1; k >= i; k--) {
      strides[k] = step;
      step *= shape[k]!;
    }
    o = oEnd;
    i = iEnd;
  }
  return { shape, strides, offset: view.offset };
}

/**
 * Merges neighbouring axes that every walk crosses without a gap and drops axes of size 1.
 *
 * @param keep Axes before this index are never merged with axes from it on.
 */
export function collapse(
  shape: Shape,
  walks: readonly (readonly number[])[],
  keep = 0,
): { shape: number[]; walks: number[][]; keep: number } {
  const out: number[] = [];
  const outWalks: number[][] = walks.map(() => []);
  let outKeep = 0;
  for (let i = 0; i < shape.length; i++) {
    const n = shape[i]!;
    if (n !== 1) {
      const last = out.length - 1;
      const joins = last >= (i >= keep ? outKeep : 0) &&
        walks.every((w, k) => outWalks[k]![last] === w[i]! * n);
      if (joins) {
        out[last] = out[last]! * n;
        walks.forEach((w, k) => outWalks[k]![last] = w[i]!);
      } else {
        out.push(n);
        walks.forEach((w, k) => outWalks[k]!.push(w[i]!));
      }
    }
    if (i < keep) outKeep = out.length;
  }
  return { shape: out, walks: outWalks, keep: outKeep };
}
