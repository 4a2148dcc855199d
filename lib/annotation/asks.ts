/**
 * What a person is asked, in which order, and which image is on which side: all of it drawn by lot,
 * and drawn the same whenever it is asked for, so that nothing but the votes needs to be stored.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Item, Question, StoredStudy } from "./study.ts";

/** One question about one pair of images, as one person sees it. */
export interface Ask {
  readonly item: Item;
  readonly question: Question;
  /** Which of the item's images is on the left. */
  readonly left: "a" | "b";
}

/**
 * Everything that a person is asked, in order.
 *
 * The prompts come in random order with everything about a prompt together, so that whoever stops
 * early has voted on a random subset, and on each of its pairs in every respect. Within a prompt the
 * questions that hide it come first, for all pairs: seen once, a prompt is known. The sides are drawn
 * anew for each question, so that an answer is not repeated by habit.
 *
 * @param stored The study.
 * @param annotator Who is asked, see {@linkcode annotatorName}.
 */
export function asksOf({ study, digest }: StoredStudy, annotator: string): Ask[] {
  const lot = (...what: string[]) =>
    createHash("sha256").update(JSON.stringify([digest, annotator, ...what])).digest("hex");
  const drawn = <T>(things: readonly T[], name: (thing: T) => string[]) =>
    things.map((thing) => ({ thing, key: lot(...name(thing)) }))
      .sort((x, y) => (x.key < y.key ? -1 : 1)).map(({ thing }) => thing);
  const ask = (item: Item, question: Question): Ask => ({
    item,
    question,
    left: parseInt(lot("side", item.id, question.id)[0]!, 16) < 8 ? "a" : "b",
  });

  const itemsOf = new Map<string, Item[]>();
  for (const item of study.items) {
    const items = itemsOf.get(item.prompt);
    if (items) items.push(item);
    else itemsOf.set(item.prompt, [item]);
  }
  const hiding = study.questions.filter(({ showPrompt }) => !showPrompt);
  const showing = study.questions.filter(({ showPrompt }) => showPrompt);
  return drawn([...itemsOf], ([prompt]) => ["prompt", prompt]).flatMap(([, all]) => {
    const items = drawn(all, ({ id }) => ["item", id]);
    return [hiding, showing].flatMap((asked) =>
      items.flatMap((item) => asked.map((question) => ask(item, question)))
    );
  });
}
