/**
 * Zip archives whose entries are stored as they are, which is how PyTorch keeps a checkpoint: the
 * directory at the end says where each entry lies, so that an entry is read as a range of the file and
 * an archive larger than memory is no trouble. Fields of 64 bits (ZIP64) are read where the old ones are
 * full. Compressed and encrypted entries are refused.
 *
 * Field names and signatures follow PKWARE's APPNOTE.TXT.
 *
 * @module
 */

/** Reads ranges of a file. */
export interface RangeReader {
  /** For messages. */
  readonly path: string;
  /** Bytes in the file. */
  readonly size: number;
  /** Reads a range that lies within the file. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** An entry of an archive. */
export interface StoredEntry {
  readonly name: string;
  /** Bytes of content. */
  readonly size: number;
  /** Where the entry's own header begins. */
  readonly headerOffset: number;
}

const END = 0x06054b50, END64 = 0x06064b50, END64_LOCATOR = 0x07064b50;
const DIRECTORY_ENTRY = 0x02014b50, LOCAL_HEADER = 0x04034b50;
const END_BYTES = 22, LOCATOR_BYTES = 20, END64_BYTES = 56, ENTRY_BYTES = 46, LOCAL_BYTES = 30;
const FULL16 = 0xffff, FULL32 = 0xffffffff;
/** A directory takes some 80 bytes per tensor: this is a hundred thousand of them and more. */
const MAX_DIRECTORY_BYTES = 16 * 2 ** 20;

/**
 * Reads an archive's directory.
 *
 * @returns The entries by their names.
 * @throws {Error} If the file is no zip archive, is cut off, or has entries that are compressed,
 * encrypted, of one name, overlapping or beyond the end, with the entry's name.
 */
export async function readDirectory(
  file: RangeReader,
): Promise<ReadonlyMap<string, StoredEntry>> {
  const { offset, length, count } = await directoryRange(file);
  if (length > MAX_DIRECTORY_BYTES || offset + length > file.size) {
    throw damaged(file, `its directory of ${length} bytes does not fit`);
  }
  const bytes = await file.read(offset, length);
  const view = new DataView(bytes.buffer);
  const entries = new Map<string, StoredEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + ENTRY_BYTES > length || view.getUint32(at, true) !== DIRECTORY_ENTRY) {
      throw damaged(file, `its directory ends after ${i} of ${count} entries`);
    }
    const nameLength = view.getUint16(at + 28, true), extraLength = view.getUint16(at + 30, true);
    const end = at + ENTRY_BYTES + nameLength + extraLength + view.getUint16(at + 32, true);
    if (end > length) throw damaged(file, `its directory ends after ${i} of ${count} entries`);
    const extraStart = at + ENTRY_BYTES + nameLength;
    const name = new TextDecoder().decode(bytes.subarray(at + ENTRY_BYTES, extraStart));
    if ((view.getUint16(at + 8, true) & 1) !== 0 || view.getUint16(at + 10, true) !== 0) {
      throw new Error(
        `${file.path}: entry ${JSON.stringify(name)} is compressed or encrypted; PyTorch stores ` +
          "entries as they are: load the checkpoint in PyTorch and save it again",
      );
    }
    const [size, stored, headerOffset] = wideFields(
      [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)],
      new DataView(bytes.buffer, extraStart, extraLength),
    );
    if (size === undefined || size !== stored || headerOffset === undefined) {
      throw damaged(file, `entry ${JSON.stringify(name)} has no size`);
    }
    if (entries.has(name)) {
      throw damaged(file, `it has two entries of the name ${JSON.stringify(name)}`);
    }
    entries.set(name, { name, size, headerOffset });
    at = end;
  }
  const inOrder = [...entries.values()].sort((a, b) => a.headerOffset - b.headerOffset);
  inOrder.forEach(({ name, size, headerOffset }, i) => {
    const next = inOrder[i + 1]?.headerOffset ?? offset;
    if (headerOffset + LOCAL_BYTES + size > next) {
      throw damaged(file, `entry ${JSON.stringify(name)} reaches beyond its end`);
    }
  });
  return entries;
}

/**
 * Reads an entry's content, or a part of it.
 *
 * @param start First byte, counted from the content's start.
 * @param length Bytes; up to the content's end unless given.
 * @throws {Error} If the entry's own header does not belong to it, or the part reaches beyond its end.
 */
export async function readEntry(
  file: RangeReader,
  entry: StoredEntry,
  start = 0,
  length: number = entry.size - start,
): Promise<Uint8Array<ArrayBuffer>> {
  if (start < 0 || length < 0 || start + length > entry.size) {
    throw new RangeError(
      `${file.path}: entry ${JSON.stringify(entry.name)} has ${entry.size} bytes, ` +
        `not ${start + length}`,
    );
  }
  const header = new DataView((await file.read(entry.headerOffset, LOCAL_BYTES)).buffer);
  // The header's own extra field may be longer than the directory's: PyTorch aligns contents by it.
  const content = entry.headerOffset + LOCAL_BYTES + header.getUint16(26, true) +
    header.getUint16(28, true);
  if (header.getUint32(0, true) !== LOCAL_HEADER || content + entry.size > file.size) {
    throw damaged(
      file,
      `entry ${JSON.stringify(entry.name)} does not lie where the directory says`,
    );
  }
  return await file.read(content + start, length);
}

/** Where the directory lies, from the records at the file's end. */
async function directoryRange(
  file: RangeReader,
): Promise<{ offset: number; length: number; count: number }> {
  // A comment of up to 65,535 bytes may follow the last record.
  const tailLength = Math.min(file.size, END_BYTES + FULL16);
  const tail = new DataView((await file.read(file.size - tailLength, tailLength)).buffer);
  let end = tailLength - END_BYTES;
  while (
    end >= 0 && (tail.getUint32(end, true) !== END ||
      end + END_BYTES + tail.getUint16(end + 20, true) !== tailLength)
  ) end--;
  if (end < 0) {
    throw damaged(file, "it has no directory at its end, as a cut-off zip archive has none");
  }
  const count = tail.getUint16(end + 10, true);
  const length = tail.getUint32(end + 12, true), offset = tail.getUint32(end + 16, true);
  if (count !== FULL16 && length !== FULL32 && offset !== FULL32) return { offset, length, count };

  const locatorOffset = file.size - tailLength + end - LOCATOR_BYTES;
  if (locatorOffset < 0) throw damaged(file, "its last record is not whole");
  const locator = new DataView((await file.read(locatorOffset, LOCATOR_BYTES)).buffer);
  // Without a locator the full fields are meant as they are.
  if (locator.getUint32(0, true) !== END64_LOCATOR) return { offset, length, count };
  const wideOffset = Number(locator.getBigUint64(8, true));
  if (wideOffset + END64_BYTES > locatorOffset) throw damaged(file, "its last record is not whole");
  const wide = new DataView((await file.read(wideOffset, END64_BYTES)).buffer);
  if (wide.getUint32(0, true) !== END64) throw damaged(file, "its last record is not whole");
  return {
    count: Number(wide.getBigUint64(32, true)),
    length: Number(wide.getBigUint64(40, true)),
    offset: Number(wide.getBigUint64(48, true)),
  };
}

/** Fields of 32 bits; the full ones are replaced, in order, by those of the ZIP64 extra field. */
function wideFields(fields: readonly number[], extra: DataView): (number | undefined)[] {
  let wide: DataView | undefined;
  for (let at = 0; at + 4 <= extra.byteLength;) {
    const length = extra.getUint16(at + 2, true);
    if (at + 4 + length > extra.byteLength) break;
    if (extra.getUint16(at, true) === 1) {
      wide = new DataView(extra.buffer, extra.byteOffset + at + 4, length);
    }
    at += 4 + length;
  }
  let next = 0;
  return fields.map((field) => {
    if (field !== FULL32) return field;
    if (!wide || next + 8 > wide.byteLength) return undefined;
    const value = Number(wide.getBigUint64(next, true));
    next += 8;
    return value;
  });
}

function damaged(file: RangeReader, what: string): Error {
  return new Error(`${file.path} is not a whole checkpoint: ${what}; copy or download it again`);
}
