/**
 * A file as a `Blob` that is read by position, so that a Parquet reader fetches only the bytes that it asks for.
 *
 * @module
 */
import { type FileHandle, open } from "node:fs/promises";

/** A range of an open file. Slices share the file's handle; {@linkcode FileBlob.close} closes it for all of them. */
export class FileBlob extends Blob {
  readonly #handle: FileHandle;
  readonly #start: number;
  readonly #end: number;
  /** When the file was last changed, in milliseconds. */
  readonly modified: number;

  private constructor(handle: FileHandle, start: number, end: number, modified: number) {
    super([]);
    this.#handle = handle;
    this.#start = start;
    this.#end = end;
    this.modified = modified;
  }

  /**
   * Opens a file for reading.
   *
   * @throws If the file cannot be opened; the error is the system's.
   */
  static async open(path: string): Promise<FileBlob> {
    const handle = await open(path);
    const { size, mtimeMs } = await handle.stat();
    return new FileBlob(handle, 0, size, mtimeMs);
  }

  /** Bytes in this range. */
  override get size(): number {
    return this.#end - this.#start;
  }

  /** A part of this range, with `Blob.slice`'s rules for negative and missing bounds. */
  override slice(start = 0, end: number = this.size): Blob {
    const bound = (at: number) =>
      Math.max(0, Math.min(this.size, at < 0 ? at + this.size : at)) + this.#start;
    const first = bound(start);
    return new FileBlob(this.#handle, first, Math.max(first, bound(end)), this.modified);
  }

  /** Reads this range. Many reads may run at once: each has its own position. */
  override async arrayBuffer(): Promise<ArrayBuffer> {
    const out = new Uint8Array(this.size);
    for (let done = 0; done < out.length;) {
      const { bytesRead } = await this.#handle.read(
        out,
        done,
        out.length - done,
        this.#start + done,
      );
      if (bytesRead === 0) throw new Error(`The file ended ${out.length - done} bytes too early`);
      done += bytesRead;
    }
    return out.buffer;
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.#handle.close();
  }
}
