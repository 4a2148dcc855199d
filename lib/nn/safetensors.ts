/**
 * The safetensors file format: an 8-byte little-endian header length, a JSON header that gives every
 * tensor a type, a shape and a byte range, then the bytes. Reading takes the header and, later, only
 * the ranges asked for, so a file larger than memory is no trouble.
 *
 * @module
 */

/** Element types that the format knows and this reader passes on, with their size in bytes. */
const ELEMENT_BYTES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** An element type as the file writes it. */
export type SafetensorsDType = keyof typeof ELEMENT_BYTES;

/** What the header says of one tensor. */
export interface SafetensorsEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** Raw elements: the types that JavaScript lacks (`F16`, `BF16`) come as their bits. */
export type SafetensorsData =
  | Float64Array
  | Float32Array
  | Uint16Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint8Array;

/** A tensor to be written. `data` may be a function, which is called when its turn comes. */
export interface SafetensorsTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly data: ArrayBufferView | (() => Promise<ArrayBufferView>);
}

/** The header of an open file, and access to its tensors. */
export interface SafetensorsFile {
  readonly path: string;
  /** The `__metadata__` strings. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly entries: ReadonlyMap<string, SafetensorsEntry>;
  /** Reads one tensor's elements. Throws when the file has no tensor of that name. */
  read(name: string): Promise<SafetensorsData>;
}

/** The format's own limit on the header, which also catches files of another format. */
const MAX_HEADER_BYTES = 100_000_000;

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/**
 * Reads the header of a safetensors file and checks every byte range against the file's size.
 * Nothing stays open: each `read` opens the file, reads its range and closes it.
 *
 * @param path The file.
 * @throws {Error} Where the file is missing, truncated or not a safetensors file, naming the file and the tensor.
 * @example
 * ```ts ignore
 * const file = await openSafetensors("unet/diffusion_pytorch_model.safetensors");
 * const bias = await file.read("conv_in.bias");
 * ```
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  let size: number;
  let headerBytes: Uint8Array<ArrayBuffer>;
  try {
    const info = await Deno.stat(path);
    if (info.isDirectory) throw new Error(`${path} is a folder, not a safetensors file`);
    size = info.size;
    const lead = await readRange(path, 0, Math.min(8, size));
    if (size < 8) throw new Error(`${path} has ${size} bytes, too few for a safetensors file`);
    const length = Number(new DataView(lead.buffer).getBigUint64(0, true));
    if (new TextDecoder().decode(lead) === "version ") {
      throw new Error(`${path} is a git-lfs pointer, not the file itself: run "git lfs pull"`);
    }
    if (length > MAX_HEADER_BYTES || length < 2) {
      throw new Error(
        `${path} is not a safetensors file: its first 8 bytes give a header of ${length} bytes`,
      );
    }
    if (8 + length > size) {
      throw new Error(
        `${path} is truncated: its header needs ${8 + length} bytes, the file has ${size}; ` +
          `copy or download it again`,
      );
    }
    headerBytes = await readRange(path, 8, length);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`no such file: ${path}`);
    }
    throw error;
  }
  const dataStart = 8 + headerBytes.length;
  const { metadata, entries } = parseHeader(path, headerBytes, dataStart, size);
  return {
    path,
    metadata,
    entries,
    async read(name) {
      const entry = entries.get(name);
      if (!entry) throw new Error(`${path} has no tensor "${name}"`);
      return await readElements(path, entry);
    },
  };
}

/**
 * Reads the elements in an entry's range, and nothing else of the file.
 *
 * @param path The file.
 * @param entry As the header gives it, or rows of such a tensor.
 * @throws {Error} If the file ends before the range does.
 */
export async function readElements(
  path: string,
  entry: SafetensorsEntry,
): Promise<SafetensorsData> {
  const { buffer } = await readRange(path, entry.byteOffset, entry.byteLength);
  return asElements(entry.dtype, buffer);
}

function parseHeader(
  path: string,
  bytes: Uint8Array,
  dataStart: number,
  size: number,
): { metadata: Record<string, string>; entries: Map<string, SafetensorsEntry> } {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    header = JSON.parse(text);
  } catch {
    throw new Error(`${path} is not a safetensors file: its header is not JSON`);
  }
  if (!isObject(header)) {
    throw new Error(`${path} is not a safetensors file: its header is not a JSON object`);
  }
  const twice = repeatedKey(text);
  if (twice !== undefined) {
    throw new Error(`${path}: the header has "${twice}" twice: save the file again`);
  }
  const entries = new Map<string, SafetensorsEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") metadata = checkMetadata(path, value);
    else entries.set(name, checkEntry(path, name, value, dataStart, size));
  }
  checkCoverage(path, entries, dataStart, size);
  return { metadata, entries };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function checkMetadata(path: string, value: unknown): Record<string, string> {
  if (!isObject(value)) {
    throw new Error(`${path}: "__metadata__" is ${shown(value)}; expected an object of strings`);
  }
  for (const [key, entry] of Object.entries(value)) {
    if (typeof entry !== "string") {
      throw new Error(`${path}: "${key}" in "__metadata__" is ${shown(entry)}; expected a string`);
    }
  }
  return value as Record<string, string>;
}

function checkEntry(
  path: string,
  name: string,
  value: unknown,
  dataStart: number,
  size: number,
): SafetensorsEntry {
  const { dtype, shape, data_offsets: offsets } = isObject(value) ? value : {};
  if (!Array.isArray(shape) || !Array.isArray(offsets) || offsets.length !== 2) {
    throw new Error(`${path}: the header of tensor "${name}" lacks a shape or data_offsets`);
  }
  if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_BYTES, dtype)) {
    throw new Error(
      `${path}: tensor "${name}" has the type ${
        typeof dtype === "string" ? dtype : shown(dtype)
      }; ` +
        `this reader knows ${Object.keys(ELEMENT_BYTES).join(", ")}: convert the file`,
    );
  }
  if (!shape.every(isCount) || !isCount(product(shape))) {
    throw new Error(
      `${path}: tensor "${name}" has the shape ${shown(shape)}; expected a list of whole numbers`,
    );
  }
  const [begin, end] = offsets;
  if (!isCount(begin) || !isCount(end) || begin > end) {
    throw new Error(
      `${path}: tensor "${name}" has the data_offsets ${shown(offsets)}; ` +
        `expected two whole numbers, the smaller one first`,
    );
  }
  const byteLength = end - begin;
  const expected = product(shape) * ELEMENT_BYTES[dtype as SafetensorsDType];
  if (byteLength !== expected) {
    throw new Error(
      `${path}: tensor "${name}" is ${dtype} [${shape}], so ${expected} bytes, ` +
        `but its range holds ${byteLength}`,
    );
  }
  if (dataStart + end > size) {
    throw new Error(
      `${path} is truncated: tensor "${name}" ends at byte ${dataStart + end}, ` +
        `the file has ${size}; copy or download it again`,
    );
  }
  return {
    dtype: dtype as SafetensorsDType,
    shape,
    byteOffset: dataStart + begin,
    byteLength,
  };
}

/** The format wants every byte of the data to belong to exactly one tensor. */
function checkCoverage(
  path: string,
  entries: ReadonlyMap<string, SafetensorsEntry>,
  dataStart: number,
  size: number,
): void {
  const sorted = [...entries].sort(([, a], [, b]) =>
    a.byteOffset - b.byteOffset || a.byteLength - b.byteLength
  );
  let end = dataStart;
  let before = "";
  for (const [name, { byteOffset, byteLength }] of sorted) {
    if (byteOffset < end) {
      throw new Error(`${path}: tensors "${before}" and "${name}" overlap: save the file again`);
    }
    if (byteOffset > end) {
      throw new Error(
        `${path}: the ${byteOffset - end} bytes before tensor "${name}" belong to no tensor: ` +
          `save the file again`,
      );
    }
    end += byteLength;
    before = name;
  }
  if (end < size) {
    throw new Error(
      `${path}: its last ${size - end} bytes belong to no tensor: copy or download it again`,
    );
  }
}

const isCount = (value: unknown): value is number =>
  Number.isSafeInteger(value) && value as number >= 0;

/** A value of the header for a message, cut where it is long. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "missing";
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

/**
 * The first key that a JSON object has twice. `JSON.parse` would silently take the last one.
 *
 * @param json An object, known to be well-formed.
 */
function repeatedKey(json: string): string | undefined {
  const seen = new Set<string>();
  let depth = 0;
  let isKey = false;
  for (let i = 0; i < json.length; i++) {
    switch (json[i]) {
      case "{":
      case "[":
        isKey = ++depth === 1;
        break;
      case "}":
      case "]":
        depth--;
        break;
      case ",":
        isKey = depth === 1;
        break;
      case '"': {
        const start = i;
        while (json[++i] !== '"') if (json[i] === "\\") i++;
        if (!isKey) break;
        const key: string = JSON.parse(json.slice(start, i + 1));
        if (seen.has(key)) return key;
        seen.add(key);
        isKey = false;
      }
    }
  }
  return undefined;
}

async function readRange(
  path: string,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  using file = await Deno.open(path, { read: true });
  await file.seek(offset, Deno.SeekMode.Start);
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const count = await file.read(bytes.subarray(done));
    if (count === null) {
      throw new Error(`${path} ended at byte ${offset + done} while it was being read`);
    }
    done += count;
  }
  return bytes;
}

function asElements(dtype: SafetensorsDType, buffer: ArrayBuffer): SafetensorsData {
  switch (dtype) {
    case "F64":
      return new Float64Array(buffer);
    case "F32":
      return new Float32Array(buffer);
    case "F16":
    case "BF16":
      return new Uint16Array(buffer);
    case "I64":
      return new BigInt64Array(buffer);
    case "I32":
      return new Int32Array(buffer);
    case "I16":
      return new Int16Array(buffer);
    case "I8":
      return new Int8Array(buffer);
    case "U8":
    case "BOOL":
      return new Uint8Array(buffer);
  }
}

/**
 * Writes a safetensors file. The bytes go to `path + ".partial"`, which takes the final name only
 * when it is complete, so that a reader never meets half a file.
 *
 * @param path The file, replaced if it exists.
 * @param tensors What to write, in this order.
 * @param metadata Strings for the header's `__metadata__`.
 * @throws {Error} Where the disk is full or the data do not fit their shape; the partial file is removed.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  // Without a prototype, so that every name is a name like any other.
  const header: Record<string, unknown> = Object.create(null);
  if (metadata) header.__metadata__ = metadata;
  let end = 0;
  for (const [name, { dtype, shape }] of tensors) {
    const start = end;
    end += product(shape) * ELEMENT_BYTES[dtype];
    header[name] = { dtype, shape, data_offsets: [start, end] };
  }
  // The format asks for data that begin at a multiple of 8; spaces are allowed after the JSON.
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(8 + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(json, 8);

  await writeAtomically(path, 8 + length + end, async (write) => {
    await write(head);
    for (const [name, { dtype, shape, data }] of tensors) {
      const view = typeof data === "function" ? await data() : data;
      const expected = product(shape) * ELEMENT_BYTES[dtype];
      if (view.byteLength !== expected) {
        throw new Error(
          `cannot write tensor "${name}" to ${path}: ${dtype} [${shape}] takes ${expected} bytes, ` +
            `the data have ${view.byteLength}`,
        );
      }
      await write(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    }
  });
}

/**
 * Writes a file under `path + ".partial"`, flushes it, and renames it to `path`. When anything fails
 * the partial file is removed and an earlier file at `path` is left as it was.
 *
 * @param path The final name.
 * @param bytes The size to expect, for the message about a full disk.
 * @param body Receives a function that appends bytes.
 */
export async function writeAtomically(
  path: string,
  bytes: number,
  body: (write: (chunk: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const partial = `${path}.partial`;
  try {
    using file = await Deno.open(partial, { write: true, create: true, truncate: true });
    await body(async (chunk) => {
      for (let done = 0; done < chunk.length;) done += await file.write(chunk.subarray(done));
    });
    await file.syncData();
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    if (error instanceof Error && /ENOSPC|No space left|os error 28/.test(error.message)) {
      throw new Error(
        `cannot write ${path}: the disk is full (the file takes ${bytes} bytes); ` +
          `nothing was changed: free some space or choose another folder`,
        { cause: error },
      );
    }
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`cannot write ${path}: its folder does not exist`);
    }
    throw error;
  }
  await Deno.rename(partial, path);
}
