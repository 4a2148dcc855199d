/**
 * Degradations: coarse ways of making a picture worse without changing what it shows.
 *
 * All of them survive an autoencoder of factor 4; fine pixel noise would not.
 *
 * @module
 */
import type { Generator } from "../tensor/random.ts";
import { IMAGE_SIZE } from "./shapes.ts";

/** The degradations. */
export const DEGRADATIONS = ["blur", "wash", "blotches", "cast"] as const;

/** A degradation. */
export type Degradation = typeof DEGRADATIONS[number];

/**
 * Applies `count` different degradations, drawn at random, and keeps the values in [0, 1].
 *
 * @param pixels RGB in [0, 1], `[64, 64, 3]`, changed in place.
 * @returns The blur's standard deviation in pixels, 0 if there was none.
 */
export function degrade(pixels: Float32Array, count: number, random: Generator): number {
  const kinds = random.shuffle(DEGRADATIONS).slice(0, count);
  return Math.max(0, ...kinds.map((kind) => applyDegradation(pixels, kind, random)));
}

/**
 * Applies one degradation of random strength, and keeps the values in [0, 1].
 *
 * @param pixels RGB in [0, 1], `[64, 64, 3]`, changed in place.
 * @returns The blur's standard deviation in pixels, 0 for another kind.
 */
export function applyDegradation(
  pixels: Float32Array,
  kind: Degradation,
  random: Generator,
): number {
  const sigma = kind === "blur" ? random.uniform(1, 2.6) : 0;
  if (kind === "blur") blur(pixels, sigma);
  else if (kind === "wash") wash(pixels, random.uniform(0.25, 0.6), random.uniform(0.4, 0.6));
  else if (kind === "blotches") addBlotches(pixels, random.uniform(0.08, 0.25), random);
  else addCast(pixels, random.uniform(0.15, 0.4), random);
  for (let i = 0; i < pixels.length; i++) pixels[i] = Math.min(1, Math.max(0, pixels[i]!));
  return sigma;
}

/** Gaussian blur; the border is repeated outwards. */
function blur(pixels: Float32Array, sigma: number) {
  const reach = Math.ceil(3 * sigma);
  const kernel = Float64Array.from(
    { length: 2 * reach + 1 },
    (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma * sigma)),
  );
  const total = kernel.reduce((a, b) => a + b);
  for (let i = 0; i < kernel.length; i++) kernel[i]! /= total;
  const rows = new Float32Array(pixels.length);
  convolve(pixels, rows, kernel, 3, IMAGE_SIZE * 3);
  convolve(rows, pixels, kernel, IMAGE_SIZE * 3, 3);
}

/** Filters along the axis of stride `step`; `across` is the stride of the other axis. */
function convolve(
  from: Float32Array,
  to: Float32Array,
  kernel: Float64Array,
  step: number,
  across: number,
) {
  const reach = kernel.length >> 1;
  const line = new Float64Array(IMAGE_SIZE + 2 * reach);
  for (let lane = 0; lane < IMAGE_SIZE; lane++) {
    for (let channel = 0; channel < 3; channel++) {
      const base = lane * across + channel;
      for (let i = 0; i < line.length; i++) {
        const at = Math.min(IMAGE_SIZE - 1, Math.max(0, i - reach));
        line[i] = from[base + at * step]!;
      }
      for (let i = 0; i < IMAGE_SIZE; i++) {
        let sum = 0;
        for (let k = 0; k < kernel.length; k++) sum += kernel[k]! * line[i + k]!;
        to[base + i * step] = sum;
      }
    }
  }
}

/** Blends towards a grey. */
function wash(pixels: Float32Array, share: number, grey: number) {
  for (let i = 0; i < pixels.length; i++) pixels[i]! += share * (grey - pixels[i]!);
}

const GRID = 12;

/** Adds a 12 x 12 grid of Gaussian noise, interpolated bilinearly (aligned corners). */
function addBlotches(pixels: Float32Array, amplitude: number, random: Generator) {
  const grid = Float64Array.from({ length: GRID * GRID * 3 }, () => amplitude * random.normal());
  const scale = (GRID - 1) / (IMAGE_SIZE - 1);
  for (let y = 0; y < IMAGE_SIZE; y++) {
    const top = Math.min(GRID - 2, Math.floor(y * scale)), down = y * scale - top;
    for (let x = 0; x < IMAGE_SIZE; x++) {
      const left = Math.min(GRID - 2, Math.floor(x * scale)), right = x * scale - left;
      for (let channel = 0; channel < 3; channel++) {
        const at = (top * GRID + left) * 3 + channel;
        const upper = grid[at]! + right * (grid[at + 3]! - grid[at]!);
        const lower = grid[at + GRID * 3]! +
          right * (grid[at + GRID * 3 + 3]! - grid[at + GRID * 3]!);
        pixels[(y * IMAGE_SIZE + x) * 3 + channel]! += upper + down * (lower - upper);
      }
    }
  }
}

/** Shifts all pixels by one vector of the given length and a random direction. */
function addCast(pixels: Float32Array, length: number, random: Generator) {
  const direction = [random.normal(), random.normal(), random.normal()];
  const scale = length / Math.hypot(...direction);
  for (let i = 0; i < pixels.length; i++) pixels[i]! += scale * direction[i % 3]!;
}
