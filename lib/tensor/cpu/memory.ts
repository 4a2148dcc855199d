/**
 * One shared WebAssembly memory and who owns which part of it.
 *
 * @module
 */

import { byteSize } from "../byte_size.ts";

const PAGE = 65536;
/** Addresses are 32 bits wide. */
const MOST_PAGES = 65536;
/** Where the memory ends. */
export const HEAP_BYTES = MOST_PAGES * PAGE;
/** Every block starts on a cache line, and a vector read may run past a block's end by less than this. */
const ALIGN = 64;

/** A heap with first fit and merging of free neighbours. */
export class Heap {
  readonly memory: WebAssembly.Memory;
  /** Free blocks by address. */
  #free: { at: number; bytes: number }[] = [];
  #end = ALIGN;
  #held = 0;

  constructor() {
    this.memory = new WebAssembly.Memory({ initial: 64, maximum: MOST_PAGES, shared: true });
  }

  /** Bytes that are allocated now. */
  get held(): number {
    return this.#held;
  }

  /** Reserves bytes and returns their address. */
  allocate(bytes: number): number {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    this.#held += size;
    const fit = this.#free.findIndex((block) => block.bytes >= size);
    if (fit >= 0) {
      const block = this.#free[fit]!;
      const { at } = block;
      block.at += size;
      block.bytes -= size;
      if (block.bytes === 0) this.#free.splice(fit, 1);
      return at;
    }
    const at = this.#end;
    const missing = at + size + ALIGN - this.memory.buffer.byteLength;
    if (missing > 0) {
      const pages = Math.ceil(missing / PAGE);
      const have = this.memory.buffer.byteLength / PAGE;
      // Growing in big steps keeps the number of views small.
      const generous = Math.min(Math.max(pages, have >> 1), MOST_PAGES - have);
      if (pages > MOST_PAGES - have) {
        this.#held -= size;
        throw new RangeError(
          `The cpu device holds ${byteSize(this.#held)} and can't give ${byteSize(size)} more: ` +
            `its memory ends at ${
              byteSize(HEAP_BYTES)
            }. Use a smaller batch or image, or checkpoint the model's blocks`,
        );
      }
      this.memory.grow(generous);
    }
    this.#end += size;
    return at;
  }

  /** Gives bytes back. */
  free(at: number, bytes: number): void {
    const size = Math.max(ALIGN, Math.ceil(bytes / ALIGN) * ALIGN);
    this.#held -= size;
    let low = 0;
    let high = this.#free.length;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (this.#free[mid]!.at < at) low = mid + 1;
      else high = mid;
    }
    this.#free.splice(low, 0, { at, bytes: size });
    for (const i of [low, low - 1]) {
      const a = this.#free[i];
      const b = this.#free[i + 1];
      if (a && b && a.at + a.bytes === b.at) {
        a.bytes += b.bytes;
        this.#free.splice(i + 1, 1);
      }
    }
    const last = this.#free.at(-1);
    if (last && last.at + last.bytes === this.#end) {
      this.#end = last.at;
      this.#free.pop();
    }
  }
}

/** A value's life in a program: the first and the last kernel that touch it. */
export interface Life {
  readonly bytes: number;
  readonly first: number;
  readonly last: number;
}

/**
 * Places values whose lives overlap beside each other and lets the others share: largest first, each
 * at the lowest address that is free throughout its life.
 *
 * @returns The offset of each value and the bytes that all of them need.
 */
export function planArena(lives: readonly Life[]): { offsets: number[]; bytes: number } {
  const order = lives.map((_, i) => i).sort((a, b) => lives[b]!.bytes - lives[a]!.bytes || a - b);
  const offsets = new Array<number>(lives.length).fill(0);
  const placed: number[] = [];
  let total = 0;
  for (const i of order) {
    const life = lives[i]!;
    const size = Math.ceil(life.bytes / ALIGN) * ALIGN;
    if (size === 0) continue;
    const busy = placed.filter((j) => lives[j]!.first <= life.last && life.first <= lives[j]!.last)
      .sort((a, b) => offsets[a]! - offsets[b]!);
    let at = 0;
    for (const j of busy) {
      if (offsets[j]! - at >= size) break;
      at = Math.max(at, offsets[j]! + Math.ceil(lives[j]!.bytes / ALIGN) * ALIGN);
    }
    offsets[i] = at;
    placed.push(i);
    total = Math.max(total, at + size);
  }
  return { offsets, bytes: total + ALIGN };
}
