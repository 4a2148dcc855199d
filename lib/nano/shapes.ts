/**
 * Shapes as signed distance functions of about equal area, and the soft coverage that they paint with.
 *
 * A shape of radius r has the area of a circle of radius r. Its origin is the middle of its bounding box.
 *
 * @module
 */
import type { Shape } from "./caption.ts";

/** Side of an image in pixels. */
export const IMAGE_SIZE = 64;

/** Signed distance in pixels from (x, y), measured from the shape's origin with y downwards, to its outline. */
export type Distance = (x: number, y: number, radius: number) => number;

const SQUARE = Math.sqrt(Math.PI) / 2;
const CROSS_LENGTH = Math.sqrt(Math.PI * 9 / 20);
const CROSS_WIDTH = CROSS_LENGTH / 3;
// An isosceles triangle as wide as high: half * (2 half) = pi r^2.
const TRIANGLE = Math.sqrt(Math.PI / 2);
const TRIANGLE_SLOPE = 2 / Math.sqrt(5);
const TRIANGLE_RUN = 1 / Math.sqrt(5);

const box = (x: number, y: number, halfWidth: number, halfHeight: number) =>
  Math.max(Math.abs(x) - halfWidth, Math.abs(y) - halfHeight);

/** The distance functions. Outside a corner they are bounds from below, which soft edges do not notice. */
export const DISTANCE: Readonly<Record<Shape, Distance>> = {
  circle: (x, y, r) => Math.sqrt(x * x + y * y) - r,
  square: (x, y, r) => box(x, y, SQUARE * r, SQUARE * r),
  // Two slanted sides through the apex (0, -half) and a flat one below.
  triangle: (x, y, r) =>
    Math.max(
      Math.abs(x) * TRIANGLE_SLOPE - (y + TRIANGLE * r) * TRIANGLE_RUN,
      y - TRIANGLE * r,
    ),
  cross: (x, y, r) =>
    Math.min(
      box(x, y, CROSS_LENGTH * r, CROSS_WIDTH * r),
      box(x, y, CROSS_WIDTH * r, CROSS_LENGTH * r),
    ),
};

/** Half of the bounding box's side, for radius 1. */
export const EXTENT: Readonly<Record<Shape, number>> = {
  circle: 1,
  square: SQUARE,
  triangle: TRIANGLE,
  cross: CROSS_LENGTH,
};

/** How far below the origin the shape's centre of mass lies, for radius 1. */
export const CENTROID_DROP: Readonly<Record<Shape, number>> = {
  circle: 0,
  square: 0,
  triangle: TRIANGLE / 3,
  cross: 0,
};

/** The half-open range of pixels whose centres are within `reach` of `centre`, cut at the image's border. */
export function pixelRange(centre: number, reach: number): [number, number] {
  return [
    Math.max(0, Math.ceil(centre - reach - 0.5)),
    Math.min(IMAGE_SIZE, Math.floor(centre + reach - 0.5) + 1),
  ];
}

/**
 * Blends a shape over an image with an edge one pixel wide.
 *
 * @param pixels RGB in [0, 1], `[64, 64, 3]`, changed in place.
 * @param x Centre of the bounding box in pixels, from the left.
 * @param y The same from the top.
 */
export function paint(
  pixels: Float32Array,
  shape: Shape,
  x: number,
  y: number,
  radius: number,
  colour: readonly [number, number, number],
): void {
  const distance = DISTANCE[shape];
  const reach = EXTENT[shape] * radius + 1;
  const [top, bottom] = pixelRange(y, reach);
  const [left, right] = pixelRange(x, reach);
  const [red, green, blue] = colour;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const cover = 0.5 - distance(column + 0.5 - x, row + 0.5 - y, radius);
      if (cover <= 0) continue;
      const alpha = cover < 1 ? cover : 1;
      const at = (row * IMAGE_SIZE + column) * 3;
      pixels[at]! += alpha * (red - pixels[at]!);
      pixels[at + 1]! += alpha * (green - pixels[at + 1]!);
      pixels[at + 2]! += alpha * (blue - pixels[at + 2]!);
    }
  }
}
