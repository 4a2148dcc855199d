/**
 * A `Tensor` is a lazy node: it knows its shape and what it would be computed from. Realising it
 * (`realize`, `data`) schedules the graph behind it into few kernels and leaves it holding a buffer.
 *
 * @module
 */
import type { Backend, DeviceBuffer } from "./backend.ts";
import { decodeF16 } from "./f16.ts";
import type { BinaryOp, DType, UnaryOp } from "./kernel.ts";
import type { Movement, Shape } from "./shape.ts";
import { axisOf, broadcastShape, sameShape, show, sizeOf } from "./shape.ts";
import type { ConvShape } from "./kernel.ts";

/** What a lazy tensor would be computed from. */
export type Source =
  /** Host data, uploaded when first needed. */
  | { readonly op: "host"; readonly data: HostData }
  /** One value everywhere. */
  | { readonly op: "constant"; readonly value: number }
  /** An input of a compiled step, bound at every call. */
  | { readonly op: "input" }
  | { readonly op: "unary"; readonly fn: UnaryOp }
  | { readonly op: "binary"; readonly fn: BinaryOp }
  | { readonly op: "where" }
  | { readonly op: "cast" }
  | { readonly op: "take" }
  | { readonly op: "move"; readonly move: Movement }
  | { readonly op: "sum"; readonly axes: readonly number[] }
  | { readonly op: "max"; readonly axes: readonly number[] }
  | { readonly op: "matmul" }
  | {
    readonly op: "conv2d";
    readonly variant: "forward" | "input" | "weight";
    readonly conv: ConvShape;
  }
  | { readonly op: "scatter" }
  | { readonly op: "concat"; readonly axis: number }
  | { readonly op: "stopGradient" }
  /** A group of outputs that the backward pass recomputes; its inputs are the block's inputs. */
  | {
    readonly op: "checkpoint";
    readonly block: (...inputs: Tensor[]) => Tensor[];
    readonly inner: readonly Tensor[];
  }
  /** One output of a `checkpoint`: inputs are [the group, the inner value]. */
  | { readonly op: "project"; readonly index: number };

/** Typed arrays that a tensor can be made from. */
export type HostData = Float32Array | Int32Array | Uint8Array | Uint16Array;

/** Device memory of a realised tensor. */
export interface Storage {
  readonly backend: Backend;
  readonly buffer: DeviceBuffer;
}

/** Anything an elementwise operation accepts beside a tensor. */
export type Operand = Tensor | number;

let nextId = 0;

/**
 * An immutable, lazy array.
 *
 * @example Elementwise arithmetic broadcasts as in NumPy
 * ```ts
 * import { tensor } from "./mod.ts";
 * const x = tensor([1, 2, 3, 4], [2, 2]);
 * const y = x.mul(2).add(tensor([10, 20], [2]));
 * console.log(await y.data()); // Float32Array [12, 24, 16, 28]
 * ```
 */
export class Tensor {
  /** Creation order; every tensor comes after what it is computed from. */
  readonly id: number = nextId++;
  readonly shape: Shape;
  readonly dtype: DType;
  #source: Source | undefined;
  #inputs: readonly Tensor[];
  #storage: Storage | undefined;
  #disposed = false;

  /** Makes a lazy node; prefer the functions that check shapes. */
  constructor(source: Source, inputs: readonly Tensor[], shape: Shape, dtype: DType) {
    this.#source = source;
    this.#inputs = inputs;
    this.shape = shape;
    this.dtype = dtype;
  }

  /** What this tensor would be computed from; `undefined` once it holds its own buffer. */
  get source(): Source | undefined {
    if (this.#disposed) {
      throw new Error(`A disposed tensor of shape ${show(this.shape)} was used`);
    }
    return this.#source;
  }

  /** The tensors this one is computed from. */
  get inputs(): readonly Tensor[] {
    return this.#inputs;
  }

  /** The device memory, once realised. */
  get storage(): Storage | undefined {
    return this.#storage;
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** The number of axes. */
  get rank(): number {
    return this.shape.length;
  }

  /** Gives a lazy tensor its buffer and forgets how it was computed. */
  settle(storage: Storage): void {
    this.#storage = storage;
    this.#source = undefined;
    this.#inputs = [];
  }

  /** Replaces the buffer of a realised tensor, without freeing the old one. */
  rebind(storage: Storage): void {
    this.#storage = storage;
  }

  /** Frees the device memory. A lazy tensor has none, so nothing happens to it but that it can't be used. */
  dispose(): void {
    if (this.#storage) this.#storage.backend.free(this.#storage.buffer);
    this.#storage = undefined;
    this.#disposed = true;
    this.#inputs = [];
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Realises the tensor if needed and copies it to the host; f16 comes back widened. */
  async data(): Promise<Float32Array | Int32Array | Uint8Array> {
    if (!this.#storage) {
      const host = this.source;
      if (host?.op === "host") return widen(host.data, this.dtype);
      await realizer!([this]);
    }
    const { backend, buffer } = this.#storage!;
    const bytes = await backend.read(buffer, 0, byteLength(this.shape, this.dtype));
    const { buffer: raw, byteOffset } = bytes;
    switch (this.dtype) {
      case "f32":
        return new Float32Array(raw, byteOffset, this.size);
      case "i32":
        return new Int32Array(raw, byteOffset, this.size);
      case "u8":
        return new Uint8Array(raw, byteOffset, this.size);
      case "f16":
        return decodeF16(new Uint16Array(raw, byteOffset, this.size));
    }
  }

  /** The value of a tensor of one element. */
  async item(): Promise<number> {
    if (this.size !== 1) {
      throw new RangeError(`item: needs one element, but the shape is ${show(this.shape)}`);
    }
    return (await this.data())[0]!;
  }

  // Elementwise.

  #unary(fn: UnaryOp): Tensor {
    const x = this.#arithmetic();
    if (x.dtype === "i32" && fn !== "neg" && fn !== "abs" && fn !== "floor") {
      throw new TypeError(`${fn}: needs floats, got ${this.dtype}; cast to f32 first`);
    }
    return new Tensor({ op: "unary", fn }, [x], x.shape, x.dtype);
  }

  /** Arithmetic happens in f32 or i32; f16 and u8 are ways to store. */
  #arithmetic(): Tensor {
    if (this.dtype === "f16") return this.cast("f32");
    if (this.dtype === "u8") return this.cast("i32");
    return this;
  }

  #binary(fn: BinaryOp, other: Operand): Tensor {
    const x = this.#arithmetic();
    const y = typeof other === "number"
      ? new Tensor({ op: "constant", value: other }, [], [], x.dtype)
      : other.#arithmetic();
    if (x.dtype !== y.dtype) {
      throw new TypeError(`${fn}: operands are ${x.dtype} and ${y.dtype}; cast one of them`);
    }
    if (x.dtype === "i32") {
      if (fn === "div" || (typeof other === "number" && !Number.isInteger(other))) {
        const by = typeof other === "number" ? other : other.dtype;
        throw new TypeError(`${fn}: ${this.dtype} and ${by} give no integer; cast to f32 first`);
      }
    }
    const shape = broadcastShape(x.shape, y.shape, fn);
    return new Tensor({ op: "binary", fn }, [x.expand(shape), y.expand(shape)], shape, x.dtype);
  }

  /** `this + other`. */
  add(other: Operand): Tensor {
    return this.#binary("add", other);
  }
  /** `this - other`. */
  sub(other: Operand): Tensor {
    return this.#binary("sub", other);
  }
  /** `this * other`. */
  mul(other: Operand): Tensor {
    return this.#binary("mul", other);
  }
  /** `this / other`. */
  div(other: Operand): Tensor {
    return this.#binary("div", other);
  }
  /** The larger of each pair. */
  maximum(other: Operand): Tensor {
    return this.#binary("max", other);
  }
  /** The smaller of each pair. */
  minimum(other: Operand): Tensor {
    return this.#binary("min", other);
  }
  /** 1 where `this < other`, else 0. */
  lt(other: Operand): Tensor {
    return this.#binary("lt", other);
  }
  /** 1 where `this > other`, else 0. */
  gt(other: Operand): Tensor {
    const y = typeof other === "number" ? constant(other, [], this.dtype) : other;
    return y.lt(this);
  }
  /** 1 where equal, else 0. */
  eq(other: Operand): Tensor {
    return this.#binary("eq", other);
  }
  /** `-this`. */
  neg(): Tensor {
    return this.#unary("neg");
  }
  /** The absolute value. */
  abs(): Tensor {
    return this.#unary("abs");
  }
  /** `e^this`. */
  exp(): Tensor {
    return this.#unary("exp");
  }
  /** The natural logarithm. */
  log(): Tensor {
    return this.#unary("log");
  }
  /** The square root. */
  sqrt(): Tensor {
    return this.#unary("sqrt");
  }
  /** `1 / sqrt(this)`. */
  rsqrt(): Tensor {
    return this.#unary("rsqrt");
  }
  /** `1 / this`. */
  reciprocal(): Tensor {
    return this.#unary("recip");
  }
  /** The sine of radians. */
  sin(): Tensor {
    return this.#unary("sin");
  }
  /** The cosine of radians. */
  cos(): Tensor {
    return this.#unary("cos");
  }
  /** The hyperbolic tangent. */
  tanh(): Tensor {
    return this.#unary("tanh");
  }
  /** The Gauss error function. */
  erf(): Tensor {
    return this.#unary("erf");
  }
  /** `1 / (1 + e^-this)`. */
  sigmoid(): Tensor {
    return this.#unary("sigmoid");
  }
  /** The largest integer not above. */
  floor(): Tensor {
    return this.#unary("floor");
  }
  /** `this * this`. */
  square(): Tensor {
    return this.mul(this);
  }

  /** Changes the type; f32 to i32 and u8 truncates towards zero, f16 rounds to nearest even. */
  cast(dtype: DType): Tensor {
    if (dtype === this.dtype) return this;
    return new Tensor({ op: "cast" }, [this], this.shape, dtype);
  }

  // Views.

  #move(move: Movement, shape: Shape): Tensor {
    if (sameShape(shape, this.shape) && move.kind !== "permute") return this;
    return new Tensor({ op: "move", move }, [this], shape, this.dtype);
  }

  /** The same elements in another shape; one size may be -1. */
  reshape(shape: Shape): Tensor {
    const known = shape.reduce((product, n) => n === -1 ? product : product * n, 1);
    const full = shape.map((n) => n === -1 ? this.size / known : n);
    if (sizeOf(full) !== this.size || full.some((n) => !Number.isInteger(n))) {
      throw new RangeError(`reshape: ${show(this.shape)} does not fit ${show(shape)}`);
    }
    return this.#move({ kind: "reshape", shape: full }, full);
  }

  /** Axes in another order. */
  permute(axes: readonly number[]): Tensor {
    const order = axes.map((a) => axisOf(a, this.rank, "permute"));
    if (order.length !== this.rank || new Set(order).size !== this.rank) {
      throw new RangeError(
        `permute: ${show(axes)} is no order of the axes of ${show(this.shape)}`,
      );
    }
    if (order.every((a, i) => a === i)) return this;
    return this.#move({ kind: "permute", axes: order }, order.map((a) => this.shape[a]!));
  }

  /** Two axes swapped. */
  transpose(a: number, b: number): Tensor {
    const axes = this.shape.map((_, i) => i);
    const i = axisOf(a, this.rank, "transpose");
    const j = axisOf(b, this.rank, "transpose");
    axes[i] = j;
    axes[j] = i;
    return this.permute(axes);
  }

  /** Axes of size 1 repeated; new axes come first. */
  expand(shape: Shape): Tensor {
    const lead = shape.length - this.rank;
    if (lead < 0 || this.shape.some((n, i) => n !== 1 && n !== shape[i + lead])) {
      throw new RangeError(`expand: ${show(this.shape)} does not expand to ${show(shape)}`);
    }
    if (this.source?.op === "constant") return constant(this.source.value, shape, this.dtype);
    return this.#move({ kind: "expand", shape }, shape);
  }

  /** Elements `start` to `end` (exclusive) of an axis. */
  slice(axis: number, start: number, end: number): Tensor {
    const at = axisOf(axis, this.rank, "slice");
    const n = this.shape[at]!;
    if (!(start >= 0 && start < end && end <= n)) {
      throw new RangeError(
        `slice: [${start}, ${end}) is outside axis ${at} of ${show(this.shape)}`,
      );
    }
    const shape = this.shape.map((m, i) => i === at ? end - start : m);
    return this.#move({ kind: "slice", axis: at, start, end }, shape);
  }

  /** A new axis of size 1 before `axis`. */
  unsqueeze(axis: number): Tensor {
    const at = axisOf(axis, this.rank + 1, "unsqueeze");
    return this.reshape([...this.shape.slice(0, at), 1, ...this.shape.slice(at)]);
  }

  /** Drops an axis of size 1. */
  squeeze(axis: number): Tensor {
    const at = axisOf(axis, this.rank, "squeeze");
    if (this.shape[at] !== 1) {
      throw new RangeError(`squeeze: axis ${at} of ${show(this.shape)} is not of size 1`);
    }
    return this.reshape(this.shape.filter((_, i) => i !== at));
  }

  /** Equal parts of an axis. */
  split(axis: number, parts: number): Tensor[] {
    const at = axisOf(axis, this.rank, "split");
    const n = this.shape[at]! / parts;
    if (!Number.isInteger(n)) {
      throw new RangeError(`split: axis ${at} of ${show(this.shape)} has no ${parts} equal parts`);
    }
    return Array.from({ length: parts }, (_, i) => this.slice(at, i * n, (i + 1) * n));
  }

  /** Zeros before and after an axis. */
  pad(axis: number, before: number, after: number): Tensor {
    const at = axisOf(axis, this.rank, "pad");
    const zeros = (n: number) =>
      n > 0 ? [constant(0, this.shape.map((m, i) => i === at ? n : m), this.dtype)] : [];
    return concat([...zeros(before), this, ...zeros(after)], at);
  }

  // Reductions.

  #reduce(op: "sum" | "max", axes: Axes | undefined, keep: boolean): Tensor {
    const list = axes === undefined
      ? this.shape.map((_, i) => i)
      : (typeof axes === "number" ? [axes] : axes).map((a) => axisOf(a, this.rank, op));
    const x = this.#arithmetic();
    const kept = x.shape.map((n, i) => list.includes(i) ? 1 : n);
    const real = list.filter((a) => x.shape[a] !== 1).sort((a, b) => a - b);
    const out = real.length === 0
      ? x
      : new Tensor({ op, axes: real }, [x], x.shape.filter((_, i) => !real.includes(i)), x.dtype);
    return out.reshape(keep ? kept : kept.filter((_, i) => !list.includes(i)));
  }

  /** The sum over axes (all by default). */
  sum(axes?: Axes, keep = false): Tensor {
    return this.#reduce("sum", axes, keep);
  }

  /** The mean over axes (all by default), in floats. */
  mean(axes?: Axes, keep = false): Tensor {
    const total = this.cast("f32").sum(axes, keep);
    return total.mul(total.size / this.size);
  }

  /** The largest element over axes (all by default). */
  max(axes?: Axes, keep = false): Tensor {
    return this.#reduce("max", axes, keep);
  }

  /** `e^x / sum(e^x)` along an axis, safe against overflow. */
  softmax(axis = -1): Tensor {
    const e = this.sub(stopGradient(this.max(axis, true))).exp();
    return e.div(e.sum(axis, true));
  }

  // Contractions.

  /** The matrix product over the last two axes; leading axes broadcast. */
  matmul(other: Tensor): Tensor {
    if (this.rank < 2 || other.rank < 2 || this.shape.at(-1) !== other.shape.at(-2)) {
      throw new RangeError(`matmul: ${show(this.shape)} x ${show(other.shape)} do not multiply`);
    }
    checkFloats("matmul", this, other);
    const k = this.shape.at(-1)!;
    const n = other.shape.at(-1)!;
    if (other.rank === 2 && this.rank > 2) {
      // One tall product instead of many small ones.
      return this.reshape([-1, k]).matmul(other).reshape([...this.shape.slice(0, -1), n]);
    }
    const batch = broadcastShape(this.shape.slice(0, -2), other.shape.slice(0, -2), "matmul");
    const m = this.shape.at(-2)!;
    const shape = [...batch, m, n];
    return new Tensor(
      { op: "matmul" },
      [this.expand([...batch, m, k]), other.expand([...batch, k, n])],
      shape,
      "f32",
    );
  }
}

/** One axis or several; negative axes count from the back. */
export type Axes = number | readonly number[];

let realizer: ((tensors: readonly Tensor[]) => Promise<void>) | undefined;

/** Tells tensors how to realise themselves; the scheduler stands above this file. */
export function setRealizer(fn: (tensors: readonly Tensor[]) => Promise<void>): void {
  realizer = fn;
}

/** Contractions multiply floats only. */
function checkFloats(op: string, ...operands: readonly Tensor[]): void {
  for (const { dtype } of operands) {
    if (dtype !== "f32" && dtype !== "f16") {
      throw new TypeError(`${op}: needs f32 or f16 operands, got ${dtype}; cast to f32 first`);
    }
  }
}

/** Bytes that a tensor takes on a device, rounded up to whole words. */
export function byteLength(shape: Shape, dtype: DType): number {
  const width = dtype === "u8" ? 1 : dtype === "f16" ? 2 : 4;
  return Math.ceil(sizeOf(shape) * width / 4) * 4;
}

function widen(data: HostData, dtype: DType): Float32Array | Int32Array | Uint8Array {
  return data instanceof Uint16Array ? decodeF16(data) : dtype === "f32" ? data.slice() : data;
}

/** A tensor of host data. Numbers become f32 unless `dtype` says i32; `Uint16Array` holds f16 bits. */
export function tensor(data: readonly number[] | HostData, shape: Shape, dtype?: DType): Tensor {
  const host = Array.isArray(data)
    ? dtype === "i32"
      ? Int32Array.from(data)
      : dtype === "u8"
      ? Uint8Array.from(data)
      : Float32Array.from(data)
    : data as HostData;
  const natural: DType = host instanceof Float32Array
    ? "f32"
    : host instanceof Int32Array
    ? "i32"
    : host instanceof Uint16Array
    ? "f16"
    : "u8";
  if (dtype && dtype !== natural) {
    throw new TypeError(`tensor: ${host.constructor.name} holds ${natural}, not ${dtype}`);
  }
  if (host.length !== sizeOf(shape)) {
    throw new RangeError(
      `tensor: ${host.length} elements do not fill shape ${show(shape)} (${sizeOf(shape)})`,
    );
  }
  return new Tensor({ op: "host", data: host }, [], shape, natural);
}

/** One value everywhere; takes no memory. */
export function constant(value: number, shape: Shape, dtype: DType = "f32"): Tensor {
  const stored = dtype === "f16" ? Math.f16round(value) : value;
  return new Tensor({ op: "constant", value: stored }, [], shape, dtype);
}

/** Zeros. */
export function zeros(shape: Shape, dtype: DType = "f32"): Tensor {
  return constant(0, shape, dtype);
}

/** Ones. */
export function ones(shape: Shape, dtype: DType = "f32"): Tensor {
  return constant(1, shape, dtype);
}

/** The same value everywhere. */
export function full(shape: Shape, value: number, dtype: DType = "f32"): Tensor {
  return constant(value, shape, dtype);
}

/** Tensors joined along an axis. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  const first = parts[0];
  if (!first) throw new RangeError("concat: no tensors given");
  if (parts.length === 1) return first;
  const at = axisOf(axis, first.rank, "concat");
  for (const part of parts) {
    if (
      part.rank !== first.rank || part.dtype !== first.dtype ||
      part.shape.some((n, i) => i !== at && n !== first.shape[i])
    ) {
      throw new RangeError(
        `concat: ${first.dtype} ${show(first.shape)} and ${part.dtype} ${
          show(part.shape)
        } differ beside axis ${at}`,
      );
    }
  }
  const total = parts.reduce((n, part) => n + part.shape[at]!, 0);
  const shape = first.shape.map((n, i) => i === at ? total : n);
  return new Tensor({ op: "concat", axis: at }, parts, shape, first.dtype);
}

/** `a` where `test` is not zero, else `b`. */
export function where(test: Tensor, a: Operand, b: Operand): Tensor {
  const lift = (x: Operand) => typeof x === "number" ? constant(x, []) : x;
  const [x, y] = [lift(a), lift(b)];
  const shape = broadcastShape(
    test.shape,
    broadcastShape(x.shape, y.shape, "where"),
    "where",
  );
  if (x.dtype !== y.dtype) {
    throw new TypeError(`where: branches are ${x.dtype} and ${y.dtype}; cast one of them`);
  }
  return new Tensor(
    { op: "where" },
    [test.expand(shape), x.expand(shape), y.expand(shape)],
    shape,
    x.dtype,
  );
}

/** `out[i] = table[index[i]]` for a table of one axis and an i32 index of any shape. */
export function take(table: Tensor, index: Tensor): Tensor {
  if (table.rank !== 1 || index.dtype !== "i32") {
    throw new TypeError(
      `take: needs a table of one axis and an i32 index, got ${
        show(table.shape)
      } and ${index.dtype}`,
    );
  }
  const dtype = table.dtype === "f16" ? "f32" : table.dtype === "u8" ? "i32" : table.dtype;
  return new Tensor({ op: "take" }, [table, index], index.shape, dtype);
}

/** Rows of a table [V, C] by i32 ids [...]: [..., C]. */
export function gather(table: Tensor, ids: Tensor): Tensor {
  if (table.rank !== 2) {
    throw new RangeError(`gather: needs a table [rows, width], got ${show(table.shape)}`);
  }
  const width = table.shape[1]!;
  const column = tensor(Int32Array.from({ length: width }, (_, i) => i), [width]);
  return take(table.reshape([-1]), ids.unsqueeze(-1).mul(width).add(column));
}

/** `out[index[j], :] += values[j, :]` in order of j, from zeros: index [count] i32, values [count, width]. */
export function scatterAdd(size: number, index: Tensor, values: Tensor): Tensor {
  if (
    index.rank !== 1 || index.dtype !== "i32" || values.rank !== 2 ||
    values.shape[0] !== index.size
  ) {
    throw new TypeError(
      `scatterAdd: needs an i32 index [n] and values [n, width], got ${index.dtype} ${
        show(index.shape)
      } and ${show(values.shape)}`,
    );
  }
  return new Tensor(
    { op: "scatter" },
    [index, values.cast("f32")],
    [size, values.shape[1]!],
    "f32",
  );
}

/** Zeros around an image: one number for all sides, or [top, bottom, left, right]. */
export type Padding = number | readonly [number, number, number, number];

/** The 2-D convolution (cross-correlation) of x [N, H, W, Ci] with w [kh, kw, Ci, Co]. */
export function conv2d(
  x: Tensor,
  w: Tensor,
  options: { stride?: number; padding?: Padding } = {},
): Tensor {
  const { stride = 1, padding = 0 } = options;
  const [top, bottom, left, right] = typeof padding === "number"
    ? [padding, padding, padding, padding]
    : padding;
  if (x.rank !== 4 || w.rank !== 4 || x.shape[3] !== w.shape[2]) {
    throw new RangeError(
      `conv2d: images ${show(x.shape)} [N, H, W, Ci] and weights ${
        show(w.shape)
      } [kh, kw, Ci, Co] do not fit`,
    );
  }
  checkFloats("conv2d", x, w);
  const [batch, height, width, inChannels] = x.shape as [number, number, number, number];
  const [kernelHeight, kernelWidth, , outChannels] = w.shape as [number, number, number, number];
  const outHeight = Math.floor((height + top + bottom - kernelHeight) / stride) + 1;
  const outWidth = Math.floor((width + left + right - kernelWidth) / stride) + 1;
  if (outHeight < 1 || outWidth < 1) {
    throw new RangeError(
      `conv2d: images ${show(x.shape)} are smaller than the kernel ${show(w.shape)}`,
    );
  }
  return convolve(
    "forward",
    {
      batch,
      height,
      width,
      inChannels,
      outHeight,
      outWidth,
      outChannels,
      kernelHeight,
      kernelWidth,
      stride,
      padTop: top,
      padLeft: left,
    },
    x,
    w,
  );
}

/** One of the three convolutions of a shape; see `ConvKernel` for the operands. */
export function convolve(
  variant: "forward" | "input" | "weight",
  conv: ConvShape,
  a: Tensor,
  b: Tensor,
): Tensor {
  const shape = variant === "forward"
    ? [conv.batch, conv.outHeight, conv.outWidth, conv.outChannels]
    : variant === "input"
    ? [conv.batch, conv.height, conv.width, conv.inChannels]
    : [conv.kernelHeight, conv.kernelWidth, conv.inChannels, conv.outChannels];
  return new Tensor({ op: "conv2d", variant, conv }, [a, b], shape, "f32");
}

/** The same values, through which no gradient flows. */
export function stopGradient(x: Tensor): Tensor {
  return new Tensor({ op: "stopGradient" }, [x], x.shape, x.dtype);
}

/**
 * Runs `block` on `inputs` so that the backward pass computes it again instead of keeping its
 * intermediate values. Weights may be closed over; everything else the block uses must be an input.
 */
export function checkpoint(
  block: (...inputs: Tensor[]) => Tensor[],
  ...inputs: Tensor[]
): Tensor[] {
  const inner = block(...inputs);
  const group = new Tensor({ op: "checkpoint", block, inner }, inputs, [0], "f32");
  return inner.map((y, index) =>
    new Tensor({ op: "project", index }, [group, y], y.shape, y.dtype)
  );
}
