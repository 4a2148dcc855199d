/**
 * The nano world: scenes of one or two coloured shapes, drawn from their captions, some of them worse than others.
 *
 * Example number i of seed s is a pure function of (s, i), so a training set is never stored. The picture's quality
 * (a wrong attribute, a degradation) is never mentioned in the caption: that is what preferences are about.
 *
 * @module
 */
import { type Generator, generator, stream } from "../tensor/random.ts";
import {
  type Background,
  BACKGROUNDS,
  type Caption,
  type Colour,
  COLOURS,
  objectsOf,
  type Relation,
  RELATIONS,
  sampleCaption,
  SHAPES,
} from "./caption.ts";
import { degrade } from "./degrade.ts";
import { EXTENT, IMAGE_SIZE, paint } from "./shapes.ts";

export { IMAGE_SIZE } from "./shapes.ts";

/** Values of one image: 64 x 64 x 3. */
export const IMAGE_VALUES = IMAGE_SIZE * IMAGE_SIZE * 3;

/** An RGB colour with components in [0, 1]. */
export type Rgb = readonly [number, number, number];

/** The RGB of the object colours and the backgrounds: the nine palette colours. */
export const PALETTE: Readonly<Record<Colour | Background, Rgb>> = {
  red: [0.9, 0.12, 0.12],
  green: [0.12, 0.72, 0.2],
  blue: [0.15, 0.25, 0.92],
  yellow: [0.97, 0.87, 0.1],
  purple: [0.6, 0.12, 0.75],
  orange: [0.98, 0.52, 0.08],
  dark: [0.08, 0.08, 0.1],
  light: [0.93, 0.93, 0.92],
  teal: [0.1, 0.5, 0.5],
};

/** Radius in pixels of the circle that has an object's area, before a variation of 8%. */
export const RADIUS = { small: 6.5, large: 12 } as const;

/** Where an object lies: the middle of its bounding box and its radius, in pixels. */
export interface Placement {
  readonly x: number;
  readonly y: number;
  readonly radius: number;
}

/** What is wrong with a picture whose caption it does not show; `missing` is the second object. */
export type WrongAttribute =
  | "colour"
  | "shape"
  | "size"
  | "relation"
  | "background"
  | "missing";

/** Shares of the training world. */
export const WRONG_SHARE = 0.15;
/** Share of training images that are degraded. */
export const DEGRADED_SHARE = 0.65;

/** Draws where the objects of a caption lie, in reading order; all of them are wholly inside the image. */
export function placeObjects(caption: Caption, random: Generator): Placement[] {
  const free = () => random.uniform(22, 42);
  const near = random.uniform(15, 20), far = random.uniform(44, 49);
  const across = [free(), free()];
  const along = alongOf(caption.second?.relation, near, far) ?? [free(), free()];
  const vertical = caption.second?.relation === "above" || caption.second?.relation === "below";
  return objectsOf(caption).map(({ size, shape }, i) => {
    const radius = RADIUS[size] * random.uniform(0.92, 1.08);
    const edge = EXTENT[shape] * radius + 0.5;
    const inside = (at: number) => Math.min(Math.max(at, edge), IMAGE_SIZE - edge);
    const x = vertical ? across[i]! : along[i]!, y = vertical ? along[i]! : across[i]!;
    return { x: inside(x), y: inside(y), radius };
  });
}

function alongOf(relation: Relation | undefined, near: number, far: number) {
  if (relation === undefined) return undefined;
  return relation === "above" || relation === "left of" ? [near, far] : [far, near];
}

/**
 * Draws a scene.
 *
 * @param caption Gives shapes and colours.
 * @param placements One per object, in reading order.
 * @param out RGB in [0, 1], `[64, 64, 3]`; a new array if left out.
 */
export function renderScene(
  caption: Caption,
  placements: readonly Placement[],
  out: Float32Array = new Float32Array(IMAGE_VALUES),
): Float32Array {
  const [red, green, blue] = PALETTE[caption.background];
  for (let i = 0; i < IMAGE_VALUES; i += 3) {
    out[i] = red;
    out[i + 1] = green;
    out[i + 2] = blue;
  }
  objectsOf(caption).forEach(({ shape, colour }, i) => {
    const { x, y, radius } = placements[i]!;
    paint(out, shape, x, y, radius, PALETTE[colour]);
  });
  return out;
}

/** Changes one attribute of a caption; what is drawn from the result no longer shows the caption. */
export function spoilCaption(
  caption: Caption,
  random: Generator,
): { caption: Caption; wrong: WrongAttribute } {
  const kinds: WrongAttribute[] = ["colour", "shape", "size", "background"];
  if (caption.second) kinds.push("relation", "missing");
  const wrong = random.choice(kinds);
  return { caption: spoilt(caption, wrong, random), wrong };
}

function spoilt(caption: Caption, wrong: WrongAttribute, random: Generator): Caption {
  const { first, second, background } = caption;
  const other = <T>(items: readonly T[], ...taken: T[]) =>
    random.choice(items.filter((item) => !taken.includes(item)));
  if (wrong === "background") return { ...caption, background: other(BACKGROUNDS, background) };
  if (second && wrong === "missing") return { first, background };
  if (second && wrong === "relation") {
    return { ...caption, second: { ...second, relation: other(RELATIONS, second.relation) } };
  }
  const changeSecond = second !== undefined && random.chance(0.5);
  const object = changeSecond ? second.object : first;
  const taken = objectsOf(caption).map(({ colour }) => colour);
  const changed = wrong === "colour"
    ? { ...object, colour: other(COLOURS, ...taken) }
    : wrong === "shape"
    ? { ...object, shape: other(SHAPES, object.shape) }
    : { ...object, size: object.size === "small" ? "large" as const : "small" as const };
  return changeSecond
    ? { ...caption, second: { ...second, object: changed } }
    : { ...caption, first: changed };
}

/** One picture of the training world. */
export interface TrainingExample {
  readonly caption: Caption;
  /** RGB in [0, 1], `[64, 64, 3]`. */
  readonly pixels: Float32Array;
  /** What the picture shows wrongly, if anything. */
  readonly wrong?: WrongAttribute;
  /** How many degradations it has: 0, 1 or 2. */
  readonly degradations: number;
  /** Standard deviation of its blur in pixels, 0 if it has none. */
  readonly blur: number;
}

const TRAINING_STREAM = stream("nano.world.training");
const CLEAN_STREAM = stream("nano.world.clean");

/**
 * Example number `index` of a seed's endless training set.
 *
 * 15% have one attribute wrong; independently 65% are degraded, 30% of those twice.
 *
 * @param out Where to draw, `[64, 64, 3]`, for example a part of a batch; a new array if left out.
 */
export function trainingExample(seed: number, index: number, out?: Float32Array): TrainingExample {
  const random = generator({ seed, stream: TRAINING_STREAM, step: index });
  const caption = sampleCaption(random);
  const spoil = random.chance(WRONG_SHARE) ? spoilCaption(caption, random) : undefined;
  const shown = spoil?.caption ?? caption;
  const pixels = renderScene(shown, placeObjects(shown, random), out);
  const degradations = random.chance(DEGRADED_SHARE) ? (random.chance(0.3) ? 2 : 1) : 0;
  const blur = degradations > 0 ? degrade(pixels, degradations, random) : 0;
  const example = { caption, pixels, degradations, blur };
  return spoil ? { ...example, wrong: spoil.wrong } : example;
}

/** A clean, correct picture of a caption: number `index` of a seed. */
export function cleanExample(
  caption: Caption,
  seed: number,
  index: number,
  out?: Float32Array,
): Float32Array {
  const random = generator({ seed, stream: CLEAN_STREAM, step: index });
  return renderScene(caption, placeObjects(caption, random), out);
}

/** Values in [0, 1] as bytes, rounded. */
export function toBytes(pixels: Float32Array): Uint8Array {
  const bytes = new Uint8ClampedArray(pixels.length);
  for (let i = 0; i < pixels.length; i++) bytes[i] = pixels[i]! * 255;
  return new Uint8Array(bytes.buffer);
}

/** Bytes as values in [0, 1]. */
export function fromBytes(bytes: Uint8Array): Float32Array {
  const pixels = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) pixels[i] = bytes[i]! / 255;
  return pixels;
}
