/**
 * Reading a Python pickle without running it. A pickle is a program: it names functions of any module
 * and calls them. This reader knows the opcodes that build plain values (numbers, texts, tuples, lists,
 * dictionaries), and of names only those that its caller hands in; it stops at the first other one
 * and says what it was. It never recurses, and what it can allocate is bounded by the pickle's length.
 *
 * Opcodes are those of protocols 2 to 5 in CPython's `Lib/pickletools.py`.
 *
 * @module
 */

/** What stands for a name of a module: a function where the pickle may call it, else a mark. */
export interface PickleName {
  /** As the pickle gives it, for example `collections.OrderedDict`. */
  readonly name: string;
  /** What a call of it makes; without this, it may only be mentioned. */
  readonly call?: (args: readonly unknown[]) => unknown;
}

/** What a pickle may use, and where it comes from. */
export interface UnpickleOptions {
  /** The pickle's file, for messages. */
  readonly source: string;
  readonly names: readonly PickleName[];
  /** What stands for an object outside the pickle, by its id. */
  readonly persistent: (id: unknown) => unknown;
}

/** More steps than a checkpoint takes by far: a tensor takes about 30. */
const MAX_STEPS = 1_000_000;

/** Opcodes that make objects of classes or call things, with CPython's names. */
const CALLS: Readonly<Record<number, string>> = {
  0x69: "INST",
  0x6f: "OBJ",
  0x81: "NEWOBJ",
  0x82: "EXT1",
  0x83: "EXT2",
  0x84: "EXT4",
  0x92: "NEWOBJ_EX",
};

/**
 * Reads a pickle. Tuples and lists become arrays, dictionaries become maps, integers numbers or, beyond
 * 2^53, bigints.
 *
 * @throws {Error} If the pickle names or calls anything that is not in `names`, with that name; if it is
 * damaged or of another protocol; if it takes more than a million steps.
 */
export function unpickle(bytes: Uint8Array, options: UnpickleOptions): unknown {
  return new Unpickler(bytes, options).run();
}

class Unpickler {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #source: string;
  readonly #names: ReadonlyMap<string, PickleName>;
  readonly #persistent: (id: unknown) => unknown;
  readonly #memo = new Map<number, unknown>();
  readonly #stack: unknown[] = [];
  /** Heights of the stack at which marks lie. */
  readonly #marks: number[] = [];
  #at = 0;

  constructor(bytes: Uint8Array, { source, names, persistent }: UnpickleOptions) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#source = source;
    this.#names = new Map(names.map((known) => [known.name, known]));
    this.#persistent = persistent;
  }

  run(): unknown {
    for (let step = 0; step < MAX_STEPS; step++) {
      const opcode = this.#byte();
      // STOP
      if (opcode === 0x2e) return this.#pop();
      this.#step(opcode);
    }
    throw new Error(
      `${this.#source}: its pickle takes more than ${MAX_STEPS} steps, more than any checkpoint: ` +
        "get the file from a source that you trust",
    );
  }

  #step(opcode: number): void {
    const stack = this.#stack;
    switch (opcode) {
      case 0x80: { // PROTO
        const protocol = this.#byte();
        if (protocol < 2 || protocol > 5) {
          throw new Error(
            `${this.#source}: its pickle has protocol ${protocol}; protocols 2 to 5 are read`,
          );
        }
        return;
      }
      case 0x95: // FRAME: its length is of no use to who has all the bytes
        this.#skip(8);
        return;

      case 0x4e: // NONE
        stack.push(null);
        return;
      case 0x88: // NEWTRUE
        stack.push(true);
        return;
      case 0x89: // NEWFALSE
        stack.push(false);
        return;
      case 0x4b: // BININT1
        stack.push(this.#byte());
        return;
      case 0x4d: // BININT2
        stack.push(this.#view.getUint16(this.#skip(2), true));
        return;
      case 0x4a: // BININT
        stack.push(this.#view.getInt32(this.#skip(4), true));
        return;
      case 0x8a: // LONG1
        stack.push(this.#long(this.#byte()));
        return;
      case 0x47: // BINFLOAT
        stack.push(this.#view.getFloat64(this.#skip(8)));
        return;
      case 0x8c: // SHORT_BINUNICODE
        stack.push(this.#text(this.#byte()));
        return;
      case 0x58: // BINUNICODE
        stack.push(this.#text(this.#view.getUint32(this.#skip(4), true)));
        return;
      case 0x8d: // BINUNICODE8
        stack.push(this.#text(Number(this.#view.getBigUint64(this.#skip(8), true))));
        return;

      case 0x28: // MARK
        this.#marks.push(stack.length);
        return;
      case 0x29: // EMPTY_TUPLE
      case 0x5d: // EMPTY_LIST
        stack.push([]);
        return;
      case 0x7d: // EMPTY_DICT
        stack.push(new Map());
        return;
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        stack.push(Array.from({ length: opcode - 0x84 }, () => this.#pop()).reverse());
        return;
      case 0x74: // TUPLE
        stack.push(this.#popToMark());
        return;
      case 0x61: // APPEND
        this.#append([this.#pop()]);
        return;
      case 0x65: // APPENDS
        this.#append(this.#popToMark());
        return;
      case 0x73: // SETITEM
        this.#setItems([this.#pop(), this.#pop()].reverse());
        return;
      case 0x75: // SETITEMS
        this.#setItems(this.#popToMark());
        return;

      case 0x71: // BINPUT
        this.#memo.set(this.#byte(), this.#top());
        return;
      case 0x72: // LONG_BINPUT
        this.#memo.set(this.#view.getUint32(this.#skip(4), true), this.#top());
        return;
      case 0x94: // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;
      case 0x68: // BINGET
        stack.push(this.#remembered(this.#byte()));
        return;
      case 0x6a: // LONG_BINGET
        stack.push(this.#remembered(this.#view.getUint32(this.#skip(4), true)));
        return;

      case 0x63: // GLOBAL
        stack.push(this.#known(this.#line(), this.#line()));
        return;
      case 0x93: { // STACK_GLOBAL
        const name = this.#pop(), module = this.#pop();
        if (typeof name !== "string" || typeof module !== "string") {
          throw this.#damaged("gives a name that is not a text");
        }
        stack.push(this.#known(module, name));
        return;
      }
      case 0x51: // BINPERSID
        stack.push(this.#persistent(this.#pop()));
        return;
      case 0x52: { // REDUCE
        const args = this.#pop(), callee = this.#pop() as Partial<PickleName> | null;
        if (typeof callee?.name !== "string" || !Array.isArray(args)) {
          throw this.#damaged("calls what cannot be called");
        }
        if (!callee.call) throw this.#refusal(`to call ${JSON.stringify(callee.name)}`);
        stack.push(callee.call(args));
        return;
      }
      case 0x62: { // BUILD
        // An OrderedDict has attributes of its own (PyTorch notes its modules' versions in one), which
        // are no part of its entries. Elsewhere BUILD may run code of the object's class.
        const state = this.#pop();
        if (!(this.#top() instanceof Map) || !(state instanceof Map)) {
          throw this.#refusal("to set the state of an object that is no dictionary (opcode BUILD)");
        }
        return;
      }
    }
    if (opcode === 0x69) {
      const module = this.#line();
      throw this.#refusal(`for ${JSON.stringify(`${module}.${this.#line()}`)} (opcode INST)`);
    }
    const call = CALLS[opcode];
    if (call) throw this.#refusal(`to make an object of a class (opcode ${call})`);
    const hex = opcode.toString(16).padStart(2, "0");
    throw this.#damaged(`has the opcode 0x${hex}, which no checkpoint of tensors needs`);
  }

  /** Moves on by some bytes and returns where they begin. */
  #skip(count: number): number {
    const start = this.#at;
    if (count > this.#bytes.length - start) throw this.#damaged("ends too early");
    this.#at += count;
    return start;
  }

  #byte(): number {
    return this.#bytes[this.#skip(1)]!;
  }

  #text(length: number): string {
    const start = this.#skip(length);
    return new TextDecoder().decode(this.#bytes.subarray(start, start + length));
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.#damaged("ends too early");
    const line = this.#text(end - this.#at);
    this.#skip(1);
    return line;
  }

  /** A little-endian integer in two's complement. */
  #long(length: number): number | bigint {
    const start = this.#skip(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = value << 8n | BigInt(this.#bytes[start + i]!);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #pop(): unknown {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) throw this.#damaged("takes from nothing");
    return this.#stack.pop();
  }

  #top(): unknown {
    const top = this.#pop();
    this.#stack.push(top);
    return top;
  }

  #popToMark(): unknown[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw this.#damaged("lacks a mark");
    return this.#stack.splice(mark);
  }

  #append(items: unknown[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#damaged("appends to what is no list");
    for (const item of items) list.push(item);
  }

  #setItems(items: unknown[]): void {
    const map = this.#top();
    if (!(map instanceof Map) || items.length % 2 !== 0) {
      throw this.#damaged("sets entries of what is no dictionary");
    }
    for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]);
  }

  #remembered(index: number): unknown {
    if (!this.#memo.has(index)) throw this.#damaged(`recalls number ${index}, which it never kept`);
    return this.#memo.get(index);
  }

  #known(module: string, name: string): PickleName {
    const full = `${module}.${name}`;
    const known = this.#names.get(full);
    if (!known) throw this.#refusal(`for ${JSON.stringify(full)}`);
    return known;
  }

  #refusal(what: string): Error {
    return new Error(
      `${this.#source}: its pickle asks ${what}. Tensors, dictionaries and plain values are read, and ` +
        "nothing is run: if you trust the file, load it in PyTorch and save its state_dict alone",
    );
  }

  #damaged(what: string): Error {
    return new Error(
      `${this.#source}: its pickle ${what} (before byte ${this.#at}): it is damaged or no checkpoint of ` +
        "PyTorch; copy or download the file again",
    );
  }
}
