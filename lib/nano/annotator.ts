/**
 * Simulated annotators: Bradley-Terry choices on a utility, in sessions where the winner stays.
 *
 * As in Pick-a-Pic, an annotator sees two images of a prompt, picks one or calls a tie, and the loser is replaced by the
 * next image. The choice is right with probability sigmoid(|difference| / temperature), ties aside.
 *
 * @module
 */
import { type Generator, generator, stream } from "../tensor/random.ts";

/** How the annotators judge. */
export interface AnnotatorOptions {
  readonly seed: number;
  /** Sessions per prompt, each by another annotator. Default 2. */
  readonly annotators?: number;
  /** Images that a session shows. Default 6. */
  readonly shown?: number;
  /** Scale of the logistic noise, in units of utility. Default {@linkcode TEMPERATURE}. */
  readonly temperature?: number;
  /** A noisy difference below this, in units of utility, is a tie. Default 0.125. */
  readonly tieThreshold?: number;
}

/** One judgement. Image numbers count within the prompt. */
export interface Choice {
  /** The prompt's number. */
  readonly prompt: number;
  /** The annotator's number within the prompt. */
  readonly annotator: number;
  /** Place in the order of all judgements; later ones are more recent. */
  readonly ranking: number;
  readonly image0: number;
  readonly image1: number;
  /** 1: image0 was preferred, 0: image1 was, 0.5: a tie. */
  readonly label0: 0 | 0.5 | 1;
}

/** Scale of the annotators' logistic noise, in units of utility. */
export const TEMPERATURE = 0.35;

const SESSION_STREAM = stream("nano.annotator.session");

/**
 * Lets annotators judge the images of every prompt.
 *
 * Each session makes `shown - 1` judgements. In a tie the image that was there before stays. The first image's side is random.
 *
 * @param utilities Per prompt the utility of each of its images.
 * @throws {RangeError} If a prompt has fewer images than a session shows.
 */
export function annotate(
  utilities: readonly ArrayLike<number>[],
  options: AnnotatorOptions,
): Choice[] {
  const { seed, annotators = 2, shown = 6, temperature = TEMPERATURE, tieThreshold = 0.125 } =
    options;
  const choices: Choice[] = [];
  utilities.forEach((utility, prompt) => {
    if (utility.length < shown) {
      throw new RangeError(
        `A session shows ${shown} images, but prompt ${prompt} has only ${utility.length}`,
      );
    }
    for (let annotator = 0; annotator < annotators; annotator++) {
      const random = generator({
        seed,
        stream: SESSION_STREAM,
        step: prompt * annotators + annotator,
      });
      const order = random.shuffle(Array.from(utility, (_, image) => image)).slice(0, shown);
      let staying = order[0]!;
      // The winner also stays on its side: an image is on one side throughout a session.
      let left = random.chance(0.5);
      for (const challenger of order.slice(1)) {
        const difference = utility[staying]! - utility[challenger]! +
          temperature * random.logistic();
        const tie = Math.abs(difference) < tieThreshold;
        choices.push({
          prompt,
          annotator,
          ranking: choices.length,
          image0: left ? staying : challenger,
          image1: left ? challenger : staying,
          label0: tie ? 0.5 : (difference > 0) === left ? 1 : 0,
        });
        if (!tie && difference < 0) {
          staying = challenger;
          left = !left;
        }
      }
    }
  });
  return choices;
}

/**
 * One annotator's forced choice between two images: right with probability
 * sigmoid(|difference| / temperature).
 *
 * @param difference Of the first image's utility over the second's.
 * @returns Whether the first image is chosen.
 */
export function choosesFirst(difference: number, random: Generator): boolean {
  return difference + TEMPERATURE * random.logistic() > 0;
}
