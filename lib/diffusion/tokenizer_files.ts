/**
 * The files of a CLIP tokenizer's folder. Of transformers' two forms, `vocab.json` with `merges.txt`
 * and the one file `tokenizer.json`, either becomes the first; what the other files say of special
 * tokens goes where transformers would find it.
 *
 * @module
 */
import type { AddedToken, TokenizerClass } from "./clip_words.ts";
import { type Json, readJson } from "./config.ts";

/** The content of a tokenizer's files. */
export interface TokenizerFiles {
  /** `vocab.json` */
  readonly vocab: Readonly<Record<string, number>>;
  /** `merges.txt` */
  readonly merges: string;
  /** `tokenizer_config.json` */
  readonly config: Json;
}

/** CLIP's own length, for folders that do not say. */
const CLIP_LENGTH = 77;
/** Beyond this transformers means "not known". */
const UNKNOWN_LENGTH = 1e20;
const LONGEST = 4096;

/**
 * Reads a tokenizer's folder: `vocab.json` and `merges.txt`, or `tokenizer.json`; and, as far as they
 * are there, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
 *
 * @param folder The folder.
 * @param kind The class to be loaded: `CLIPTokenizerFast` prefers `tokenizer.json`, `CLIPTokenizer`
 * the other two.
 * @throws {Error} When a file is missing or broken, with its name.
 */
export async function readTokenizerFiles(
  folder: string,
  kind: TokenizerClass,
): Promise<TokenizerFiles> {
  const config = await optionalJson(`${folder}/tokenizer_config.json`) ?? {};
  const fast = `${folder}/tokenizer.json`;
  const pair = await Promise.all([exists(`${folder}/vocab.json`), exists(`${folder}/merges.txt`)]);
  const complete = !pair.includes(false);
  const files = await exists(fast) && (kind === "CLIPTokenizerFast" || !complete)
    ? fromTokenizerJson(await readJson(fast), fast)
    : {
      vocab: await readJson(`${folder}/vocab.json`) as Record<string, number>,
      merges: await readText(`${folder}/merges.txt`),
      config: {},
    };
  if (config.added_tokens_decoder !== undefined) {
    return { ...files, config: { ...files.config, ...config } };
  }
  // Configurations from before transformers wrote "added_tokens_decoder" yield to these two files.
  const special = await optionalJson(`${folder}/special_tokens_map.json`);
  const added = await optionalJson(`${folder}/added_tokens.json`);
  const decoder = added &&
    Object.fromEntries(Object.entries(added).map(([content, id]) => [`${id}`, { content }]));
  return {
    ...files,
    config: {
      ...files.config,
      ...config,
      ...special,
      ...decoder && { added_tokens_decoder: decoder },
    },
  };
}

/** Brings the file of Hugging Face's `tokenizers` library into the form of `vocab.json` and the rest. */
function fromTokenizerJson(json: Json, path: string): TokenizerFiles {
  const model = json.model as Json | undefined;
  const { type, vocab, merges, end_of_word_suffix: end } = model ?? {};
  if ((type ?? "BPE") !== "BPE" || end !== "</w>" || !isObject(vocab) || !Array.isArray(merges)) {
    throw new Error(
      `${path} is not of a CLIP tokenizer: expected a "model" with "type" BPE, ` +
        `"end_of_word_suffix" </w>, "vocab" and "merges"`,
    );
  }
  const lines = merges.map((merge, i) => {
    if (typeof merge === "string") return merge;
    if (Array.isArray(merge) && merge.length === 2) return merge.join(" ");
    throw new Error(
      `${path}: merge ${i} is ${JSON.stringify(merge)}; expected two symbols, ` +
        `as one text or a list`,
    );
  });
  const added = json.added_tokens ?? [];
  if (!Array.isArray(added) || !added.every(isObject)) {
    throw new Error(
      `${path}: "added_tokens" is ${JSON.stringify(added)}; expected a list of tokens`,
    );
  }
  const padding = json.padding as Json | null | undefined;
  const truncation = json.truncation as Json | null | undefined;
  return {
    vocab: vocab as Record<string, number>,
    merges: ["#version: 0.2", ...lines, ""].join("\n"),
    config: {
      ...truncation && { model_max_length: truncation.max_length },
      ...padding && { pad_token: padding.pad_token },
      added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [`${id}`, token])),
    },
  };
}

/**
 * Checks a vocabulary.
 *
 * @param vocab `vocab.json`
 * @param source Where it is from, for messages.
 * @throws {Error} For an id that is no whole number, or that two tokens have.
 */
export function parseVocab(vocab: unknown, source: string): Map<string, number> {
  if (!isObject(vocab)) {
    throw new Error(`the vocabulary of ${source} is no JSON object of tokens and their ids`);
  }
  const owners = new Map<unknown, string>();
  for (const [token, id] of Object.entries(vocab)) {
    const where = `the vocabulary of ${source} gives the token ${JSON.stringify(token)} the id`;
    if (!isId(id)) {
      throw new Error(`${where} ${JSON.stringify(id)}; expected a whole number from 0 on`);
    }
    if (owners.has(id)) {
      throw new Error(`${where} ${id}, which ${JSON.stringify(owners.get(id))} has already`);
    }
    owners.set(id, token);
  }
  return new Map(Object.entries(vocab as Record<string, number>));
}

/** The special tokens of a tokenizer and its length. */
export interface TokenizerSettings {
  readonly start: number;
  readonly end: number;
  readonly pad: number;
  /** Every token that is taken out of a text before it is cut into words. */
  readonly added: readonly AddedToken[];
  readonly maxLength: number;
}

const DEFAULTS = {
  bos_token: "<|startoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
  pad_token: "<|endoftext|>",
} as const;

/**
 * Reads `tokenizer_config.json`, with CLIP's own settings for what it leaves out.
 *
 * @param config The file's content.
 * @param vocab The vocabulary.
 * @param source Where it is from, for messages.
 * @throws {Error} For a special token that the vocabulary lacks, or a length that makes no sense.
 */
export function tokenizerSettings(
  config: Json,
  vocab: ReadonlyMap<string, number>,
  source: string,
): TokenizerSettings {
  const added = new Map<string, AddedToken>();
  const add = (id: number, token: unknown, where: string) => {
    const { content, normalized, ...rest } = typeof token === "string"
      ? { content: token }
      : (token ?? {}) as Json;
    if (typeof content !== "string" || content === "") {
      throw new Error(`${where} is ${JSON.stringify(token)}; expected a token's text`);
    }
    const setting = ["lstrip", "rstrip", "single_word"].find((key) => rest[key] === true);
    if (setting) {
      throw new Error(`${where} has "${setting}", which this tokenizer does not have: remove it`);
    }
    added.set(content, { content, id, normalized: normalized !== false });
  };
  for (const [id, token] of Object.entries((config.added_tokens_decoder ?? {}) as Json)) {
    const where = `${source}: the added token ${id}`;
    if (!isId(Number(id))) throw new Error(`${where} has no whole number for its id`);
    add(Number(id), token, where);
  }
  const special = (key: keyof typeof DEFAULTS) => {
    const token = config[key] ?? DEFAULTS[key];
    const content = isObject(token) ? token.content : token;
    if (!added.has(content as string)) {
      const id = vocab.get(content as string);
      if (id === undefined) {
        throw new Error(
          `the vocabulary of ${source} has no token ${JSON.stringify(content)} (the ${key})`,
        );
      }
      add(id, token, `${source}: "${key}"`);
    }
    return added.get(content as string)!.id;
  };
  const [start, end, pad] = [special("bos_token"), special("eos_token"), special("pad_token")];
  special("unk_token");
  const given = config.model_max_length;
  const unknown = given == null || typeof given === "number" && given >= UNKNOWN_LENGTH;
  const maxLength = unknown ? CLIP_LENGTH : given;
  if (!isId(maxLength) || maxLength < 3 || maxLength > LONGEST) {
    throw new Error(
      `${source}: "model_max_length" is ${JSON.stringify(given)}; ` +
        `expected a whole number from 3 to ${LONGEST} (CLIP's is ${CLIP_LENGTH})`,
    );
  }
  return { start, end, pad, added: [...added.values()], maxLength };
}

function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function exists(path: string): Promise<boolean> {
  try {
    return (await Deno.stat(path)).isFile;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function optionalJson(path: string): Promise<Json | undefined> {
  return await exists(path) ? await readJson(path) : undefined;
}

async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Deno.errors.NotFound(`no such file: ${path}`);
  }
}
