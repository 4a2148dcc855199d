/**
 * One compute shader under construction: its buffer bindings, how each storage type is loaded and
 * stored, and the dispatch it becomes.
 *
 * Buffers are bound as arrays of 32-bit words. `f16` and `u8` elements are unpacked from words by
 * shifts, which needs no optional feature of the device. Binding 0 is the output, the only one that
 * is written; names of kernels and numbers of slots stay out of the text, so equal kernels share a
 * pipeline.
 *
 * @module
 */
import type { Access, DType } from "../kernel.ts";
import { helpersOf } from "./expression.ts";

/** Threads of a workgroup, for kernels that do not choose otherwise. */
export const THREADS = 256;

/** A dimension of a dispatch holds no more workgroups than this on any device. */
const MAX_GRID = 65535;

/** One shader to run: text, the slots of its bindings (the output first) and its grid. */
export interface Dispatch {
  readonly label: string;
  readonly code: string;
  readonly slots: readonly number[];
  readonly grid: readonly [number, number];
}

/** How the output's elements are stored. */
export type StoreMode =
  /** One 32-bit word per element. */
  | "element"
  /** Threads own whole words of packed elements and assemble them. */
  | "word"
  /** Threads own packed elements and exchange their bits atomically. */
  | "bits";

/** The type that loads of a storage type give. */
export function valueType(dtype: DType): "f32" | "i32" {
  return dtype === "f32" || dtype === "f16" ? "f32" : "i32";
}

/** `value` of type `from` as an expression of type `to`. */
export function convert(value: string, from: "f32" | "i32", to: "f32" | "i32"): string {
  return from === to ? value : `${to}(${value})`;
}

/** Indents and joins statements. */
export function block(lines: readonly string[], indent = "  "): string {
  return lines.map((line) => `${indent}${line}\n`).join("");
}

/** Splits a number of workgroups over two dimensions. */
export function fold(groups: number): readonly [number, number] {
  const rows = Math.ceil(groups / MAX_GRID);
  return [Math.ceil(groups / rows), rows];
}

/** A compute shader under construction. */
export class Shader {
  readonly #output: Access;
  readonly #mode: StoreMode;
  readonly #slots: number[];
  readonly #types: string[];

  constructor(output: Access, mode?: StoreMode) {
    const packed = output.dtype === "f16" || output.dtype === "u8";
    this.#output = output;
    this.#mode = mode ?? (packed ? "bits" : "element");
    this.#slots = [output.slot];
    this.#types = [
      this.#mode === "element" ? output.dtype : this.#mode === "word" ? "u32" : "atomic<u32>",
    ];
  }

  /** The value of element `index` (a u32 name or literal) of the buffer that `access` walks. */
  load(access: Access, index: string): string {
    const { dtype, slot } = access;
    if (slot === this.#slots[0]) {
      // In place: the output's own binding is the only one that may name this buffer.
      const word = (at: string) => this.#mode === "bits" ? `atomicLoad(&b0[${at}])` : `b0[${at}]`;
      if (dtype !== this.#output.dtype) {
        throw new TypeError(
          `A kernel reads its own output slot ${slot} as ${dtype} but writes it as ` +
            `${this.#output.dtype}; write to another slot.`,
        );
      }
      return unpack(dtype, word, index);
    }
    const type = dtype === "f16" || dtype === "u8" ? "u32" : dtype;
    let binding = this.#slots.findIndex((s, i) => i > 0 && s === slot && this.#types[i] === type);
    if (binding < 0) {
      binding = this.#slots.push(slot) - 1;
      this.#types.push(type);
    }
    return unpack(dtype, (at) => `b${binding}[${at}]`, index);
  }

  /** A statement that stores `value` (of type `type`) as element `index` of the output. */
  store(index: string, value: string, type: "f32" | "i32"): string {
    const { dtype } = this.#output;
    const converted = convert(value, type, valueType(dtype));
    if (this.#mode === "element") return `b0[${index}] = ${converted};`;
    return `put_bits(${index}, ${packed(dtype, converted)});`;
  }

  /** A statement that stores whole word `index` of a packed output from its elements' values. */
  storeWord(index: string, values: readonly string[], type: "f32" | "i32"): string {
    const { dtype } = this.#output;
    const width = dtype === "f16" ? 16 : 8;
    const parts = values.map((value, i) =>
      `(${packed(dtype, convert(value, type, valueType(dtype)))} << ${i * width}u)`
    );
    return `b0[${index}] = ${parts.join(" | ")};`;
  }

  /**
   * Finishes the shader.
   *
   * @param label The kernel's name, for messages.
   * @param groups Number of workgroups; `main` finds its own in the u32 `group`.
   * @param threads Threads per workgroup; `main` finds its own in the u32 `lane`.
   * @param main Statements of the entry point.
   * @param declarations Workgroup variables and functions.
   */
  finish(
    label: string,
    groups: number,
    threads: number,
    main: readonly string[],
    declarations = "",
  ): Dispatch {
    const grid = fold(groups);
    const bindings = this.#types.map((type, i) =>
      `@group(0) @binding(${i}) var<storage, ${i === 0 ? "read_write" : "read"}> b${i}: ` +
      `array<${type}>;\n`
    ).join("");
    const spare = grid[0] * grid[1] > groups ? [`if (group >= ${groups}u) { return; }`] : [];
    const entry = `@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let group = ${grid[1] === 1 ? "id.x" : `id.y * ${grid[0]}u + id.x`};
${block([...spare, ...main])}}
`;
    const body = `${declarations}${entry}`;
    const put = body.includes("put_bits(") ? this.#putBits() : "";
    return {
      label,
      code: `${bindings}${helpersOf(put + body)}${put}${body}`,
      slots: this.#slots,
      grid,
    };
  }

  #putBits(): string {
    const [shift, mask, scale] = this.#output.dtype === "f16" ? [1, "0xffffu", 4] : [2, "0xffu", 3];
    return `fn put_bits(i: u32, bits: u32) {
  let shift = (i & ${(1 << shift) - 1}u) << ${scale}u;
  atomicAnd(&b0[i >> ${shift}u], ~(${mask} << shift));
  atomicOr(&b0[i >> ${shift}u], bits << shift);
}
`;
  }
}

function unpack(dtype: DType, word: (at: string) => string, index: string): string {
  switch (dtype) {
    case "f32":
    case "i32":
      return word(index);
    case "f16":
      return `unpack2x16float(${word(`(${index}) >> 1u`)} >> (((${index}) & 1u) << 4u)).x`;
    case "u8":
      return `i32((${word(`(${index}) >> 2u`)} >> (((${index}) & 3u) << 3u)) & 255u)`;
  }
}

function packed(dtype: DType, value: string): string {
  return dtype === "f16" ? `f16_bits(${value})` : `(u32(${value}) & 255u)`;
}
