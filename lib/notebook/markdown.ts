/**
 * Words that a cell computes, set as Markdown.
 *
 * @module
 */
import { show } from "./show.ts";

/**
 * Shows Markdown; in a terminal, its source.
 *
 * @param text The Markdown.
 */
export async function showMarkdown(text: string): Promise<void> {
  await show({ "text/markdown": text, "text/plain": text });
}
