/**
 * What is known of a dataset's images without reading them again: of each place in its files the SHA-256 of the bytes
 * and the image's size, or that they are no image.
 *
 * A place is a row of a file, and the file is known by its footer, size and time of change, so that a dataset that was
 * replaced is read anew.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { StoredComparisons } from "./comparisons.ts";
import { RecordStore } from "./record_store.ts";
import { imagePlaces } from "./stored_images.ts";

const HASH_BYTES = 32;
/** A hash, width and height as 32-bit integers, little-endian. */
const RECORD_BYTES = HASH_BYTES + 8;
/** Records that are read at once. */
const TOGETHER = 4096;

/** An image by its content. */
export interface KnownImage {
  /** SHA-256 of its encoded bytes. */
  readonly hash: string;
  readonly width: number;
  readonly height: number;
}

/** The keys of images' places: SHA-256 of file, row and side. */
export function placeKeys(comparisons: StoredComparisons, numbers: readonly number[]): string[] {
  const places = imagePlaces(comparisons);
  const starts = comparisons.files.map(({ firstRow }) => firstRow);
  return numbers.map((number) => {
    const row = places.row[number]!;
    const file = starts.findLastIndex((start) => start <= row);
    return createHash("sha256")
      .update(`${comparisons.files[file]!.identity} ${row - starts[file]!} ${places.side[number]}`)
      .digest("hex");
  });
}

/** Images by place. */
export class ImageIndex implements Disposable {
  readonly #store: RecordStore;
  readonly #unreadablePath: string;
  readonly #unreadable: Map<string, string>;
  #lineEnded: boolean;

  private constructor(store: RecordStore, path: string, lines: string) {
    this.#store = store;
    this.#unreadablePath = path;
    this.#unreadable = new Map(lines.split("\n").flatMap(unreadableLine));
    this.#lineEnded = lines === "" || lines.endsWith("\n");
  }

  /**
   * Opens an index, or makes an empty one.
   *
   * @param folder Where; images that cannot be read are listed there in `unreadable.jsonl`.
   */
  static async open(folder: string): Promise<ImageIndex> {
    const store = await RecordStore.open({
      folder,
      recordBytes: RECORD_BYTES,
      description: {
        holds: "SHA-256 of an image's bytes, width and height, by place in a dataset",
      },
    });
    const path = `${folder}/unreadable.jsonl`;
    const lines = await Deno.readTextFile(path).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    });
    return new ImageIndex(store, path, lines);
  }

  /** What is known of the images at some places. */
  async find(keys: readonly string[]): Promise<(KnownImage | undefined)[]> {
    const found: (KnownImage | undefined)[] = new Array(keys.length).fill(undefined);
    const known = [...keys.keys()].filter((i) => this.#store.find(keys[i]!) !== undefined);
    for (let first = 0; first < known.length; first += TOGETHER) {
      const some = known.slice(first, first + TOGETHER);
      const numbers = some.map((i) => this.#store.find(keys[i]!)!);
      const records = Buffer.from((await this.#store.read(numbers)).buffer);
      some.forEach((i, at) => {
        const record = records.subarray(at * RECORD_BYTES, (at + 1) * RECORD_BYTES);
        found[i] = {
          hash: record.toString("hex", 0, HASH_BYTES),
          width: record.readUInt32LE(HASH_BYTES),
          height: record.readUInt32LE(HASH_BYTES + 4),
        };
      });
    }
    return found;
  }

  /** Why no image can be made of the bytes at a place, if that is so. */
  reason(key: string): string | undefined {
    return this.#unreadable.get(key);
  }

  /** Remembers images by place. */
  async add(images: readonly (KnownImage & { readonly key: string })[]): Promise<void> {
    await this.#store.append(images.map(({ key, hash, width, height }) => {
      const bytes = Buffer.alloc(RECORD_BYTES);
      bytes.write(hash, "hex");
      bytes.writeUInt32LE(width, HASH_BYTES);
      bytes.writeUInt32LE(height, HASH_BYTES + 4);
      return { key, bytes };
    }));
  }

  /** Remembers that no image can be made of the bytes at a place, so that it isn't tried again. */
  async addUnreadable(key: string, reason: string): Promise<void> {
    // A line that was cut off by a kill must not swallow this one.
    const line = `${this.#lineEnded ? "" : "\n"}${JSON.stringify({ key, reason })}\n`;
    await Deno.writeTextFile(this.#unreadablePath, line, { append: true });
    this.#lineEnded = true;
    this.#unreadable.set(key, reason);
  }

  /** Lets others write. */
  [Symbol.dispose](): void {
    this.#store[Symbol.dispose]();
  }
}

/** Key and reason; nothing of a line that was cut off. */
function unreadableLine(line: string): [string, string][] {
  try {
    const { key, reason } = JSON.parse(line);
    return [[String(key), String(reason)]];
  } catch {
    return [];
  }
}
