/**
 * CLIP's tokenizer: lower-cased text is cut into words, a word's UTF-8 bytes into symbols, and
 * neighbouring symbols are merged in the order in which training found them (byte-pair encoding).
 * It gives the ids of transformers' `CLIPTokenizer` or `CLIPTokenizerFast`, from either's files.
 *
 * @module
 */
import { mergePairs, parseMerges } from "./byte_pairs.ts";
import { type TokenizerClass, type Word, wordCutter } from "./clip_words.ts";
import {
  parseVocab,
  readTokenizerFiles,
  type TokenizerFiles,
  tokenizerSettings,
} from "./tokenizer_files.ts";

export type { TokenizerClass, TokenizerFiles };

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

/** Turns prompts into token ids. */
export class ClipTokenizer {
  readonly files: TokenizerFiles;
  /** The length that prompts are padded to: 77 for CLIP. */
  readonly maxLength: number;
  /** How many ids there are: the highest and one. */
  readonly size: number;
  readonly #source: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #cut: (text: string) => Iterable<Word>;
  readonly #bytes = byteSymbols();
  readonly #words = new Map<string, readonly number[]>();
  readonly #start: number;
  readonly #end: number;
  readonly #pad: number;

  /**
   * @param files The files' content.
   * @param source Their folder, for messages.
   * @param kind Which of transformers' classes to follow.
   * @throws {Error} When a file lacks what it must have.
   */
  constructor(
    files: TokenizerFiles,
    source = "the tokenizer",
    kind: TokenizerClass = "CLIPTokenizer",
  ) {
    this.files = files;
    this.#source = source;
    this.#vocab = parseVocab(files.vocab, source);
    this.#ranks = parseMerges(files.merges, source);
    for (const pair of this.#ranks.keys()) {
      const merged = pair.replace(" ", "");
      if (this.#vocab.has(merged)) continue;
      throw new Error(
        `the merges of ${source} make "${merged}" of "${pair}", which its vocabulary lacks: ` +
          `the two are not of one tokenizer`,
      );
    }
    const settings = tokenizerSettings(files.config, this.#vocab, source);
    this.maxLength = settings.maxLength;
    this.size = [...this.#vocab.values(), ...settings.added.map(({ id }) => id)]
      .reduce((a, b) => Math.max(a, b)) + 1;
    this.#start = settings.start;
    this.#end = settings.end;
    this.#pad = settings.pad;
    this.#cut = wordCutter(kind, settings.added);
  }

  /**
   * Reads a tokenizer's folder: `vocab.json` and `merges.txt`, or `tokenizer.json`.
   *
   * @param kind Which of transformers' classes to follow: pipelines name theirs in
   * `model_index.json`, processors take the fast one.
   * @throws {Error} When a file is missing or broken, with its name.
   */
  static async load(
    folder: string,
    kind: TokenizerClass = "CLIPTokenizer",
  ): Promise<ClipTokenizer> {
    return new ClipTokenizer(await readTokenizerFiles(folder, kind), folder, kind);
  }

  /**
   * Encodes a prompt: start token, its tokens, end token, padding.
   *
   * @param overlong Whether a prompt over `maxLength` tokens is an error or loses its end.
   * @returns `maxLength` ids.
   * @throws {RangeError} When the prompt is too long; {@linkcode Error} when a word is not in the vocabulary.
   */
  encode(prompt: string, overlong: Overlong = "error"): Int32Array {
    const room = this.maxLength - 2;
    const ids = new Int32Array(this.maxLength).fill(this.#pad);
    ids[0] = this.#start;
    let count = 0;
    for (const word of this.#cut(prompt)) {
      if (count >= room && overlong === "truncate") break;
      for (const id of typeof word === "number" ? [word] : this.#word(word)) {
        if (count++ < room) ids[count] = id;
      }
    }
    if (count > room && overlong === "error") {
      const shown = prompt.length > 200 ? `${prompt.slice(0, 200)}...` : prompt;
      throw new RangeError(
        `the prompt has ${count + 2} tokens, start and end included; at most ` +
          `${this.maxLength} fit: shorten it (or truncate it): "${shown}"`,
      );
    }
    ids[Math.min(count, room) + 1] = this.#end;
    return ids;
  }

  /** Whether a prompt keeps its end: whether it has no more than `maxLength` tokens. */
  fits(prompt: string): boolean {
    let room = this.maxLength - 2;
    for (const word of this.#cut(prompt)) {
      room -= typeof word === "number" ? 1 : this.#word(word).length;
      if (room < 0) return false;
    }
    return true;
  }

  /** Encodes prompts one below the other. */
  encodeBatch(prompts: readonly string[], overlong: Overlong = "error"): TokenBatch {
    const ids = new Int32Array(prompts.length * this.maxLength);
    prompts.forEach((prompt, i) => ids.set(this.encode(prompt, overlong), i * this.maxLength));
    return { ids, count: prompts.length, length: this.maxLength };
  }

  /** The ids of one word, remembered. */
  #word(word: string): readonly number[] {
    let ids = this.#words.get(word);
    if (!ids) {
      ids = this.#symbols(word).map((symbol) => {
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

  #symbols(word: string): string[] {
    if (word === "<|startoftext|>" || word === "<|endoftext|>") return [word];
    const symbols = Array.from(new TextEncoder().encode(word), (byte) => this.#bytes[byte]!);
    symbols[symbols.length - 1] += WORD_END;
    return mergePairs(symbols, this.#ranks);
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
