/**
 * Records of one size on disk, found by SHA-256: what is costly to compute is computed once, and read back by ranges.
 *
 * A store is a folder with `records.bin`, the records one after another, and `index.bin`, an entry of 40 bytes for each:
 * its key, the checksum of the record and the checksum of the entry. Records are on the disk before their entries are
 * written, and what has no whole entry does not exist: a process that is killed and a disk that is full cost the
 * records of one `append`, which the next one writes over. One process at a time may write, until it disposes the store;
 * any number may read, for which nothing stays open.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { writeAtomically } from "../nn/safetensors.ts";

const KEY_BYTES = 32;
/** A key, and the CRC-32 of the record and of the entry so far, little-endian. */
const ENTRY_BYTES = KEY_BYTES + 8;
/** Entries that are read at once. */
const ENTRIES = 2 ** 16;

/** A record to be stored. */
export interface NewRecord {
  /** SHA-256, hexadecimal. */
  readonly key: string;
  readonly bytes: Uint8Array;
}

/** Where a store is, and what its records are. */
export interface RecordStoreOptions {
  /** The folder; made if it is missing. */
  readonly folder: string;
  readonly recordBytes: number;
  /** What determines the records: for people, and against mistakes. */
  readonly description: { readonly [key: string]: unknown };
}

/** Records of one size, by SHA-256. */
export class RecordStore implements Disposable {
  readonly folder: string;
  readonly recordBytes: number;
  /** Keys as strings of 32 characters, one for each byte. */
  readonly #numbers = new Map<string, number>();
  #checksums = new Uint32Array(1024);
  #writers: { readonly records: Deno.FsFile; readonly index: Deno.FsFile } | undefined;

  private constructor({ folder, recordBytes }: RecordStoreOptions) {
    this.folder = folder;
    this.recordBytes = recordBytes;
  }

  /**
   * Opens a store, or makes an empty one.
   *
   * @throws {Error} If the folder holds other records, or cannot be written.
   */
  static async open(options: RecordStoreOptions): Promise<RecordStore> {
    const { folder, recordBytes, description } = options;
    await Deno.mkdir(folder, { recursive: true });
    await describe(`${folder}/store.json`, { ...description, recordBytes });
    for (const name of ["records.bin", "index.bin"]) {
      // Made if it is missing, and left alone if not.
      (await Deno.open(`${folder}/${name}`, { append: true, create: true })).close();
    }
    const store = new RecordStore(options);
    await store.#readIndex();
    return store;
  }

  /** The number of records. */
  get size(): number {
    return this.#numbers.size;
  }

  /** The number of a record, or nothing if there is none of this key. */
  find(key: string): number | undefined {
    return this.#numbers.get(packed(key));
  }

  /**
   * Stores records; those whose keys are there already are left out.
   *
   * @param remaining How many more are going to be stored, for the message about a full disk.
   * @throws {Error} If another process is writing to the store, or the disk is full: what was stored before is kept.
   */
  async append(records: readonly NewRecord[], remaining = 0): Promise<void> {
    const { records: file, index } = this.#writers ??= await this.#startWriting();
    const fresh = [...new Map(records.map((record) => [packed(record.key), record]))]
      .filter(([key]) => !this.#numbers.has(key));
    const data = new Uint8Array(fresh.length * this.recordBytes);
    const entries = Buffer.alloc(fresh.length * ENTRY_BYTES);
    fresh.forEach(([key, { bytes }], i) => {
      if (bytes.length !== this.recordBytes) {
        throw new RangeError(
          `a record of ${this.folder} has ${this.recordBytes} bytes, got ${bytes.length}`,
        );
      }
      data.set(bytes, i * this.recordBytes);
      const entry = entries.subarray(i * ENTRY_BYTES, (i + 1) * ENTRY_BYTES);
      entry.write(key, "latin1");
      entry.writeUInt32LE(crc32(bytes), KEY_BYTES);
      entry.writeUInt32LE(crc32(entry.subarray(0, KEY_BYTES + 4)), KEY_BYTES + 4);
    });
    try {
      await writeAt(file, this.size * this.recordBytes, data);
      await writeAt(index, this.size * ENTRY_BYTES, entries);
    } catch (cause) {
      if (!/ENOSPC|No space left|os error 28/.test((cause as Error).message)) throw cause;
      const missing = fresh.length + remaining;
      throw new Error(
        `the disk is full: ${missing} records of ${this.folder} are still to be written, which take ` +
          `${
            missing * (this.recordBytes + ENTRY_BYTES)
          } bytes. The ${this.size} that are there are ` +
          "kept: free the space, or move the folder to another disk, and start again",
        { cause },
      );
    }
    this.#take(entries);
  }

  /**
   * Reads records.
   *
   * @returns Their bytes, one after another.
   * @throws {Error} If a record is damaged.
   */
  async read(numbers: readonly number[]): Promise<Uint8Array<ArrayBuffer>> {
    const out = new Uint8Array(numbers.length * this.recordBytes);
    using file = await Deno.open(`${this.folder}/records.bin`);
    for (const [i, number] of numbers.entries()) {
      const bytes = out.subarray(i * this.recordBytes, (i + 1) * this.recordBytes);
      await readAt(file, number * this.recordBytes, bytes);
      if (crc32(bytes) !== this.#checksums[number]) {
        throw new Error(
          `${this.folder}/records.bin: record ${number} is damaged, its checksum differs: ` +
            `delete ${this.folder}, and its records are computed again`,
        );
      }
    }
    return out;
  }

  /** Lets others write. Records can still be read. */
  [Symbol.dispose](): void {
    this.#writers?.records.close();
    this.#writers?.index.close();
    this.#writers = undefined;
  }

  /** Takes the right to write until the store is disposed. */
  async #startWriting() {
    const index = await Deno.open(`${this.folder}/index.bin`, { write: true });
    if (!await index.tryLock(true)) {
      index.close();
      throw new Error(
        `another process is writing to ${this.folder}: wait for its end and start again, ` +
          "or name another folder",
      );
    }
    // What another process has stored since this one looked.
    await this.#readIndex();
    return { index, records: await Deno.open(`${this.folder}/records.bin`, { write: true }) };
  }

  /** Reads the whole entries whose records are there, from the first one that is not known yet. */
  async #readIndex(): Promise<void> {
    const sizeOf = async (name: string) => (await Deno.stat(`${this.folder}/${name}`)).size;
    const there = Math.min(
      Math.floor(await sizeOf("records.bin") / this.recordBytes),
      Math.floor(await sizeOf("index.bin") / ENTRY_BYTES),
    );
    using file = await Deno.open(`${this.folder}/index.bin`);
    while (this.size < there) {
      const entries = Buffer.alloc(Math.min(there - this.size, ENTRIES) * ENTRY_BYTES);
      await readAt(file, this.size * ENTRY_BYTES, entries);
      if (!this.#take(entries)) return;
    }
  }

  /** Makes entries known, up to the first damaged one; tells whether there was none. */
  #take(entries: Buffer): boolean {
    for (let at = 0; at < entries.length; at += ENTRY_BYTES) {
      const entry = entries.subarray(at, at + ENTRY_BYTES);
      const key = entry.toString("latin1", 0, KEY_BYTES);
      const whole = crc32(entry.subarray(0, KEY_BYTES + 4)) === entry.readUInt32LE(KEY_BYTES + 4);
      if (!whole || this.#numbers.has(key)) return false;
      if (this.size === this.#checksums.length) {
        const grown = new Uint32Array(2 * this.size);
        grown.set(this.#checksums);
        this.#checksums = grown;
      }
      this.#checksums[this.size] = entry.readUInt32LE(KEY_BYTES);
      this.#numbers.set(key, this.size);
    }
    return true;
  }
}

/** Writes what a store holds into its folder, or compares it with what is there. */
async function describe(path: string, description: object): Promise<void> {
  const wanted = JSON.stringify(description, null, 1) + "\n";
  const found = await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  });
  if (found === wanted) return;
  if (found !== undefined) {
    throw new Error(
      `${path} describes other records than the wanted ones (${JSON.stringify(description)}): ` +
        "delete its folder or name another",
    );
  }
  const bytes = new TextEncoder().encode(wanted);
  await writeAtomically(path, bytes.length, (write) => write(bytes));
}

function packed(key: string): string {
  return Buffer.from(key, "hex").toString("latin1");
}

async function writeAt(file: Deno.FsFile, position: number, bytes: Uint8Array): Promise<void> {
  await file.seek(position, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
  await file.syncData();
}

async function readAt(file: Deno.FsFile, position: number, bytes: Uint8Array): Promise<void> {
  await file.seek(position, Deno.SeekMode.Start);
  for (let done = 0; done < bytes.length;) {
    const count = await file.read(bytes.subarray(done));
    if (count === null) throw new Error(`a file ended at byte ${position + done}`);
    done += count;
  }
}
