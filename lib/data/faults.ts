/**
 * What could not be used of a dataset, by kind: a file of a million rows has bad ones, which are left out, but never in
 * silence.
 *
 * @module
 */

/** One kind of fault. */
export interface Fault {
  /** What is wrong, for example `no caption`. */
  readonly kind: string;
  /** How often. */
  readonly count: number;
  /** The first: file, column and row, and what was found there. */
  readonly example: string;
}

/** Counts faults by kind. */
export class FaultCounter {
  readonly #faults = new Map<string, { count: number; example: string }>();

  /** Counts one; `example` is asked only for a kind's first. */
  add(kind: string, example: () => string): void {
    const known = this.#faults.get(kind);
    if (known) known.count++;
    else this.#faults.set(kind, { count: 1, example: example() });
  }

  /** How many there are of all kinds. */
  get total(): number {
    return this.list().reduce((sum, { count }) => sum + count, 0);
  }

  /** The kinds in the order in which they were met. */
  list(): Fault[] {
    return [...this.#faults].map(([kind, { count, example }]) => ({ kind, count, example }));
  }
}

/**
 * Faults in words, a line each.
 *
 * @example
 * ```ts
 * const example = 'x.parquet: column "caption", row 3 holds null';
 * console.log(faultLines([{ kind: "rows without a caption", count: 2, example }]).join());
 * // 2 rows without a caption; the first: x.parquet: column "caption", row 3 holds null
 * ```
 */
export function faultLines(faults: readonly Fault[]): string[] {
  return faults.map(({ kind, count, example }) =>
    `${count.toLocaleString("en")} ${kind}; the first: ${example}`
  );
}
