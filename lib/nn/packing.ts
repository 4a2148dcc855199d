/**
 * Many small tensors as slices of one long vector: whatever treats them all alike (an optimiser, the
 * norm of a gradient, a checkpoint) is then a few kernels over the vector, and each tensor is a view.
 *
 * @module
 */
import { concat, type Shape, type Tensor, zeros } from "../tensor/mod.ts";

/** Where one tensor lies in the vector. */
export interface PackedEntry {
  readonly name: string;
  readonly shape: Shape;
  /** First element. */
  readonly offset: number;
  /** Number of elements. */
  readonly size: number;
}

/** The layout of a packed vector. */
export interface Packing {
  readonly entries: readonly PackedEntry[];
  /** Elements of the whole vector, gaps included. */
  readonly size: number;
}

/**
 * Lays tensors out one after another, in the order given.
 *
 * @param shapes Name and shape of each.
 * @param alignment Every tensor, and the vector's end, is at a multiple of this many elements.
 */
export function layOut(shapes: Iterable<readonly [string, Shape]>, alignment = 1): Packing {
  const entries: PackedEntry[] = [];
  let end = 0;
  for (const [name, shape] of shapes) {
    const size = shape.reduce((a, b) => a * b, 1);
    entries.push({ name, shape, offset: end, size });
    end += Math.ceil(size / alignment) * alignment;
  }
  return { entries, size: end };
}

/** The tensors as views of the vector. */
export function unpack(packing: Packing, vector: Tensor): Map<string, Tensor> {
  return new Map(packing.entries.map(({ name, shape, offset, size }) => [
    name,
    vector.slice(0, offset, offset + size).reshape(shape),
  ]));
}

/**
 * The vector [size] of tensors given in the order of the entries; gaps hold zeros.
 *
 * @param tensors One per entry.
 */
export function pack(packing: Packing, tensors: readonly Tensor[]): Tensor {
  const parts: Tensor[] = [];
  packing.entries.forEach(({ offset, size }, i) => {
    parts.push(tensors[i]!.reshape([size]));
    const gap = (packing.entries[i + 1]?.offset ?? packing.size) - offset - size;
    if (gap > 0) parts.push(zeros([gap]));
  });
  return parts.length === 1 ? parts[0]! : concat(parts, 0);
}

/** The vector of host arrays by name; gaps hold zeros. */
export function packArrays(
  packing: Packing,
  arrays: ReadonlyMap<string, Float32Array>,
): Float32Array<ArrayBuffer> {
  const vector = new Float32Array(packing.size);
  for (const { name, offset } of packing.entries) vector.set(arrays.get(name)!, offset);
  return vector;
}
