/**
 * A model's weights are named tensors. `Weights` is a view of them below a prefix, so that a layer
 * asks for `weight` and `bias` wherever it sits, with an optional LoRA overlay: the tuned model is the
 * same weights with the overlay, the reference model the same weights without it.
 *
 * Names are those of diffusers' and transformers' checkpoints. In memory a convolution's weight is
 * [kh, kw, in, out]; in files it is [out, in, kh, kw], and it is turned on the way.
 *
 * @module
 */
import { decodeF16, encodeF16 } from "../tensor/f16.ts";
import { BYTES } from "../tensor/kernel.ts";
import { type DType, realize, type Shape, type Tensor, tensor } from "../tensor/mod.ts";
import {
  openSafetensors,
  readElements,
  type SafetensorsData,
  type SafetensorsEntry,
  type SafetensorsTensor,
  writeSafetensors,
} from "./safetensors.ts";

/**
 * Low-rank updates by module path (as `down_blocks.1.attentions.0.proj_in`). Linear layers: `down`
 * [rank, in], `up` [out, rank]. Convolutions: `down` [kh, kw, in, rank], `up` [1, 1, rank, out].
 */
export interface LoraAdapter {
  readonly scale: number;
  readonly layers: ReadonlyMap<string, { readonly down: Tensor; readonly up: Tensor }>;
}

/** One layer's low-rank update: `W x + scale up (down x)`. */
export interface LoraLayer {
  readonly down: Tensor;
  readonly up: Tensor;
  readonly scale: number;
}

/** Where a `Weights` stands and what lies over it. */
export interface WeightsOptions {
  /** Module path without a trailing dot; empty for the whole model. */
  readonly prefix?: string;
  readonly lora?: LoraAdapter | undefined;
  /** The file or folder that the tensors came from, for messages. */
  readonly source?: string;
}

/** Immutable named tensors below a prefix, with an optional LoRA overlay. */
export class Weights {
  readonly #tensors: ReadonlyMap<string, Tensor>;
  readonly #lora: LoraAdapter | undefined;
  /** Module path without a trailing dot; empty for the whole model. */
  readonly prefix: string;
  /** The file or folder that the tensors came from. */
  readonly source: string;

  constructor(tensors: ReadonlyMap<string, Tensor>, options: WeightsOptions = {}) {
    this.#tensors = tensors;
    this.#lora = options.lora;
    this.prefix = options.prefix ?? "";
    this.source = options.source ?? "weights made in memory";
  }

  /** The weights of a submodule: `w.at("down_blocks.0").at("resnets.1")`. */
  at(prefix: string): Weights {
    return new Weights(this.#tensors, {
      prefix: this.#full(prefix),
      lora: this.#lora,
      source: this.source,
    });
  }

  /**
   * The tensor of this name below the prefix.
   *
   * @throws {Error} When there is none, with the full name, the source and the nearest names.
   */
  get(name: string): Tensor {
    const full = this.#full(name);
    const found = this.#tensors.get(full);
    if (found) return found;
    throw new Error(
      `${absent(full, this.source, this.#tensors.keys())}: ` +
        `check that config.json belongs to these weights`,
    );
  }

  /** Whether a tensor of this name is there. */
  has(name: string): boolean {
    return this.#tensors.has(this.#full(name));
  }

  /** The names below the prefix, without it. */
  names(): string[] {
    const start = this.prefix === "" ? "" : `${this.prefix}.`;
    return [...this.#tensors.keys()].filter((n) => n.startsWith(start)).map((n) =>
      n.slice(start.length)
    );
  }

  /** The same weights below the same prefix under another overlay. */
  withLora(lora: LoraAdapter | undefined): Weights {
    return new Weights(this.#tensors, { prefix: this.prefix, lora, source: this.source });
  }

  /** The overlay's entry for exactly this module path. */
  get lora(): LoraLayer | undefined {
    const layer = this.#lora?.layers.get(this.prefix);
    return layer && { ...layer, scale: this.#lora!.scale };
  }

  /** All the tensors, whatever the prefix. */
  get tensors(): ReadonlyMap<string, Tensor> {
    return this.#tensors;
  }

  /** Moves every tensor to the device, so that compiled steps share one copy. */
  realize(): Promise<void> {
    return realize(...this.#tensors.values());
  }

  /** Frees every tensor. */
  dispose(): void {
    for (const t of this.#tensors.values()) t.dispose();
  }

  #full(name: string): string {
    return this.prefix === "" ? name : `${this.prefix}.${name}`;
  }
}

/** Says that a tensor is not there, and which names come nearest to its own. */
export function absent(name: string, source: string, names: Iterable<string>): string {
  const near = nearest(name, names).map((n) => `"${n}"`).join(", ");
  return `no tensor "${name}" in ${source}` + (near ? `; the nearest names are ${near}` : "");
}

/** Up to three names that differ least from the one asked for. */
function nearest(name: string, names: Iterable<string>): string[] {
  return [...names]
    // A name that is longer than this is not a slip of the pen, and may be a very long one.
    .filter((candidate) => candidate.length <= 2 * name.length)
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3)
    .map(({ candidate }) => candidate);
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        row[j]! + 1,
        next[j - 1]! + 1,
        row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    row = next;
  }
  return row[b.length]!;
}

/** How floating-point weights are held: as in the file (`BF16` and `F64` become f32), or converted. */
export type WeightsDType = "f32" | "f16" | "stored";

/** One tensor in a file: where its bytes are and what they mean. */
export interface StoredTensor extends SafetensorsEntry {
  readonly file: string;
  /** Its name in the file, for messages. */
  readonly name: string;
  /** Whether the file has the matrix turned: its bytes are those of [columns, rows]. */
  readonly transposed?: boolean;
}

/** A model's tensors in their files, before any is read: the headers only. */
export interface StoredWeights {
  /** The file or folder, for messages. */
  readonly source: string;
  /** By the name that the model knows the tensor by. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Options of {@linkcode openWeights}. */
export interface OpenOptions {
  /** Gives a tensor its name, or leaves it out when it returns `undefined`. */
  readonly rename?: (name: string) => string | undefined;
}

/** Options of {@linkcode loadWeights}. */
export interface LoadOptions extends OpenOptions {
  /** Default `stored`. */
  readonly dtype?: WeightsDType;
  /** Called after every tensor with the bytes of the files read so far and in all. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/**
 * The file names that diffusers and transformers give to a folder's weights, preferred first: where
 * the full weights are beside their `fp16` variant, the full ones are meant.
 */
const WEIGHT_FILES = ["diffusion_pytorch_model", "model"].flatMap((stem) => [
  `${stem}.safetensors`,
  `${stem}.safetensors.index.json`,
  `${stem}.fp16.safetensors`,
  `${stem}.safetensors.index.fp16.json`,
]);

/**
 * Finds a model's tensors: in a safetensors file, in those that the `*.index.json` of a sharded one
 * names, or in a folder that holds either under diffusers' or transformers' names. Reads headers only.
 *
 * @param path File or folder.
 * @throws {Error} With the file, the tensor, what was found and what to do.
 */
export async function openWeights(path: string, options: OpenOptions = {}): Promise<StoredWeights> {
  const tensors = new Map<string, StoredTensor>();
  for (const tensor of await storedTensors(path)) {
    const as = options.rename ? options.rename(tensor.name) : tensor.name;
    if (as === undefined) continue;
    const other = tensors.get(as);
    if (other) {
      throw new Error(
        `${path}: tensors "${other.name}" and "${tensor.name}" are both "${as}": ` +
          `save the model again`,
      );
    }
    tensors.set(as, tensor);
  }
  return { source: path, tensors };
}

/**
 * Loads weights. Tensors are read one at a time and go to the current device, so that the host never
 * holds more than one.
 *
 * @param from A file or folder, as for {@linkcode openWeights}, or what that found.
 * @throws {Error} With the file, the tensor, what was found and what to do. Nothing stays on the
 * device then.
 */
export async function loadWeights(
  from: string | StoredWeights,
  options: LoadOptions = {},
): Promise<Weights> {
  const stored = typeof from === "string" ? await openWeights(from, options) : from;
  const total = storedBytes(stored);
  const tensors = new Map<string, Tensor>();
  const weights = new Weights(tensors, { source: stored.source });
  let done = 0;
  try {
    for (const [name, entry] of stored.tensors) {
      const loaded = await readTensor(entry, options.dtype ?? "stored");
      await realize(loaded);
      tensors.set(name, loaded);
      done += entry.byteLength;
      options.onProgress?.(done, total);
    }
  } catch (error) {
    weights.dispose();
    throw error;
  }
  return weights;
}

/** How many bytes of the files a model's tensors take. */
export function storedBytes({ tensors }: StoredWeights): number {
  return tensors.values().reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/**
 * How many bytes a stored tensor takes on a device.
 *
 * @param entry The tensor.
 * @param dtype How weights are to be held.
 */
export function heldBytes(entry: StoredTensor, dtype: WeightsDType = "stored"): number {
  return entry.shape.reduce((a, b) => a * b, BYTES[heldAs(entry, dtype)]);
}

/** How a stored tensor is held on a device: `BF16` and `F64`, which devices do not have, as f32. */
function heldAs(entry: StoredTensor, dtype: WeightsDType): DType {
  switch (entry.dtype) {
    case "F64":
    case "F32":
    case "BF16":
      return dtype === "f16" ? "f16" : "f32";
    case "F16":
      return dtype === "f32" ? "f32" : "f16";
    case "I64":
    case "I32":
    case "I16":
    case "I8":
      return "i32";
    case "U8":
    case "BOOL":
      return "u8";
  }
}

async function storedTensors(path: string): Promise<StoredTensor[]> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`no weights at ${path}: there is no such file or folder`);
  }
  if (info.isDirectory) {
    const found = new Set<string>();
    for await (const entry of Deno.readDir(path)) found.add(entry.name);
    const name = WEIGHT_FILES.find((n) => found.has(n));
    if (!name) {
      const pickle = [...found].find((n) => /\.(bin|ckpt|pt|pth)$/.test(n));
      throw new Error(
        `no weights in the folder ${path}: expected one of ${WEIGHT_FILES.join(", ")}` +
          (pickle
            ? `; ${pickle} is a pickle: save it again as safetensors`
            : `; it has ${[...found].sort().join(", ") || "no files"}`),
      );
    }
    return await storedTensors(`${path}/${name}`);
  }
  if (path.endsWith(".json")) return await shards(path);
  const { entries } = await openSafetensors(path);
  return [...entries].map(([name, entry]) => ({ ...entry, file: path, name }));
}

async function shards(path: string): Promise<StoredTensor[]> {
  let index: unknown;
  try {
    index = JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`, { cause: error });
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new Error(`${path} has no "weight_map", so it is not the index of a sharded file`);
  }
  const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/") + 1) : "";
  const tensors: StoredTensor[] = [];
  for (const [shard, pairs] of Map.groupBy(Object.entries(map), ([, shard]) => shard)) {
    const names = pairs.map(([name]) => name);
    // A name with a separator could lead out of the folder.
    if (typeof shard !== "string" || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw new Error(
        `${path} places tensor "${names[0]}" in ${JSON.stringify(shard)}; ` +
          `expected the name of a .safetensors file in the same folder`,
      );
    }
    const file = folder + shard;
    const { entries } = await openSafetensors(file);
    for (const name of names) {
      const entry = entries.get(name);
      if (!entry) {
        throw new Error(`${path} places tensor "${name}" in ${shard}, which does not have it`);
      }
      tensors.push({ ...entry, file, name });
    }
  }
  return tensors;
}

/** Reads one tensor of a file into a tensor in the in-memory layout. */
async function readTensor(entry: StoredTensor, dtype: WeightsDType): Promise<Tensor> {
  const raw = await readElements(entry.file, entry);
  const held = heldAs(entry, dtype);
  const data = convert(entry, raw, held);
  const { shape } = entry;
  if (entry.transposed) return tensor(transpose(data, shape), shape, held);
  if (isConvWeight(shape)) return tensor(oihwToHwio(data, shape), hwioShape(shape), held);
  return tensor(data, shape, held);
}

/** A file's elements as a device's; those that are the same are not copied. */
function convert(entry: StoredTensor, raw: SafetensorsData, held: DType): TypedArray {
  switch (entry.dtype) {
    case "F16":
      return held === "f32" ? decodeF16(raw as Uint16Array) : raw as Uint16Array;
    case "F64":
    case "F32":
    case "BF16": {
      const wide = entry.dtype === "F32"
        ? raw as Float32Array
        : entry.dtype === "BF16"
        ? widenBf16(raw as Uint16Array)
        : Float32Array.from(raw as Float64Array);
      return held === "f16" ? encodeF16(wide) : wide;
    }
    case "I64":
      return narrowI64(entry, raw as BigInt64Array);
    case "I32":
    case "I16":
    case "I8":
      return Int32Array.from(raw as Int32Array);
    case "U8":
    case "BOOL":
      return raw as Uint8Array;
  }
}

/** Elements of [columns, rows] in the order of [rows, columns]. */
function transpose<T extends TypedArray>(data: T, [rows, columns]: Shape): T {
  const out = data.slice() as T;
  for (let r = 0; r < rows!; r++) {
    for (let c = 0; c < columns!; c++) out[r * columns! + c] = data[c * rows! + r]!;
  }
  return out;
}

type TypedArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

function widenBf16(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return new Float32Array(words.buffer);
}

function narrowI64({ file, name }: StoredTensor, values: BigInt64Array) {
  return Int32Array.from(values, (value) => {
    const narrow = Number(value);
    if ((narrow | 0) !== narrow) {
      throw new RangeError(`${file}: tensor "${name}" has ${value}, which no i32 can hold`);
    }
    return narrow;
  });
}

type ConvWeightShape = readonly [number, number, number, number];

const isConvWeight = (shape: Shape): shape is ConvWeightShape => shape.length === 4;
const hwioShape = ([o, i, h, w]: ConvWeightShape): Shape => [h, w, i, o];
const oihwShape = ([h, w, i, o]: ConvWeightShape): Shape => [o, i, h, w];

/** Moves elements from [out, in, kh, kw] to [kh, kw, in, out]. */
function oihwToHwio<T extends TypedArray>(data: T, [o, i, h, w]: ConvWeightShape): T {
  const out = data.slice() as T;
  const taps = h * w;
  for (let co = 0; co < o; co++) {
    for (let ci = 0; ci < i; ci++) {
      for (let tap = 0; tap < taps; tap++) {
        out[(tap * i + ci) * o + co] = data[(co * i + ci) * taps + tap]!;
      }
    }
  }
  return out;
}

/** Moves elements from [kh, kw, in, out] to [out, in, kh, kw]. */
function hwioToOihw<T extends TypedArray>(data: T, [h, w, i, o]: ConvWeightShape): T {
  const out = data.slice() as T;
  const taps = h * w;
  for (let co = 0; co < o; co++) {
    for (let ci = 0; ci < i; ci++) {
      for (let tap = 0; tap < taps; tap++) {
        out[(co * i + ci) * taps + tap] = data[(tap * i + ci) * o + co]!;
      }
    }
  }
  return out;
}

/** Options of {@linkcode saveWeights}. */
export interface SaveOptions {
  /** Default `stored`: f32 as `F32`, f16 as `F16`. */
  readonly dtype?: WeightsDType;
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Saves weights as one safetensors file in the checkpoint layout, atomically. Tensors are read from
 * the device one at a time.
 *
 * @param path The file.
 * @param weights Tensors by name in the in-memory layout.
 */
export async function saveWeights(
  path: string,
  weights: ReadonlyMap<string, Tensor>,
  options: SaveOptions = {},
): Promise<void> {
  const entries = new Map<string, SafetensorsTensor>();
  for (const [name, t] of weights) {
    const dtype = fileDType(t, options.dtype ?? "stored");
    entries.set(name, {
      dtype,
      shape: isConvWeight(t.shape) ? oihwShape(t.shape) : t.shape,
      data: async () => {
        const data = await t.data() as Float32Array<ArrayBuffer>;
        const placed = isConvWeight(t.shape) ? hwioToOihw(data, t.shape) : data;
        return dtype === "F16" ? encodeF16(placed) : placed;
      },
    });
  }
  // Loaders of the other libraries refuse a file that does not say which framework wrote it.
  await writeSafetensors(path, entries, { format: "pt", ...options.metadata });
}

function fileDType(t: Tensor, dtype: WeightsDType): SafetensorsEntry["dtype"] {
  if (t.dtype === "i32") return "I32";
  if (t.dtype === "u8") return "U8";
  if (dtype === "stored") return t.dtype === "f16" ? "F16" : "F32";
  return dtype === "f16" ? "F16" : "F32";
}
