/**
 * Prompt splits: one fixed order of all captions, cut into consecutive pieces, so that no caption is in two splits.
 *
 * The splits that measure come first and the preference prompts last: asking for more preference prompts changes no
 * other split.
 *
 * @module
 */
import { generator, stream } from "../tensor/random.ts";
import { allCaptions, captionText } from "./caption.ts";

/** How many prompts each split has, in the order in which they are cut. */
export const SPLIT_SIZES = {
  /** Final comparison of methods. */
  test: 500,
  /** Choice of hyperparameters. */
  validation: 100,
  /** Accuracy of the scorers. */
  scorerValidation: 60,
  /** Training of the HPS stand-in. */
  hps: 240,
  /** Preference tuning, and training of the PickScore stand-in. */
  preference: 1000,
} as const;

/** The name of a split. */
export type Split = keyof typeof SPLIT_SIZES;

/** One caption in this many has a single object; there are only 144 of those. */
const SINGLE_EVERY = 14;
const ORDER_STREAM = stream("nano.prompts.order");

/**
 * All splits of a seed: distinct captions within and across them.
 *
 * One caption in fourteen has a single object.
 *
 * @param sizes Replaces some of {@linkcode SPLIT_SIZES}.
 * @throws {RangeError} If more prompts are asked for than there are captions.
 */
export function promptSplits(
  seed: number,
  sizes: Partial<Record<Split, number>> = {},
): Record<Split, string[]> {
  const random = generator({ seed, stream: ORDER_STREAM, step: 0 });
  const singles = random.shuffle(allCaptions(1));
  const pairs = random.shuffle(allCaptions(2));
  const available = singles.length + pairs.length;
  let position = 0;
  const take = (count: number) =>
    Array.from({ length: count }, () => {
      const single = position++ % SINGLE_EVERY === 0 ? singles.pop() : undefined;
      const caption = single ?? pairs.pop() ?? singles.pop();
      if (!caption) {
        throw new RangeError(
          `The prompt splits ask for more than the ${available} captions there are`,
        );
      }
      return captionText(caption);
    });
  const splits: Partial<Record<Split, string[]>> = {};
  for (const split of Object.keys(SPLIT_SIZES) as Split[]) {
    splits[split] = take(sizes[split] ?? SPLIT_SIZES[split]);
  }
  return splits as Record<Split, string[]>;
}
