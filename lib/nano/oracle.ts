/**
 * The oracle: what a picture really shows and how clean it is, measured from its pixels by a program.
 *
 * It stands in for people: simulated annotators judge by it, and it is the ground truth that no method is trained on.
 * Alignment asks whether the captioned objects are there; appeal asks how pure the picture's colours are.
 *
 * @module
 */
import {
  type Background,
  BACKGROUNDS,
  type Caption,
  type Colour,
  COLOURS,
  objectsOf,
  type Relation,
  type Shape,
  SHAPES,
} from "./caption.ts";
import { CENTROID_DROP, DISTANCE, EXTENT, IMAGE_SIZE, pixelRange } from "./shapes.ts";
import { IMAGE_VALUES, PALETTE } from "./world.ts";

/** The oracle's judgement of one picture. */
export interface Judgement {
  /** Whether the picture shows its caption, in [0, 1]. */
  readonly alignment: number;
  /** How near its pixels are to the palette, in (0, 1]. */
  readonly appeal: number;
  /** 2 alignment + 1.5 appeal. */
  readonly utility: number;
  /** The parts of the alignment, each in [0, 1]; `relation` only with two objects. */
  readonly parts: {
    readonly presence: number;
    readonly shape: number;
    readonly size: number;
    readonly relation?: number;
    readonly background: number;
    readonly noExtra: number;
  };
}

/** Weights of the alignment's parts. */
const WEIGHTS = {
  one: { presence: 0.3, shape: 0.3, size: 0.15, relation: 0, background: 0.15, noExtra: 0.1 },
  two: { presence: 0.25, shape: 0.25, size: 0.1, relation: 0.2, background: 0.1, noExtra: 0.1 },
} as const;

/** What the alignment counts in the utility. */
export const ALIGNMENT_WEIGHT = 2;
/** What the appeal counts in the utility. */
export const APPEAL_WEIGHT = 1.5;

const APPEAL_SCALE = 0.2;
/** An equivalent radius above this, in pixels, is large. */
const LARGE_RADIUS = 9.2;
/** Fewer pixels than this are no object, more are no object either but a background. */
const AREA = { least: 30, most: 1100 };

const NAMES: readonly (Colour | Background)[] = [...COLOURS, ...BACKGROUNDS];
const PALETTE_BYTES = Float64Array.from(
  NAMES.flatMap((name) => PALETTE[name].map((value) => value * 255)),
);
const PIXELS = IMAGE_SIZE * IMAGE_SIZE;

/**
 * Judges a picture.
 *
 * @param image RGB bytes, `[64, 64, 3]`.
 * @throws {RangeError} If the image has another size.
 */
export function judge(image: Uint8Array, caption: Caption): Judgement {
  if (image.length !== IMAGE_VALUES) {
    throw new RangeError(
      `The oracle judges ${IMAGE_SIZE}x${IMAGE_SIZE} RGB images of ${IMAGE_VALUES} bytes, got ${image.length}`,
    );
  }
  const labels = new Uint8Array(PIXELS);
  const appeal = Math.exp(-labelPixels(image, labels) / APPEAL_SCALE);
  const counts = new Int32Array(NAMES.length);
  for (const label of labels) counts[label]!++;
  const solid = solidPixels(labels);

  const objects = objectsOf(caption);
  const found = objects.map((object) => findObject(labels, solid, object.colour));
  const scores = objects.map((object, i) => scoreObject(found[i]!, object.shape, object.size));
  const mean = (part: "presence" | "shape" | "size") =>
    scores.reduce((sum, score) => sum + score[part], 0) / scores.length;

  let extra = 0;
  for (let i = 0; i < PIXELS; i++) {
    const name = NAMES[labels[i]!];
    if (solid[i] && labels[i]! < COLOURS.length && !objects.some(({ colour }) => colour === name)) {
      extra++;
    }
  }
  const most = counts.indexOf(Math.max(...counts));
  const parts = {
    presence: mean("presence"),
    shape: mean("shape"),
    size: mean("size"),
    background: NAMES[most] === caption.background ? 1 : 0,
    noExtra: clamp(1 - (extra - 20) / 80),
  };
  const relation = caption.second
    ? scoreRelation(found[0]!, found[1]!, caption.second.relation)
    : 0;
  const weights = caption.second ? WEIGHTS.two : WEIGHTS.one;
  const alignment = weights.presence * parts.presence + weights.shape * parts.shape +
    weights.size * parts.size + weights.relation * relation +
    weights.background * parts.background + weights.noExtra * parts.noExtra;
  return {
    alignment,
    appeal,
    utility: ALIGNMENT_WEIGHT * alignment + APPEAL_WEIGHT * appeal,
    parts: caption.second ? { ...parts, relation } : parts,
  };
}

/** Gives every pixel its nearest palette colour; returns the mean distance to it, in units of [0, 1]. */
function labelPixels(image: Uint8Array, labels: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < PIXELS; i++) {
    const red = image[3 * i]!, green = image[3 * i + 1]!, blue = image[3 * i + 2]!;
    let nearest = 0, least = Infinity;
    for (let j = 0; j < NAMES.length; j++) {
      const r = red - PALETTE_BYTES[3 * j]!;
      const g = green - PALETTE_BYTES[3 * j + 1]!;
      const b = blue - PALETTE_BYTES[3 * j + 2]!;
      const distance = r * r + g * g + b * b;
      if (distance < least) {
        least = distance;
        nearest = j;
      }
    }
    labels[i] = nearest;
    total += Math.sqrt(least);
  }
  return total / PIXELS / 255;
}

/**
 * Marks the pixels that touch the inside of a region of one label (an opening): a soft edge between two palette
 * colours can pass by a third one, and such a thin ring is no object.
 */
function solidPixels(labels: Uint8Array): Uint8Array {
  const solid = new Uint8Array(PIXELS);
  const n = IMAGE_SIZE;
  for (let y = 0; y < n; y++) {
    for (let x = 0; x < n; x++) {
      const at = y * n + x, label = labels[at];
      if (x > 0 && labels[at - 1] !== label || x < n - 1 && labels[at + 1] !== label) continue;
      if (y > 0 && labels[at - n] !== label || y < n - 1 && labels[at + n] !== label) continue;
      for (let v = Math.max(0, y - 1); v <= Math.min(n - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(n - 1, x + 1); u++) {
          if (labels[v * n + u] === label) solid[v * n + u] = 1;
        }
      }
    }
  }
  return solid;
}

/** The solid pixels of one colour. */
interface Found {
  readonly mask: Uint8Array;
  readonly area: number;
  /** Centre of mass in pixels. */
  readonly x: number;
  readonly y: number;
}

function findObject(labels: Uint8Array, solid: Uint8Array, colour: Colour): Found {
  const label = NAMES.indexOf(colour);
  const mask = new Uint8Array(PIXELS);
  let area = 0, x = 0, y = 0;
  for (let i = 0; i < PIXELS; i++) {
    if (!solid[i] || labels[i] !== label) continue;
    mask[i] = 1;
    area++;
    x += i % IMAGE_SIZE + 0.5;
    y += Math.floor(i / IMAGE_SIZE) + 0.5;
  }
  return { mask, area, x: x / area, y: y / area };
}

function isPresent({ area }: Found): boolean {
  return area >= AREA.least && area <= AREA.most;
}

function scoreObject(found: Found, shape: Shape, size: "small" | "large") {
  if (!isPresent(found)) return { presence: 0, shape: 0, size: 0 };
  const overlaps = SHAPES.map((candidate) => overlap(found, candidate));
  const best = Math.max(...overlaps);
  const own = overlaps[SHAPES.indexOf(shape)];
  const radius = Math.sqrt(found.area / Math.PI);
  return {
    presence: clamp((best - 0.3) / 0.4),
    shape: own === best ? clamp((own - 0.5) / 0.35) : 0,
    size: (radius > LARGE_RADIUS) === (size === "large") ? 1 : 0,
  };
}

/** Intersection over union of a mask and a shape of the same area with the same centre of mass. */
function overlap(found: Found, shape: Shape): number {
  const radius = Math.sqrt(found.area / Math.PI);
  const distance = DISTANCE[shape];
  const x = found.x, y = found.y - CENTROID_DROP[shape] * radius;
  const [top, bottom] = pixelRange(y, EXTENT[shape] * radius);
  const [left, right] = pixelRange(x, EXTENT[shape] * radius);
  let both = 0, template = 0;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      if (distance(column + 0.5 - x, row + 0.5 - y, radius) >= 0) continue;
      template++;
      both += found.mask[row * IMAGE_SIZE + column]!;
    }
  }
  return both / (found.area + template - both);
}

function scoreRelation(first: Found, second: Found, relation: Relation): number {
  if (!isPresent(first) || !isPresent(second)) return 0;
  const across = second.x - first.x, down = second.y - first.y;
  const vertical = relation === "above" || relation === "below";
  const along = (vertical ? down : across) *
    (relation === "above" || relation === "left of" ? 1 : -1);
  return along > 8 && along > 0.8 * Math.abs(vertical ? across : down) ? 1 : 0;
}

function clamp(value: number): number {
  return Math.min(1, Math.max(0, value));
}
