import { createHash } from "node:crypto";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { Json } from "../../lib/diffusion/config.ts";
import { ClipTokenizer, type TokenizerClass } from "../../lib/diffusion/tokenizer.ts";
import { type GoldenCase, goldenCases, goldenPath } from "./golden.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const { model, golden } = goldenCases("tokenizer")[0]!;
const tokenizer = await ClipTokenizer.load(goldenPath(model));

interface Row {
  readonly prompt: string;
  readonly ids: number[];
  readonly unpadded: number[];
  readonly tokenizer_json: number[];
}
const rows: Row[] = JSON.parse(Deno.readTextFileSync(goldenPath(golden))).rows;

/** Writes files of a tokenizer's folder, as JSON what is not text. */
async function tokenizerFolder(name: string, files: Record<string, unknown>): Promise<string> {
  const path = `${folder}/${name}`;
  await Deno.mkdir(path, { recursive: true });
  for (const [file, content] of Object.entries(files)) {
    const text = typeof content === "string" ? content : JSON.stringify(content);
    await Deno.writeTextFile(`${path}/${file}`, text);
  }
  return path;
}

async function gunzip(path: string): Promise<string> {
  using file = await Deno.open(goldenPath(path));
  return await new Response(file.readable.pipeThrough(new DecompressionStream("gzip"))).text();
}

const START = "<|startoftext|>";
const END = "<|endoftext|>";

/** CLIP's tokens in the order of their ids: the bytes, the bytes at a word's end, the merges, the special tokens. */
function clipTokens(merges: string): string[] {
  const visible = (b: number) => b > 32 && b < 127 || b > 160 && b !== 173;
  const bytes = Array.from({ length: 256 }, (_, b) => b);
  const letters = [
    ...bytes.filter(visible).map((b) => String.fromCharCode(b)),
    ...bytes.filter((b) => !visible(b)).map((_, i) => String.fromCharCode(256 + i)),
  ];
  const merged = merges.trim().split("\n").slice(1).map((pair) => pair.replace(" ", ""));
  return [...letters, ...letters.map((letter) => `${letter}</w>`), ...merged, START, END];
}

Deno.test("tokenizer: CLIP's own vocabulary gives transformers' ids on a hard corpus", async (t) => {
  const [real] = goldenCases("clip-tokens") as (GoldenCase & { vocab_sha256: string })[];
  const merges = await gunzip(`${real!.model}/merges.txt.gz`);
  const tokens = clipTokens(merges);
  const digest = createHash("sha256").update(tokens.join("\n")).digest("hex");
  assertEquals(digest, real!.vocab_sha256);
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const { configs, columns, rows }: {
    configs: Record<string, Json>;
    columns: [config: string, kind: TokenizerClass][];
    rows: {
      prompt: string;
      ids: number[][];
      count: number[];
      which: number[];
      young?: { kind: TokenizerClass; reason: string };
    }[];
  } = JSON.parse(await gunzip(real!.golden));
  assert(rows.length > 400);
  assertEquals(rows.filter((row) => row.young).length, 2);
  for (const [column, [config, kind]] of columns.entries()) {
    await t.step(`${kind}, ${config} tokenizer of SDXL`, async () => {
      const path = await tokenizerFolder(config, {
        "vocab.json": vocab,
        "merges.txt": merges,
        "tokenizer_config.json": configs[config],
      });
      const clip = await ClipTokenizer.load(path, kind);
      for (const { prompt, ids, count, which, young } of rows) {
        const row = which[column]!;
        const found = [...clip.encode(prompt, "truncate")];
        // Characters that are younger than the tables of what we compare with.
        if (young?.kind === kind) {
          assert(`${found}` !== `${ids[row]}`, `no longer an exception: ${young.reason}`);
          continue;
        }
        assertEquals(found, ids[row], prompt);
        if (count[row]! <= 77) assertEquals([...clip.encode(prompt)], found);
        else {
          const expected = `the prompt has ${count[row]} tokens, start and end included`;
          assertThrows(() => clip.encode(prompt), RangeError, expected);
        }
      }
    });
  }
  await t.step("a word of a million letters takes seconds", () => {
    const clip = new ClipTokenizer({ vocab, merges, config: {} });
    const begin = performance.now();
    const ids = clip.encode("abcdefghij".repeat(100_000), "truncate");
    assert(performance.now() - begin < 30_000);
    assertEquals(ids, clip.encode("abcdefghij".repeat(100), "truncate"));
  });
});

Deno.test("tokenizer: a small vocabulary gives transformers' ids", () => {
  for (const { prompt, ids } of rows) {
    assertEquals([...tokenizer.encode(prompt, "truncate")], ids, prompt);
  }
  const batch = tokenizer.encodeBatch(rows.map((r) => r.prompt), "truncate");
  assertEquals([batch.count, batch.length], [rows.length, 24]);
  assertEquals([...batch.ids], rows.flatMap((r) => r.ids));
});

Deno.test("tokenizer: tokenizer.json alone gives its library's ids, length and padding", async () => {
  const source = goldenPath("clip/tokenizer-json");
  const json = JSON.parse(await Deno.readTextFile(`${source}/tokenizer.json`));
  // Older files have the pairs as texts.
  json.model.merges = json.model.merges.map((pair: string[]) => pair.join(" "));
  const texts = await tokenizerFolder("texts", { "tokenizer.json": json });
  for (const path of [source, texts]) {
    const alone = await ClipTokenizer.load(path, "CLIPTokenizerFast");
    assertEquals(alone.maxLength, 24);
    for (const { prompt, tokenizer_json: ids } of rows) {
      assertEquals([...alone.encode(prompt, "truncate")], ids, prompt);
    }
    // Its content can be saved in the other form.
    const { vocab, merges, config } = alone.files;
    const again = new ClipTokenizer({ vocab, merges, config }, "copy", "CLIPTokenizerFast");
    assertEquals(again.encode("a cat! <|endoftext|>"), alone.encode("a cat! <|endoftext|>"));
  }
});

/** A vocabulary of two letters. */
const small = {
  vocab: { "a": 0, "a</w>": 1, [START]: 2, [END]: 3, "!": 4, "!</w>": 5 },
  merges: "#version: 0.2\n",
};

Deno.test("tokenizer: without tokenizer_config.json CLIP's settings hold", async () => {
  const { vocab, merges } = small;
  const path = await tokenizerFolder("bare", { "vocab.json": vocab, "merges.txt": merges });
  const bare = await ClipTokenizer.load(path);
  assertEquals([...bare.encode("a!")].slice(0, 6), [2, 1, 5, 3, 3, 3]);
  assertEquals(bare.maxLength, 77);
  // The length that transformers writes when it knows none.
  const unknown = new ClipTokenizer({ ...small, config: { model_max_length: 1e30 } });
  assertEquals(unknown.maxLength, 77);
});

Deno.test("tokenizer: the padding is found where transformers finds it", async () => {
  const padded = async (name: string, files: Record<string, unknown>) => {
    const { vocab, merges } = small;
    const path = await tokenizerFolder(name, {
      "vocab.json": vocab,
      "merges.txt": merges,
      ...files,
    });
    return [...(await ClipTokenizer.load(path)).encode("a!")].slice(0, 5);
  };
  const exclamation = { content: "!", normalized: true, lstrip: false };
  assertEquals(await padded("pad-config", { "tokenizer_config.json": { pad_token: "!" } }), [
    2,
    1,
    4,
    3,
    4,
  ]);
  assertEquals(
    await padded("pad-map", {
      "tokenizer_config.json": { pad_token: END },
      "special_tokens_map.json": { pad_token: exclamation },
    }),
    [2, 1, 4, 3, 4],
  );
  // A configuration that lists its added tokens is newer than the map, which no longer counts.
  assertEquals(
    await padded("pad-new", {
      "tokenizer_config.json": { pad_token: END, added_tokens_decoder: { "3": { content: END } } },
      "special_tokens_map.json": { pad_token: exclamation },
    }),
    [2, 1, 5, 3, 3],
  );
  // A token that was added to the vocabulary, as textual inversion does.
  assertEquals(await padded("added", { "added_tokens.json": { "a!": 9 } }), [2, 9, 3, 3, 3]);
});

Deno.test("tokenizer: a prompt that is too long says so, and shows its beginning only", () => {
  const long = rows.find((row) => row.unpadded.length > 24)!;
  assertThrows(
    () => tokenizer.encode(long.prompt),
    RangeError,
    `the prompt has ${long.unpadded.length} tokens, start and end included; at most 24 fit`,
  );
  const error = assertThrows(() => tokenizer.encode("cat ".repeat(10_000)), RangeError);
  assert(error.message.length < 400);
});

Deno.test("tokenizer: a symbol outside a small vocabulary is named", () => {
  const tiny = new ClipTokenizer({ ...small, config: { model_max_length: 6 } }, "small");
  assertEquals([...tiny.encode("aa a")], [2, 0, 1, 1, 3, 3]);
  assertThrows(() => tiny.encode("a b"), Error, 'no token for "b</w>" in the word "b"');
});

Deno.test("tokenizer: a missing or broken file is named, and what is wrong with it", async () => {
  await assertRejects(
    () => ClipTokenizer.load("/nowhere"),
    Deno.errors.NotFound,
    "no such file: /nowhere/",
  );
  const cases: [files: Record<string, unknown>, message: string][] = [
    [{ "vocab.json": "{" }, "vocab.json is not JSON"],
    [{ "vocab.json": [1] }, "is not a JSON object"],
    [{ "vocab.json": { "a": "0" } }, 'gives the token "a" the id "0"; expected a whole number'],
    [{ "vocab.json": { "a": -1 } }, 'gives the token "a" the id -1'],
    [{ "vocab.json": { "a": 1.5 } }, 'gives the token "a" the id 1.5'],
    [{ "vocab.json": { "a": 7, "b": 7 } }, 'gives the token "b" the id 7, which "a" has already'],
    [{ "vocab.json": { "a": 0 } }, 'has no token "<|startoftext|>" (the bos_token)'],
    [{ "merges.txt": "#version: 0.2\na a</w>\n" }, 'make "aa</w>" of "a a</w>"'],
    [{ "merges.txt": "#version: 0.2\n\na\n" }, "line 3 of the merges of "],
    [{ "merges.txt": "a b c" }, 'is "a b c"; expected two symbols'],
    [{ "tokenizer_config.json": "[]" }, "tokenizer_config.json is not a JSON object"],
    [{ "tokenizer_config.json": { model_max_length: "77" } }, '"model_max_length" is "77"'],
    [{ "tokenizer_config.json": { model_max_length: 1e9 } }, "whole number from 3 to 4096"],
    [{ "tokenizer_config.json": { model_max_length: 2 } }, "whole number from 3 to 4096"],
    [{ "tokenizer_config.json": { pad_token: 3 } }, "has no token 3 (the pad_token)"],
    [{ "tokenizer_config.json": { pad_token: { content: "x" } } }, 'has no token "x"'],
    [
      { "tokenizer_config.json": { eos_token: { content: END, lstrip: true } } },
      'has "lstrip", which this tokenizer does not have',
    ],
    [{ "tokenizer_config.json": { added_tokens_decoder: { x: END } } }, "the added token x has"],
    [{ "added_tokens.json": { x: -5 } }, "the added token -5 has no whole number for its id"],
  ];
  for (const [i, [files, message]] of cases.entries()) {
    const { vocab, merges } = small;
    const path = await tokenizerFolder(`bad-${i}`, {
      "vocab.json": vocab,
      "merges.txt": merges,
      ...files,
    });
    const error = await assertRejects(() => ClipTokenizer.load(path), Error, message);
    assert(error.message.includes(path), error.message);
  }
  const model = { type: "BPE", end_of_word_suffix: "</w>", vocab: small.vocab, merges: [] };
  const jsons: [json: Json, message: string][] = [
    [{}, "is not of a CLIP tokenizer"],
    [{ model: { ...model, type: "WordPiece" } }, "is not of a CLIP tokenizer"],
    [{ model: { ...model, merges: [["a"]] } }, 'merge 0 is ["a"]'],
    [{ model: { ...model, merges: ["a a a"] } }, 'is "a a a"; expected two symbols'],
    [{ model, added_tokens: 3 }, '"added_tokens" is 3; expected a list'],
    [{ model, added_tokens: [{ content: "x" }] }, "the added token undefined"],
    [{ model, truncation: { max_length: -1 } }, '"model_max_length" is -1'],
  ];
  for (const [i, [json, message]] of jsons.entries()) {
    const path = await tokenizerFolder(`bad-json-${i}`, { "tokenizer.json": json });
    await assertRejects(() => ClipTokenizer.load(path), Error, message);
  }
});
