/**
 * A tiny CLIP tokenizer: byte-pair merges trained on the grammar's words until each word is one token.
 *
 * The result is a pair of ordinary `vocab.json` and `merges.txt` files, so the real CLIP tokenizer reads it, here and in
 * other libraries. Words outside the grammar fall apart into letters.
 *
 * @module
 */
import { grammarWords } from "./caption.ts";

/** Tokens of a nano caption, with the two special ones. */
export const MODEL_MAX_LENGTH = 16;

const BOS = "<|startoftext|>";
const EOS = "<|endoftext|>";
const WORD_END = "</w>";
const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];

/**
 * The merges that join every word into one token, in the order of their rank: the most frequent pair first, the first
 * in the alphabet of equally frequent ones. Applying them in this order repeats their training.
 */
export function trainMerges(words: readonly string[]): [string, string][] {
  const pieces = words.map((word) => [...word.slice(0, -1), word.at(-1) + WORD_END]);
  const merges: [string, string][] = [];
  for (;;) {
    const counts = new Map<string, number>();
    for (const word of pieces) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    if (counts.size === 0) return merges;
    const best = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))[0]![0];
    const [left, right] = best.split(" ") as [string, string];
    merges.push([left, right]);
    for (const word of pieces) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, left + right);
      }
    }
  }
}

/**
 * The tokenizer's files by name, as a `tokenizer` folder of a pipeline holds them.
 *
 * The end token has the highest id, which CLIP's pooling relies on; it also pads.
 */
export function tokenizerFiles(): Record<string, string> {
  const merges = trainMerges(grammarWords());
  const tokens = [
    ...LETTERS,
    ...LETTERS.map((letter) => letter + WORD_END),
    // Two merges can give the same token, for example "a"+"bc" and "ab"+"c".
    ...new Set(merges.map((pair) => pair.join(""))),
    BOS,
    EOS,
  ];
  const special = (content: string) => ({
    __type: "AddedToken",
    content,
    lstrip: false,
    normalized: true,
    rstrip: false,
    single_word: false,
  });
  const json = (value: unknown) => JSON.stringify(value, null, 2) + "\n";
  return {
    "vocab.json": json(Object.fromEntries(tokens.map((token, id) => [token, id]))),
    "merges.txt": ["#version: 0.2", ...merges.map((pair) => pair.join(" "))].join("\n") + "\n",
    "tokenizer_config.json": json({
      add_prefix_space: false,
      bos_token: special(BOS),
      do_lower_case: true,
      eos_token: special(EOS),
      errors: "replace",
      model_max_length: MODEL_MAX_LENGTH,
      pad_token: EOS,
      tokenizer_class: "CLIPTokenizer",
      unk_token: special(EOS),
    }),
    "special_tokens_map.json": json({
      bos_token: BOS,
      eos_token: EOS,
      pad_token: EOS,
      unk_token: EOS,
    }),
  };
}
