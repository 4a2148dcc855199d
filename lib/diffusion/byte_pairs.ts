/**
 * Byte-pair encoding (Sennrich et al. 2016): a word's symbols are merged two by two, the pair that
 * training found first before all others, until no pair is left that training found.
 *
 * A heap holds the pairs by rank and position, so that a word of n symbols takes n log n steps.
 *
 * @module
 */

/** transformers reads this many merges of CLIP's file; OpenAI's own goes on with unused ones. */
const CLIP_MERGES = 48_894;

/**
 * Parses `merges.txt`: a version line, which may be missing, and two symbols a line.
 *
 * @param text The file's content.
 * @param source Where it is from, for messages.
 * @returns The rank of each pair, the two symbols joined by a space.
 * @throws {Error} With the line that does not hold two symbols.
 */
export function parseMerges(text: string, source: string): Map<string, number> {
  const ranks = new Map<string, number>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line === "" || i === 0 && line.startsWith("#version")) continue;
    if (!/^[^\s]+ [^\s]+$/.test(line)) {
      throw new Error(
        `line ${i + 1} of the merges of ${source} is ${JSON.stringify(line.slice(0, 80))}; ` +
          `expected two symbols with a space between: the file is damaged, fetch it again`,
      );
    }
    if (ranks.size === CLIP_MERGES) break;
    ranks.set(line, ranks.size);
  }
  return ranks;
}

/**
 * Merges the symbols of a word.
 *
 * @param symbols The word's bytes as symbols; used up.
 * @param ranks The rank of each pair, the two symbols joined by a space: lower ones are merged first.
 * @example
 * ```ts
 * import { mergePairs } from "ncp-lab/diffusion/byte_pairs.ts";
 * const ranks = new Map([["a t</w>", 0], ["c at</w>", 1]]);
 * console.log(mergePairs(["c", "a", "t</w>"], ranks)); // ["cat</w>"]
 * ```
 */
export function mergePairs(symbols: string[], ranks: ReadonlyMap<string, number>): string[] {
  const n = symbols.length;
  // A merged symbol stands at its first position; the positions that it took over are empty.
  const before = Int32Array.from(symbols, (_, i) => i - 1);
  const after = Int32Array.from(symbols, (_, i) => i + 1);
  const rankAt = (left: number) =>
    after[left]! < n ? ranks.get(`${symbols[left]} ${symbols[after[left]!]}`) : undefined;
  const pairs = new NumberHeap();
  const offer = (left: number) => {
    const rank = rankAt(left);
    if (rank !== undefined) pairs.push(rank * n + left);
  };
  for (let i = 0; i < n; i++) offer(i);
  while (pairs.size > 0) {
    // All pairs of one rank, from left to right, before those that they give rise to.
    const rank = Math.floor(pairs.min / n);
    const merged: number[] = [];
    while (pairs.size > 0 && Math.floor(pairs.min / n) === rank) {
      const left = pairs.pop() % n;
      if (rankAt(left) !== rank) continue; // a part of it went into another pair
      const right = after[left]!;
      symbols[left] += symbols[right]!;
      symbols[right] = "";
      after[left] = after[right]!;
      if (after[left]! < n) before[after[left]!] = left;
      merged.push(left);
    }
    for (const left of merged) {
      offer(left);
      if (before[left]! >= 0) offer(before[left]!);
    }
  }
  return symbols.filter((symbol) => symbol !== "");
}

/** A binary heap of numbers with the smallest on top. */
class NumberHeap {
  readonly #items: number[] = [];

  get size(): number {
    return this.#items.length;
  }

  get min(): number {
    return this.#items[0]!;
  }

  push(item: number): void {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= item) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number {
    const items = this.#items;
    const min = items[0]!;
    const last = items.pop()!;
    if (items.length === 0) return min;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return min;
  }
}
