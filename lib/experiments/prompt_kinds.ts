/**
 * Prompts by kind, so that a study has as many of each.
 *
 * @module
 */
import { parseCaption, PROMPT_KINDS, promptKind } from "../nano/mod.ts";

/** A prompt and what kind it is of. */
export interface KindOfPrompt {
  readonly prompt: string;
  readonly kind: string;
}

/**
 * The first prompts of every kind.
 *
 * @param prompts Nano captions; a user's own prompts are all of one kind.
 * @param captions Whether they are nano captions.
 * @param perKind How many of each kind at most; of a user's own prompts as many as of four kinds.
 */
export function promptsByKind(
  prompts: readonly string[],
  captions: boolean,
  perKind: number,
): KindOfPrompt[] {
  if (!captions) {
    return prompts.slice(0, perKind * PROMPT_KINDS.length).map((prompt) => ({
      prompt,
      kind: "all",
    }));
  }
  return PROMPT_KINDS.flatMap((kind) =>
    prompts.filter((prompt) => promptKind(parseCaption(prompt)) === kind).slice(0, perKind)
      .map((prompt) => ({ prompt, kind }))
  );
}
