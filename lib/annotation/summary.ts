/**
 * What the votes of a study say: per comparison and question, how often the first model wins, and how
 * far people agree.
 *
 * @module
 */
import { fleissKappa, majority } from "../evaluation/agreement.ts";
import { bootstrap, type BootstrapOptions, type Interval, mean } from "../evaluation/statistics.ts";
import type { Item, QuestionId, Study } from "./study.ts";
import type { Vote } from "./votes.ts";

/** What most people chose for one item. */
export interface Outcome {
  /** The item's id. */
  readonly item: string;
  /** 1 if the first model's image won, 0 if the second's, 0.5 for a tie. */
  readonly outcome: 0 | 0.5 | 1;
  readonly votes: number;
}

/** What people said to one question about one comparison. */
export interface SummaryRow {
  readonly comparison: string;
  /** The kind of items; null for all kinds together. */
  readonly kind: string | null;
  readonly question: QuestionId;
  /** One for each item that has a vote, in the study's order. */
  readonly outcomes: readonly Outcome[];
  readonly votes: number;
  readonly annotators: number;
  /**
   * The share of items that the first model wins by majority, ties half, with its bootstrap interval
   * over items; null without votes.
   */
  readonly share: Interval | null;
  /** Fleiss' kappa; null if no item has two votes, or all votes are the same, see {@linkcode fleissKappa}. */
  readonly kappa: number | null;
  /** How many items have two votes or more, which are those that the kappa is of. */
  readonly sharedItems: number;
}

/**
 * Sums up votes.
 *
 * @param study What was compared.
 * @param votes People's, or those of programs in their place; at most one per person, item and
 * question.
 * @param options How the intervals are resampled.
 * @returns A row per comparison and question in the study's order: first of all items, then of each
 * kind where a comparison has several.
 * @throws {RangeError} if a vote is on an item or question that the study doesn't have, or is there
 * twice.
 */
export function summarize(
  study: Study,
  votes: readonly Vote[],
  options: BootstrapOptions = {},
): SummaryRow[] {
  const votesOn = votesByAsk(study, votes);
  const comparisons = Map.groupBy(study.items, (item) => item.comparison);
  return [...comparisons].flatMap(([comparison, all]) => {
    const kinds = Map.groupBy(all, (item) => item.kind);
    const groups: (readonly [string | null, Item[]])[] = [
      [null, all],
      ...(kinds.size > 1 ? kinds : []),
    ];
    return groups.flatMap(([kind, items]) =>
      study.questions.map((question): SummaryRow => {
        const cast = items.map((item) => votesOn.get(askKey(item.id, question.id)) ?? []);
        const wins = cast.map((votes) => votes.map(({ choice }) => choice === "a" ? 1 : 0));
        const outcomes = items.flatMap((item, i): Outcome[] =>
          wins[i]!.length === 0
            ? []
            : [{ item: item.id, outcome: majority(wins[i]!), votes: wins[i]!.length }]
        );
        const counts = wins.filter((of) => of.length >= 2).map((of) => {
          const won = of.reduce<number>((sum, win) => sum + win, 0);
          return [won, of.length - won];
        });
        const kappa = counts.length === 0 ? NaN : fleissKappa(counts);
        return {
          comparison,
          kind,
          question: question.id,
          outcomes,
          votes: cast.flat().length,
          annotators: new Set(cast.flat().map(({ annotator }) => annotator)).size,
          share: outcomes.length === 0 ? null : bootstrap(
            [[outcomes.map(({ outcome }) => outcome)]],
            ([sample]) => mean(sample),
            options,
          ),
          kappa: Number.isNaN(kappa) ? null : kappa,
          sharedItems: counts.length,
        };
      })
    );
  });
}

function askKey(item: string, question: string): string {
  return JSON.stringify([item, question]);
}

function votesByAsk(study: Study, votes: readonly Vote[]): Map<string, Vote[]> {
  const asks = new Set(
    study.items.flatMap(({ id }) => study.questions.map((question) => askKey(id, question.id))),
  );
  const seen = new Set<string>();
  for (const { annotator, item, question } of votes) {
    const what = `question "${question}" about item "${item}"`;
    if (!asks.has(askKey(item, question))) {
      throw new RangeError(
        `A vote of "${annotator}" is on ${what}, which the study "${study.title}" does not have`,
      );
    }
    const key = JSON.stringify([annotator, item, question]);
    if (seen.has(key)) {
      throw new RangeError(`"${annotator}" has two votes on ${what}; expected one: keep the last`);
    }
    seen.add(key);
  }
  return Map.groupBy(votes, ({ item, question }) => askKey(item, question));
}
