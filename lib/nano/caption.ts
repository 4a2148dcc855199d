/**
 * The caption grammar of the nano world: every caption is a small structure, and the structure is every caption.
 *
 *     a {size} {colour} {shape} [{relation} a {size} {colour} {shape}] on a {background} background
 *
 * At most 14 words, so that with its two special tokens a caption fits into 16 tokens.
 *
 * @module
 */
import type { Generator } from "../tensor/random.ts";

/** The sizes an object can have. */
export const SIZES = ["small", "large"] as const;
/** The colours an object can have. */
export const COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"] as const;
/** The shapes an object can have. */
export const SHAPES = ["circle", "square", "triangle", "cross"] as const;
/** Where the first object is, seen from the second. */
export const RELATIONS = ["above", "below", "left of", "right of"] as const;
/** What the objects lie on. */
export const BACKGROUNDS = ["dark", "light", "teal"] as const;

/** A size of the grammar. */
export type Size = typeof SIZES[number];
/** A colour of the grammar. */
export type Colour = typeof COLOURS[number];
/** A shape of the grammar. */
export type Shape = typeof SHAPES[number];
/** A relation of the grammar. */
export type Relation = typeof RELATIONS[number];
/** A background of the grammar. */
export type Background = typeof BACKGROUNDS[number];

/** One object of a caption. */
export interface CaptionObject {
  readonly size: Size;
  readonly colour: Colour;
  readonly shape: Shape;
}

/** What a caption says. */
export interface Caption {
  readonly first: CaptionObject;
  /** The second object and where the first one is, seen from it; its colour is not the first one's. */
  readonly second?: { readonly relation: Relation; readonly object: CaptionObject };
  readonly background: Background;
}

/** The share of scenes with two objects in the training world. */
export const TWO_OBJECT_SHARE = 0.6;

/** The objects of a caption in reading order. */
export function objectsOf(caption: Caption): CaptionObject[] {
  return caption.second ? [caption.first, caption.second.object] : [caption.first];
}

/**
 * The words of a caption.
 *
 * @example
 * ```ts
 * captionText({
 *   first: { size: "small", colour: "red", shape: "circle" },
 *   background: "teal",
 * }); // "a small red circle on a teal background"
 * ```
 */
export function captionText(caption: Caption): string {
  const words = ({ size, colour, shape }: CaptionObject) => `a ${size} ${colour} ${shape}`;
  const { first, second, background } = caption;
  const relation = second ? ` ${second.relation} ${words(second.object)}` : "";
  return `${words(first)}${relation} on a ${background} background`;
}

const OBJECT = `a (${SIZES.join("|")}) (${COLOURS.join("|")}) (${SHAPES.join("|")})`;
const CAPTION = new RegExp(
  `^${OBJECT}(?: (${RELATIONS.join("|")}) ${OBJECT})? on a (${BACKGROUNDS.join("|")}) background$`,
);

/**
 * Reads a caption back into its structure.
 *
 * @throws {SyntaxError} If the text is not a sentence of the grammar; the message shows the grammar.
 */
export function parseCaption(text: string): Caption {
  const match = CAPTION.exec(text);
  if (!match) {
    throw new SyntaxError(
      `"${text}" is not a nano caption. Expected: a {${SIZES.join("|")}} {${COLOURS.join("|")}} ` +
        `{${SHAPES.join("|")}} [{${RELATIONS.join("|")}} a {size} {colour} {shape}] ` +
        `on a {${BACKGROUNDS.join("|")}} background`,
    );
  }
  const object = (at: number) =>
    ({ size: match[at], colour: match[at + 1], shape: match[at + 2] }) as CaptionObject;
  const first = object(1);
  const background = match[8] as Background;
  if (match[4] === undefined) return { first, background };
  const second = { relation: match[4] as Relation, object: object(5) };
  if (second.object.colour === first.colour) {
    throw new SyntaxError(
      `"${text}" is not a nano caption: two objects never share a colour, and both are ${first.colour}`,
    );
  }
  return { first, second, background };
}

/** Draws a caption: {@linkcode TWO_OBJECT_SHARE} have two objects, everything else is uniform. */
export function sampleCaption(random: Generator): Caption {
  const object = (colours: readonly Colour[]): CaptionObject => ({
    size: random.choice(SIZES),
    colour: random.choice(colours),
    shape: random.choice(SHAPES),
  });
  const two = random.chance(TWO_OBJECT_SHARE);
  const first = object(COLOURS);
  const background = random.choice(BACKGROUNDS);
  if (!two) return { first, background };
  const relation = random.choice(RELATIONS);
  const second = object(COLOURS.filter((colour) => colour !== first.colour));
  return { first, second: { relation, object: second }, background };
}

/** Every caption of the grammar with the given number of objects: 144 with one, 23,040 with two. */
export function allCaptions(objects: 1 | 2): Caption[] {
  const every: CaptionObject[] = SIZES.flatMap((size) =>
    COLOURS.flatMap((colour) => SHAPES.map((shape) => ({ size, colour, shape })))
  );
  return every.flatMap((first) =>
    BACKGROUNDS.flatMap((background): Caption[] => {
      if (objects === 1) return [{ first, background }];
      const others = every.filter((object) => object.colour !== first.colour);
      return others.flatMap((object) =>
        RELATIONS.map((relation) => ({ first, second: { relation, object }, background }))
      );
    })
  );
}

/** The words of the grammar, each once, in a fixed order. */
export function grammarWords(): string[] {
  const words = ["a", "on", "background", ...SIZES, ...COLOURS, ...SHAPES, ...BACKGROUNDS];
  return [...words, ...new Set(RELATIONS.flatMap((relation) => relation.split(" ")))];
}
