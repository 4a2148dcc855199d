/**
 * Checkpoints of `torch.save` (`.pt`, `.pth`, `.bin`): a zip archive with a pickle that describes the
 * tensors and one entry for each storage, a tensor being a strided view of a storage. The pickle is
 * read without running it, see `pickle.ts`; of the names that it may use there are only those that
 * build a tensor or an ordered dictionary. Tensors are read one at a time, by ranges.
 *
 * @module
 */
import { type PickleName, unpickle } from "./pickle.ts";
import { type RangeReader, readDirectory, readEntry, type StoredEntry } from "./stored_zip.ts";

/** Element types by PyTorch's storage classes, with their size in bytes. */
const STORAGES = {
  DoubleStorage: { dtype: "F64", bytes: 8 },
  FloatStorage: { dtype: "F32", bytes: 4 },
  HalfStorage: { dtype: "F16", bytes: 2 },
  BFloat16Storage: { dtype: "BF16", bytes: 2 },
  LongStorage: { dtype: "I64", bytes: 8 },
  IntStorage: { dtype: "I32", bytes: 4 },
  ShortStorage: { dtype: "I16", bytes: 2 },
  CharStorage: { dtype: "I8", bytes: 1 },
  ByteStorage: { dtype: "U8", bytes: 1 },
  BoolStorage: { dtype: "BOOL", bytes: 1 },
} as const;

/** An element type, by safetensors' names. */
export type TorchDType = (typeof STORAGES)[keyof typeof STORAGES]["dtype"];

/** What the pickle says of one tensor. */
export interface TorchEntry {
  readonly dtype: TorchDType;
  readonly shape: readonly number[];
}

/** An open checkpoint and access to its tensors. */
export interface TorchCheckpoint {
  readonly path: string;
  /** Tensors of the state dictionary, without the `module.` that data-parallel training puts before names. */
  readonly entries: ReadonlyMap<string, TorchEntry>;
  /**
   * Reads one tensor's elements in row-major order: F16 as its bits, BF16 and F64 as f32.
   *
   * @throws {Error} When the checkpoint has no such tensor, or one of another type.
   */
  read(name: string): Promise<Float32Array | Uint16Array>;
}

/** A storage: an entry of the archive, seen as elements of one type. */
class Storage {
  constructor(
    readonly entry: StoredEntry,
    readonly dtype: TorchDType,
    readonly bytes: number,
    readonly elements: number,
  ) {}
}

/** A view of a storage; `offset` and `strides` count elements. */
class StridedTensor implements TorchEntry {
  constructor(
    readonly storage: Storage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}

  get dtype(): TorchDType {
    return this.storage.dtype;
  }
}

/** The pickle of a checkpoint with thousands of tensors and an optimiser takes 1 MiB or two. */
const MAX_PICKLE_BYTES = 16 * 2 ** 20;

/** How `torch.save` began before version 1.6: protocol 2 and a magic number as LONG1. */
const LEGACY_START = [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50];

/**
 * Reads what a checkpoint holds. Nothing stays open: each `read` opens the file, reads and closes it.
 *
 * @param path A file of `torch.save`: a state dictionary, or a dictionary with one as `state_dict`.
 * @throws {Error} If the file is missing, damaged or of another format; if its pickle asks for anything
 * but tensors and plain values, with the name of what it asked for; if a tensor does not lie in its storage.
 */
export async function openTorchCheckpoint(path: string): Promise<TorchCheckpoint> {
  const file = await rangeReader(path);
  const start = await file.read(0, Math.min(file.size, 16));
  if (LEGACY_START.every((byte, i) => start[i] === byte)) {
    throw new Error(
      `${path} is in the format that PyTorch wrote before version 1.6: ` +
        "load it in a newer one (with weights_only=True) and torch.save it again",
    );
  }
  const archive = await readDirectory(file);
  const pickles = [...archive.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length !== 1) {
    throw new Error(
      `${path} is a zip archive, but no checkpoint of PyTorch: it has ${pickles.length} entries ` +
        "<name>/data.pkl instead of one",
    );
  }
  const folder = pickles[0]!.slice(0, -"data.pkl".length);
  const order = archive.get(`${folder}byteorder`);
  if (order && new TextDecoder().decode(await readEntry(file, order, 0, 3)) !== "lit") {
    throw new Error(`${path} holds big-endian numbers: save it again on another machine`);
  }
  const pickle = archive.get(pickles[0]!)!;
  if (pickle.size > MAX_PICKLE_BYTES) {
    throw new Error(
      `${path}: its pickle has ${pickle.size} bytes, at most ${MAX_PICKLE_BYTES} are read: ` +
        "save the state_dict alone",
    );
  }
  const root = unpickle(await readEntry(file, pickle), {
    source: path,
    names: tensorNames(path),
    persistent: (id) => storage(path, id, archive, folder),
  });
  const tensors = stateDict(path, root);
  return {
    path,
    entries: tensors,
    async read(name) {
      const found = tensors.get(name);
      if (!found) throw new Error(`${path} has no tensor "${name}"`);
      return await readTensor(file, name, found);
    },
  };
}

async function rangeReader(path: string): Promise<RangeReader> {
  let size: number;
  try {
    size = (await Deno.stat(path)).size;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`no such file: ${path}`);
  }
  return {
    path,
    size,
    async read(offset, length) {
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
    },
  };
}

/** Every name that a pickle of tensors may use. */
function tensorNames(path: string): PickleName[] {
  return [
    ...Object.keys(STORAGES).map((name) => ({ name: `torch.${name}` })),
    {
      name: "collections.OrderedDict",
      call: (args) => {
        if (args.length > 0) throw new Error(`${path}: its pickle fills an OrderedDict at once`);
        return new Map();
      },
    },
    { name: "torch._utils._rebuild_tensor_v2", call: (args) => stridedTensor(path, args) },
    // A parameter is its tensor, with what training needs.
    { name: "torch._utils._rebuild_parameter", call: ([data]) => data },
  ];
}

/** A storage by its persistent id: ("storage", class, key, device, number of elements). */
function storage(
  path: string,
  id: unknown,
  archive: ReadonlyMap<string, StoredEntry>,
  folder: string,
): Storage {
  const [kind, type, key, , elements] = Array.isArray(id) ? id as unknown[] : [];
  const name = (type as Partial<PickleName> | null | undefined)?.name?.replace("torch.", "");
  if (kind !== "storage" || !name || !(name in STORAGES) || typeof key !== "string") {
    throw new Error(`${path}: its pickle mentions an outside object that is no storage of tensors`);
  }
  const entry = archive.get(`${folder}data/${key}`);
  if (!entry) throw new Error(`${path} has no entry ${JSON.stringify(`${folder}data/${key}`)}`);
  const { dtype, bytes } = STORAGES[name as keyof typeof STORAGES];
  if (!isCount(elements) || elements * bytes > entry.size) {
    throw new Error(
      `${path}: storage ${JSON.stringify(key)} has ${entry.size} bytes, too few for ${
        shown(elements)
      } elements of ${dtype}; copy or download the file again`,
    );
  }
  return new Storage(entry, dtype, bytes, elements);
}

/** `_rebuild_tensor_v2(storage, offset, shape, strides, ...)`; what follows matters to training only. */
function stridedTensor(path: string, args: readonly unknown[]): StridedTensor {
  const [from, offset, shape, strides] = args;
  if (
    !(from instanceof Storage) || !isCount(offset) || !isCounts(shape) || !isCounts(strides) ||
    shape.length !== strides.length
  ) {
    throw new Error(
      `${path}: its pickle describes a tensor by wrong numbers (offset ${shown(offset)}, shape ${
        shown(shape)
      }, strides ${shown(strides)}): it is damaged`,
    );
  }
  // More elements than the storage has would be one element many times over.
  if (offset + Math.max(spanOf(shape, strides), countOf(shape)) > from.elements) {
    throw new Error(
      `${path}: a tensor of shape [${shape}], strides [${strides}] and offset ${offset} does not lie in ` +
        `its storage of ${from.elements} elements: the file is damaged`,
    );
  }
  return new StridedTensor(from, offset, shape, strides);
}

const isCount = (x: unknown): x is number => Number.isSafeInteger(x) && x as number >= 0;
/** PyTorch's tensors have up to 64 axes. */
const isCounts = (x: unknown): x is number[] =>
  Array.isArray(x) && x.length <= 64 && x.every(isCount);
/** A value of a pickle in a message: never long, whatever it is. */
const shown = (x: unknown): string =>
  Array.isArray(x)
    ? `[${x.slice(0, 8).map((item) => Array.isArray(item) ? "[...]" : shown(item)).join(", ")}]`
    : typeof x === "string"
    ? JSON.stringify(x.slice(0, 80))
    : typeof x === "object" && x !== null
    ? "an object"
    : String(x);
/** Elements of a shape. An axis of length 0 leaves none, however long the others are said to be. */
const countOf = (shape: readonly number[]) =>
  shape.includes(0) ? 0 : shape.reduce((a, b) => a * b, 1);
/** Elements from a view's first to its last, which are all of them unless the view has gaps. */
const spanOf = (shape: readonly number[], strides: readonly number[]) =>
  countOf(shape) === 0 ? 0 : shape.reduce((sum, size, i) => sum + (size - 1) * strides[i]!, 1);

/** The tensors of the state dictionary that a checkpoint is, or has as its entry `state_dict`. */
function stateDict(path: string, root: unknown): ReadonlyMap<string, StridedTensor> {
  const inner = root instanceof Map ? root.get("state_dict") : undefined;
  const state = inner instanceof Map ? inner : root;
  const tensors = new Map<string, StridedTensor>();
  if (state instanceof Map) {
    for (const [name, value] of state) {
      if (typeof name === "string" && value instanceof StridedTensor) {
        tensors.set(name.replace(/^module\./, ""), value);
      }
    }
  }
  if (tensors.size === 0) {
    const keys = root instanceof Map ? `; its keys are ${shown([...root.keys()])}` : "";
    throw new Error(
      `${path} has no tensors: expected a state dictionary, or one as "state_dict"${keys}`,
    );
  }
  return tensors;
}

/** Reads a view's elements in row-major order. */
async function readTensor(
  file: RangeReader,
  name: string,
  { storage, offset, shape, strides }: StridedTensor,
): Promise<Float32Array | Uint16Array> {
  const { buffer } = await readEntry(
    file,
    storage.entry,
    offset * storage.bytes,
    spanOf(shape, strides) * storage.bytes,
  );
  switch (storage.dtype) {
    case "F16":
      return inRowMajor(new Uint16Array(buffer), shape, strides);
    case "F32":
      return inRowMajor(new Float32Array(buffer), shape, strides);
    case "F64":
      return inRowMajor(new Float32Array(new Float64Array(buffer)), shape, strides);
    case "BF16": {
      const wide = Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16);
      return inRowMajor(new Float32Array(wide.buffer), shape, strides);
    }
    default:
      throw new Error(
        `${file.path}: tensor "${name}" is ${storage.dtype}; expected F32, F16, BF16 or F64`,
      );
  }
}

/** The elements themselves where they lie in row-major order, else a copy that does. */
function inRowMajor<T extends Float32Array | Uint16Array>(
  data: T,
  shape: readonly number[],
  strides: readonly number[],
): T {
  let step = 1;
  const contiguous = shape.map((size, i) => ({ size, stride: strides[i]! })).reverse()
    .every(({ size, stride }) => {
      const fits = size === 1 || stride === step;
      step *= size;
      return fits;
    });
  if (contiguous) return data;
  const count = countOf(shape);
  const out = data instanceof Float32Array ? new Float32Array(count) : new Uint16Array(count);
  const index = shape.map(() => 0);
  for (let i = 0, at = 0; i < count; i++) {
    out[i] = data[at]!;
    // On to the next index, the last axis first, as an odometer goes.
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += strides[axis]!;
      if (++index[axis]! < shape[axis]!) break;
      at -= shape[axis]! * strides[axis]!;
      index[axis] = 0;
    }
  }
  return out as T;
}
