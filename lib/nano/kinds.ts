/**
 * Kinds of prompts after challenges of PartiPrompts, told apart by what a caption of the nano world asks
 * for. Every caption is of exactly one kind.
 *
 * @module
 */
import type { Caption } from "./caption.ts";

/**
 * - `Basic`: one object.
 * - `Properties & Positioning`: two objects of one shape, which colour, size and place tell apart.
 * - `Fine-grained Detail`: two small objects of different shapes, a few latent pixels wide.
 * - `Complex`: two objects of different shapes, one or both of them large.
 */
export const PROMPT_KINDS = [
  "Basic",
  "Properties & Positioning",
  "Fine-grained Detail",
  "Complex",
] as const;

/** A kind of prompt. */
export type PromptKind = (typeof PROMPT_KINDS)[number];

/** The kind of a caption. */
export function promptKind({ first, second }: Caption): PromptKind {
  if (!second) return "Basic";
  if (first.shape === second.object.shape) return "Properties & Positioning";
  return first.size === "small" && second.object.size === "small"
    ? "Fine-grained Detail"
    : "Complex";
}
