import { assert, assertEquals } from "@std/assert";
import { allCaptions, captionText, grammarWords } from "../../lib/nano/caption.ts";
import { tokenizerFiles } from "../../lib/nano/tokenizer_files.ts";

const files = tokenizerFiles();
const vocab: Record<string, number> = JSON.parse(files["vocab.json"]!);

/** CLIP's byte-pair encoding of one lower-case word, written independently of the library. */
function encode(word: string): string[] {
  const ranks = new Map(
    files["merges.txt"]!.trim().split("\n").slice(1).map((line, i) => [line, i]),
  );
  let parts = [...word].map((letter, i) => i === word.length - 1 ? letter + "</w>" : letter);
  while (parts.length > 1) {
    const pairs = parts.slice(1).map((right, i) => `${parts[i]} ${right}`);
    const rank = Math.min(...pairs.map((pair) => ranks.get(pair) ?? Infinity));
    if (rank === Infinity) break;
    const best = pairs.find((pair) => ranks.get(pair) === rank)!;
    const next: string[] = [];
    for (let i = 0; i < parts.length; i++) {
      if (pairs[i] === best) next.push(parts[i]! + parts[++i]!);
      else next.push(parts[i]!);
    }
    parts = next;
  }
  return parts;
}

Deno.test("every word of the grammar is one token of the vocabulary", () => {
  for (const word of grammarWords()) {
    assertEquals(encode(word), [word + "</w>"]);
    assert(vocab[word + "</w>"] !== undefined, word);
  }
});

Deno.test("unknown words fall apart into known tokens", () => {
  for (const word of ["cat", "zebra", "squared", "x"]) {
    assertEquals(encode(word).join(""), word + "</w>");
    for (const token of encode(word)) assert(vocab[token] !== undefined, token);
  }
});

Deno.test("ids are dense, the end token is the last, captions fit", () => {
  const ids = Object.values(vocab);
  assertEquals(ids, ids.map((_, i) => i));
  assertEquals(vocab["<|endoftext|>"], ids.length - 1);
  const config = JSON.parse(files["tokenizer_config.json"]!);
  assertEquals(config.model_max_length, 16);
  for (const caption of allCaptions(2)) assert(captionText(caption).split(" ").length + 2 <= 16);
});
