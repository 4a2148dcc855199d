/**
 * How CLIP's tokenizers cut a text into words. transformers has two tokenizers for one vocabulary,
 * and they do not cut alike:
 *
 * | | `CLIPTokenizer` | `CLIPTokenizerFast` |
 * |---|---|---|
 * | who uses it | diffusers' pipelines | `AutoProcessor`, so PickScore |
 * | control and format characters, U+FFFD | left out: an emoji loses its joiners | kept |
 * | Chinese characters | one word each | a word as long as the run |
 * | Greek sigma at the end of a word | ς | σ |
 * | special tokens within the text | as written, or in other case | by the token's `normalized` |
 *
 * `CLIPTokenizer` here is the one of a plain installation. Where the Python package ftfy is installed
 * it repairs the text first (curly quotes become straight, mojibake letters), and so does open_clip's
 * tokenizer always, which HPS uses: prompts that ftfy changes get other ids there.
 *
 * Unicode's tables are those of the JavaScript engine. Characters that are younger than the tables of
 * the original (of the Python that runs it, or of the fast class's library) are the one exception to
 * equal ids: the original drops them, or does not compose them.
 *
 * @module
 */

/** transformers' class of a tokenizer, as `model_index.json` names it. */
export type TokenizerClass = "CLIPTokenizer" | "CLIPTokenizerFast";

/** A token that is taken out of a text before the text is cut into words. */
export interface AddedToken {
  readonly content: string;
  readonly id: number;
  /** Whether `CLIPTokenizerFast` looks for it in the cleaned text; default true. */
  readonly normalized: boolean;
}

/** A word to be encoded, or the id of an added token. */
export type Word = string | number;

// transformers' `CLIPTokenizer` matches without regard to case, though the text is in lower case. To
// that rule the long s (ſ) is an s, and U+0345, a mark that is the letter iota in upper case, is
// neither a letter nor anything else: it is lost.
const SLOW_WORDS =
  /<\|[sſ]tartoftext\|>|<\|endoftext\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}\u0345]+/gu;
const FAST_WORDS = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

const DROPPED = /[\0\ufffd]|(?![\t\n\r])\p{C}/gu;
/** The blocks that transformers takes for Chinese. */
const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

/**
 * Cuts texts into words as one of transformers' classes does.
 *
 * @param kind The class.
 * @param added Tokens that stand for themselves.
 * @returns A function that yields a text's words one at a time.
 */
export function wordCutter(
  kind: TokenizerClass,
  added: readonly AddedToken[],
): (text: string) => Generator<Word> {
  if (kind === "CLIPTokenizer") {
    const split = splitter(added);
    return function* (text) {
      for (const part of split(text)) {
        if (typeof part === "number") yield part;
        else for (const [word] of cleanSlowly(part).matchAll(SLOW_WORDS)) yield word;
      }
    };
  }
  const splitRaw = splitter(added.filter((token) => !token.normalized));
  const splitClean = splitter(
    added.filter((token) => token.normalized)
      .map((token) => ({ ...token, content: cleanFast(token.content) })),
  );
  return function* (text) {
    for (const raw of splitRaw(text)) {
      if (typeof raw === "number") yield raw;
      else {
        for (const part of splitClean(cleanFast(raw))) {
          if (typeof part === "number") yield part;
          else for (const [word] of part.matchAll(FAST_WORDS)) yield word;
        }
      }
    }
  };
}

function cleanSlowly(text: string): string {
  return text
    .replace(DROPPED, "")
    .replace(CHINESE, " $& ")
    .normalize("NFC")
    .replace(/\p{White_Space}+/gu, " ")
    .toLowerCase();
}

/** Letter by letter, so that no letter's place in its word matters. */
function cleanFast(text: string): string {
  const plain = text.normalize("NFC").replace(/\p{White_Space}+/gu, " ");
  return plain.replace(/\p{Changes_When_Lowercased}/gu, (c) => c.toLowerCase());
}

/** Takes tokens out of a text, the longest first where several begin at one place. */
function splitter(tokens: readonly AddedToken[]): (text: string) => Word[] {
  if (tokens.length === 0) return (text) => [text];
  const ids = new Map(tokens.map(({ content, id }) => [content, id]));
  const longestFirst = [...ids.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(`(${longestFirst.map(RegExp.escape).join("|")})`, "u");
  // With a group in the pattern every second part is a token.
  return (text) => text.split(pattern).map((part, i) => i % 2 === 1 ? ids.get(part)! : part);
}
