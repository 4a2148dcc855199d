/**
 * How generated code turns one running index into buffer addresses.
 *
 * Axes of size 1 vanish and neighbouring axes that every access crosses in one stride are merged, so
 * a contiguous kernel of any rank addresses its buffers by the running index itself.
 *
 * @module
 */
import type { Access } from "../kernel.ts";

/** The number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Row-major strides of a shape. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    strides[axis] = stride;
    stride *= shape[axis]!;
  }
  return strides;
}

/** A shape and the strides of several accesses over it, with as few axes as possible. */
export class Walk {
  readonly #sizes: number[] = [];
  readonly #strides: number[][];

  /**
   * @param shape Sizes of the axes that are walked.
   * @param strides One list of strides, as long as `shape`, per access.
   */
  constructor(shape: readonly number[], strides: readonly (readonly number[])[]) {
    this.#strides = strides.map(() => []);
    for (let axis = 0; axis < shape.length; axis++) {
      const size = shape[axis]!;
      if (size === 1) continue;
      const last = this.#sizes.length - 1;
      const merges = last >= 0 &&
        strides.every((s, i) => this.#strides[i]![last] === s[axis]! * size);
      if (merges) {
        this.#sizes[last]! *= size;
        this.#strides.forEach((s, i) => s[last] = strides[i]![axis]!);
      } else {
        this.#sizes.push(size);
        this.#strides.forEach((s, i) => s.push(strides[i]![axis]!));
      }
    }
  }

  /** Whether access `i` advances by one element with every step. */
  contiguous(i: number): boolean {
    return this.#sizes.length === 0 ||
      (this.#sizes.length === 1 && this.#strides[i]![0] === 1);
  }

  /** The stride of access `i` along the innermost axis; 0 where there is no axis. */
  innermost(i: number): number {
    return this.#strides[i]!.at(-1) ?? 0;
  }

  /**
   * Declares the coordinates of running index `index`.
   *
   * @param index Name of a u32 value.
   * @param prefix Start of the names of the declared coordinates.
   */
  coordinates(index: string, prefix: string): string[] {
    const lines: string[] = [];
    let rest = index;
    for (let axis = this.#sizes.length - 1; axis > 0; axis--) {
      const size = this.#sizes[axis];
      lines.push(`let ${prefix}${axis} = ${rest} % ${size}u;`);
      lines.push(`let ${prefix}r${axis} = ${rest} / ${size}u;`);
      rest = `${prefix}r${axis}`;
    }
    if (this.#sizes.length > 0) lines.push(`let ${prefix}0 = ${rest};`);
    return lines;
  }

  /** The address (a u32 expression) of access `i`, from coordinates declared under `prefix`. */
  address(i: number, prefix: string, offset: number): string {
    const terms = offset === 0 ? [] : [`${offset}u`];
    this.#strides[i]!.forEach((stride, axis) => {
      if (stride === 1) terms.push(`${prefix}${axis}`);
      else if (stride !== 0) terms.push(`${prefix}${axis} * ${stride}u`);
    });
    return terms.length === 0 ? "0u" : terms.join(" + ");
  }
}

/** The strides of several accesses, cut to axes `from` to `to`. */
export function stridesOf(
  accesses: readonly Access[],
  from = 0,
  to = Infinity,
): (readonly number[])[] {
  return accesses.map((access) => access.strides.slice(from, to));
}
