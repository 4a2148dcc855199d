/**
 * CLIP's tokenizer: lower-cased text is cut into words, a word's UTF-8 bytes into symbols, and
 * neighbouring symbols are merged in the order in which training found them (byte-pair encoding).
 * It reads the files of transformers' `CLIPTokenizer`.
 *
 * @module
 */
import { type Json, readJson } from "./config.ts";

const WORDS =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/giu;

/** Marks the symbol that ends a word. */
const WORD_END = "</w>";

/** What to do with a prompt that is too long. */
export type Overlong = "error" | "truncate";

/** Token ids of some prompts, padded to one length. */
export interface TokenBatch {
  /** `count` rows of `length` ids. */
  readonly ids: Int32Array;
  readonly count: number;
  readonly length: number;
}

/** The content of a tokenizer's files. */
export interface TokenizerFiles {
  /** `vocab.json` */
  readonly vocab: Readonly<Record<string, number>>;
  /** `merges.txt` */
  readonly merges: string;
  /** `tokenizer_config.json` */
  readonly config: Json;
}

/** Turns prompts into token ids. */
export class ClipTokenizer {
  readonly files: TokenizerFiles;
  /** The length that prompts are padded to: 77 for CLIP. */
  readonly maxLength: number;
  readonly #source: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #bytes = byteSymbols();
  readonly #words = new Map<string, readonly number[]>();
  readonly #start: number;
  readonly #end: number;
  readonly #pad: number;

  /**
   * @param files The files' content.
   * @param source Their folder, for messages.
   * @throws {Error} When a file lacks what it must have.
   */
  constructor(files: TokenizerFiles, source = "the tokenizer") {
    this.files = files;
    this.#source = source;
    this.#vocab = new Map(Object.entries(files.vocab));
    const lines = files.merges.split("\n").filter((line) => line.trim() !== "");
    if (lines[0]?.startsWith("#version")) lines.shift();
    this.#ranks = new Map(lines.map((line, rank) => [line.trim(), rank]));
    const length = files.config.model_max_length;
    if (typeof length !== "number") {
      throw new Error(`${source}/tokenizer_config.json has no number "model_max_length"`);
    }
    this.maxLength = length;
    this.#start = this.#special("bos_token", "<|startoftext|>");
    this.#end = this.#special("eos_token", "<|endoftext|>");
    this.#pad = this.#special("pad_token", "<|endoftext|>");
  }

  /**
   * Reads `vocab.json`, `merges.txt` and `tokenizer_config.json` of a folder.
   *
   * @throws {Error} When one is missing or broken, with its name.
   */
  static async load(folder: string): Promise<ClipTokenizer> {
    const [vocab, config] = await Promise.all([
      readJson(`${folder}/vocab.json`),
      readJson(`${folder}/tokenizer_config.json`),
    ]);
    let merges: string;
    try {
      merges = await Deno.readTextFile(`${folder}/merges.txt`);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      throw new Deno.errors.NotFound(`no such file: ${folder}/merges.txt`);
    }
    return new ClipTokenizer({ vocab: vocab as Record<string, number>, merges, config }, folder);
  }

  /**
   * Encodes a prompt: start token, its tokens, end token, padding.
   *
   * @param overlong Whether a prompt over `maxLength` tokens is an error or loses its end.
   * @returns `maxLength` ids.
   * @throws {RangeError} When the prompt is too long; {@linkcode Error} when a word is not in the vocabulary.
   */
  encode(prompt: string, overlong: Overlong = "error"): Int32Array {
    const text = prompt.normalize("NFC").replace(/\s+/g, " ").toLowerCase();
    let tokens = [...text.matchAll(WORDS)].flatMap(([word]) => this.#word(word));
    const room = this.maxLength - 2;
    if (tokens.length > room) {
      if (overlong === "error") {
        throw new RangeError(
          `the prompt has ${tokens.length + 2} tokens, start and end included; at most ` +
            `${this.maxLength} fit: shorten it (or truncate it): "${prompt}"`,
        );
      }
      tokens = tokens.slice(0, room);
    }
    const ids = new Int32Array(this.maxLength).fill(this.#pad);
    ids.set([this.#start, ...tokens, this.#end]);
    return ids;
  }

  /** Encodes prompts one below the other. */
  encodeBatch(prompts: readonly string[], overlong: Overlong = "error"): TokenBatch {
    const ids = new Int32Array(prompts.length * this.maxLength);
    prompts.forEach((prompt, i) => ids.set(this.encode(prompt, overlong), i * this.maxLength));
    return { ids, count: prompts.length, length: this.maxLength };
  }

  #special(key: string, fallback: string): number {
    const value = this.files.config[key] ?? fallback;
    const content = typeof value === "string" ? value : (value as { content: string }).content;
    const id = this.#vocab.get(content);
    if (id === undefined) {
      throw new Error(`${this.#source}/vocab.json has no token "${content}" (the ${key})`);
    }
    return id;
  }

  /** The ids of one word, remembered. */
  #word(word: string): readonly number[] {
    let ids = this.#words.get(word);
    if (!ids) {
      ids = this.#merge(word).map((symbol) => {
        const id = this.#vocab.get(symbol);
        if (id === undefined) {
          throw new Error(
            `the vocabulary of ${this.#source} has no token for "${symbol}" in the word "${word}"`,
          );
        }
        return id;
      });
      this.#words.set(word, ids);
    }
    return ids;
  }

  /** Merges a word's symbols, the pair that training found first each time. */
  #merge(word: string): string[] {
    if (word === "<|startoftext|>" || word === "<|endoftext|>") return [word];
    let symbols = Array.from(new TextEncoder().encode(word), (byte) => this.#bytes[byte]!);
    symbols[symbols.length - 1] += WORD_END;
    for (;;) {
      let best = Infinity;
      for (let i = 0; i + 1 < symbols.length; i++) {
        best = Math.min(best, this.#ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity);
      }
      if (best === Infinity) return symbols;
      const merged: string[] = [];
      for (let i = 0; i < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        if (i + 1 < symbols.length && this.#ranks.get(pair) === best) {
          merged.push(symbols[i]! + symbols[++i]!);
        } else {
          merged.push(symbols[i]!);
        }
      }
      symbols = merged;
    }
  }
}

/**
 * GPT-2's printable stand-in for each byte: the visible Latin-1 characters stand for themselves, the
 * other bytes for the characters from U+0100 on.
 */
function byteSymbols(): string[] {
  const visible = (b: number) => (b >= 33 && b <= 126) || (b >= 161 && b !== 173);
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCharCode(visible(b) ? b : next++));
}
