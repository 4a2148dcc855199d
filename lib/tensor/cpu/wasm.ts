/**
 * A small WebAssembly assembler: just the instructions that the kernels use.
 *
 * @module
 */

/** Value types. */
export const I32 = 0x7f;
/** 128-bit vectors. */
export const V128 = 0x7b;

/** A local variable of the function being written. */
export type Local = number;

function unsigned(n: number): number[] {
  const bytes: number[] = [];
  let rest = n >>> 0;
  do {
    const low = rest & 0x7f;
    rest >>>= 7;
    bytes.push(rest ? low | 0x80 : low);
  } while (rest);
  return bytes;
}

function signed(n: number): number[] {
  const bytes: number[] = [];
  let rest = n | 0;
  for (;;) {
    const low = rest & 0x7f;
    rest >>= 7;
    const done = (rest === 0 && !(low & 0x40)) || (rest === -1 && !!(low & 0x40));
    bytes.push(done ? low : low | 0x80);
    if (done) return bytes;
  }
}

/** SIMD instructions without an immediate: opcode after the 0xfd prefix. */
const SIMD = {
  "i32x4.splat": 17,
  "f32x4.splat": 19,
  "v128.not": 77,
  "v128.and": 78,
  "v128.andnot": 79,
  "v128.or": 80,
  "v128.xor": 81,
  "v128.bitselect": 82,
  "i16x8.extend_low_i8x16_u": 137,
  "i32x4.extend_low_i16x8_u": 169,
  "i32x4.eq": 55,
  "i32x4.ne": 56,
  "i32x4.lt_s": 57,
  "i32x4.gt_s": 59,
  "i32x4.shl": 171,
  "i32x4.shr_s": 172,
  "i32x4.shr_u": 173,
  "i32x4.add": 174,
  "i32x4.sub": 177,
  "i32x4.mul": 181,
  "i32x4.min_s": 182,
  "i32x4.max_s": 184,
  "i32x4.neg": 161,
  "i32x4.abs": 160,
  "f32x4.eq": 65,
  "f32x4.ne": 66,
  "f32x4.lt": 67,
  "f32x4.gt": 68,
  "f32x4.abs": 224,
  "f32x4.neg": 225,
  "f32x4.sqrt": 227,
  "f32x4.floor": 104,
  "f32x4.nearest": 106,
  "f32x4.add": 228,
  "f32x4.sub": 229,
  "f32x4.mul": 230,
  "f32x4.div": 231,
  "f32x4.min": 232,
  "f32x4.max": 233,
  "f32x4.pmin": 234,
  "f32x4.pmax": 235,
  "i32x4.relaxed_trunc_f32x4_s": 0x101,
  "i32x4.trunc_sat_f32x4_s": 248,
  "f32x4.convert_i32x4_s": 250,
  "f32x4.relaxed_madd": 0x105,
} as const;

/** Loads and stores: opcode after the prefix (SIMD) or plain, and the natural alignment. */
const MEMORY = {
  "i32.load": [0x28, 2],
  "i32.load8_u": [0x2d, 0],
  "i32.load16_u": [0x2f, 1],
  "i32.store": [0x36, 2],
  "i32.store8": [0x3a, 0],
  "i32.store16": [0x3b, 1],
  "v128.load": [0xfd, 0, 4],
  "v128.load32_splat": [0xfd, 9, 2],
  "v128.load32_zero": [0xfd, 92, 2],
  "v128.load64_zero": [0xfd, 93, 3],
  "v128.store": [0xfd, 11, 4],
} as const;

const PLAIN = {
  "i32.eqz": 0x45,
  "i32.eq": 0x46,
  "i32.ne": 0x47,
  "i32.lt_s": 0x48,
  "i32.lt_u": 0x49,
  "i32.gt_s": 0x4a,
  "i32.le_s": 0x4c,
  "i32.ge_s": 0x4e,
  "i32.add": 0x6a,
  "i32.sub": 0x6b,
  "i32.mul": 0x6c,
  "i32.div_u": 0x6e,
  "i32.rem_u": 0x70,
  "i32.and": 0x71,
  "i32.or": 0x72,
  "i32.shl": 0x74,
  "i32.shr_u": 0x76,
  select: 0x1b,
  drop: 0x1a,
  return: 0x0f,
} as const;

/** An instruction without an immediate. */
export type Plain = keyof typeof SIMD | keyof typeof PLAIN;
/** An instruction that reads or writes memory. */
export type Access = keyof typeof MEMORY;

/** A function being written: a stack machine's code, one method per kind of instruction. */
export class Code {
  readonly #bytes: number[] = [];
  readonly #locals: number[] = [];
  readonly #constants = new Map<string, { readonly bytes: number[]; readonly local: Local }>();
  readonly #params: number;

  /** @param params How many i32 parameters the function takes; they are locals 0, 1, ... */
  constructor(params: number) {
    this.#params = params;
  }

  /** A new local variable. */
  local(type: number): Local {
    return this.#params + this.#locals.push(type) - 1;
  }

  get(local: Local): this {
    this.#bytes.push(0x20, ...unsigned(local));
    return this;
  }

  set(local: Local): this {
    this.#bytes.push(0x21, ...unsigned(local));
    return this;
  }

  tee(local: Local): this {
    this.#bytes.push(0x22, ...unsigned(local));
    return this;
  }

  i32(value: number): this {
    this.#bytes.push(0x41, ...signed(value));
    return this;
  }

  /** A vector constant, from a local that is set once: V8 would build it anew at every use. */
  #constant(bytes: Uint8Array): this {
    const key = bytes.join();
    const found = this.#constants.get(key) ?? { bytes: [...bytes], local: this.local(V128) };
    this.#constants.set(key, found);
    return this.get(found.local);
  }

  /** The same f32 in all lanes. */
  f32x4(value: number): this {
    return this.#constant(new Uint8Array(new Float32Array(4).fill(value).buffer));
  }

  /** The same i32 in all lanes. */
  i32x4(value: number): this {
    return this.#constant(new Uint8Array(new Int32Array(4).fill(value).buffer));
  }

  /** Four i32 lanes. */
  lanes(a: number, b: number, c: number, d: number): this {
    this.#bytes.push(0xfd, 12, ...new Uint8Array(Int32Array.of(a, b, c, d).buffer));
    return this;
  }

  op(name: Plain): this {
    if (name in SIMD) this.#bytes.push(0xfd, ...unsigned(SIMD[name as keyof typeof SIMD]));
    else this.#bytes.push(PLAIN[name as keyof typeof PLAIN]);
    return this;
  }

  memory(name: Access, offset = 0): this {
    const [prefix, ...rest] = MEMORY[name];
    if (rest.length === 2) this.#bytes.push(prefix, ...unsigned(rest[0]), rest[1]);
    else this.#bytes.push(prefix, rest[0]!);
    this.#bytes.push(...unsigned(offset));
    return this;
  }

  /** `[address, vector] -> [vector]`: lane `lane` from memory. */
  loadLane32(lane: number, offset = 0): this {
    this.#bytes.push(0xfd, 86, 2, ...unsigned(offset), lane);
    return this;
  }

  /** `[address, vector] -> []`: lane `lane` to memory. */
  storeLane32(lane: number, offset = 0): this {
    this.#bytes.push(0xfd, 90, 2, ...unsigned(offset), lane);
    return this;
  }

  /** `[vector] -> [i32]`. */
  extractI32(lane: number): this {
    this.#bytes.push(0xfd, 27, lane);
    return this;
  }

  /** `[vector, i32] -> [vector]`. */
  replaceI32(lane: number): this {
    this.#bytes.push(0xfd, 28, lane);
    return this;
  }

  /** `[a, b] -> [vector]` of four 32-bit lanes picked from a (0..3) and b (4..7). */
  shuffle32(...lanes: [number, number, number, number]): this {
    this.#bytes.push(0xfd, 13, ...lanes.flatMap((l) => [4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3]));
    return this;
  }

  /** Adds a constant to an i32 local. */
  bump(local: Local, by: number): this {
    return by === 0 ? this : this.get(local).i32(by).op("i32.add").set(local);
  }

  /** `block { body }`; `br(0)` inside leaves it. */
  block(body: () => void): this {
    this.#bytes.push(0x02, 0x40);
    body();
    this.#bytes.push(0x0b);
    return this;
  }

  /** `loop { body }`; `br(0)` inside starts it again. */
  loop(body: () => void): this {
    this.#bytes.push(0x03, 0x40);
    body();
    this.#bytes.push(0x0b);
    return this;
  }

  /** `[condition] -> []`. */
  if(then: () => void, otherwise?: () => void): this {
    this.#bytes.push(0x04, 0x40);
    then();
    if (otherwise) {
      this.#bytes.push(0x05);
      otherwise();
    }
    this.#bytes.push(0x0b);
    return this;
  }

  br(depth: number): this {
    this.#bytes.push(0x0c, ...unsigned(depth));
    return this;
  }

  brIf(depth: number): this {
    this.#bytes.push(0x0d, ...unsigned(depth));
    return this;
  }

  call(index: number): this {
    this.#bytes.push(0x10, ...unsigned(index));
    return this;
  }

  /** `for (; i < end; i += step) body`, `end` being a local or a constant. */
  for(i: Local, end: { local: Local } | number, step: number, body: () => void): this {
    const test = () => {
      this.get(i);
      if (typeof end === "number") this.i32(end);
      else this.get(end.local);
      this.op("i32.lt_s");
    };
    test();
    return this.if(() =>
      this.loop(() => {
        body();
        this.bump(i, step);
        test();
        this.brIf(0);
      })
    );
  }

  /** The function's body with its locals, as the code section wants it. */
  body(): number[] {
    const groups: [number, number][] = [];
    for (const type of this.#locals) {
      const last = groups.at(-1);
      if (last?.[1] === type) last[0]++;
      else groups.push([1, type]);
    }
    const locals = groups.flatMap(([n, type]) => [...unsigned(n), type]);
    const constants = [...this.#constants.values()].flatMap(({ bytes, local }) => [
      ...[0xfd, 12, ...bytes],
      ...[0x21, ...unsigned(local)],
    ]);
    return [...unsigned(groups.length), ...locals, ...constants, ...this.#bytes, 0x0b];
  }
}

/**
 * A module that imports the shared memory as `env.memory` and exports the last function as `run`.
 *
 * @param functions Each with its number of i32 parameters; none returns a value.
 */
export function assemble(
  functions: readonly { params: number; code: Code }[],
): Uint8Array<ArrayBuffer> {
  const section = (id: number, content: number[]) => [id, ...unsigned(content.length), ...content];
  const vector = (items: number[][]) => [...unsigned(items.length), ...items.flat()];
  const name = (text: string) => [
    ...unsigned(text.length),
    ...[...text].map((c) => c.charCodeAt(0)),
  ];
  const types = functions.map(({ params }) => [
    0x60,
    ...unsigned(params),
    ...new Array<number>(params).fill(I32),
    0,
  ]);
  const bodies = functions.map(({ code }) => {
    const body = code.body();
    return unsigned(body.length).concat(body);
  });
  const parts = [
    [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    section(1, vector(types)),
    section(2, vector([[...name("env"), ...name("memory"), 2, 3, 1, ...unsigned(65536)]])),
    section(3, vector(functions.map((_, i) => unsigned(i)))),
    section(7, vector([[...name("run"), 0, ...unsigned(functions.length - 1)]])),
    section(10, vector(bodies)),
  ];
  return new Uint8Array(parts.flat());
}

/** Whether the engine here has relaxed SIMD's fused multiply-add. */
export const hasRelaxedSimd: boolean = WebAssembly.validate(
  assembleProbe((code) => code.f32x4(1).f32x4(1).f32x4(1).op("f32x4.relaxed_madd").op("drop")),
);

function assembleProbe(write: (code: Code) => void): Uint8Array<ArrayBuffer> {
  const code = new Code(0);
  write(code);
  return assemble([{ params: 0, code }]);
}
