/**
 * A claim of the paper, and what became of it here by a test that was stated before the runs.
 *
 * @module
 */
import type { Interval } from "../evaluation/statistics.ts";

/** What became of a claim. */
export type Verdict = "reproduced" | "not shown" | "contradicted" | "not tested";

/** A claim of the paper. */
export interface Claim {
  /** What is claimed, a clause. */
  readonly claim: string;
  /** The paper's number or words. */
  readonly paper: string;
  /** Ours, with its interval. */
  readonly ours: string;
  /** The test, a clause that completes "reproduced if". */
  readonly test: string;
  readonly verdict: Verdict;
}

/** How a number is shown. */
export interface Shown {
  readonly decimals: number;
  readonly unit?: string;
  readonly signed?: boolean;
}

/**
 * The verdict on the claim that a number lies above a line: its 95 % interval is wholly above it
 * (reproduced), below it (contradicted), or on both sides (not shown). A single seed tests nothing, since
 * its interval leaves out the spread between trainings.
 *
 * @param line Such as 50 for a win rate, 0 for a difference.
 * @param seeds How many trainings the interval is over.
 */
export function verdictAbove(interval: Interval, line: number, seeds: number): Verdict {
  if (seeds < 2) return "not tested";
  if (interval.low > line) return "reproduced";
  return interval.high < line ? "contradicted" : "not shown";
}

/** An interval in words, such as `56.2 % (46.7 to 64.8)`. */
export function intervalText(
  { estimate, low, high }: Interval,
  { decimals, unit = "", signed = false }: Shown,
): string {
  const show = (value: number) => (signed && value > 0 ? "+" : "") + value.toFixed(decimals);
  return `${show(estimate)}${unit} (${show(low)} to ${show(high)})`;
}

/** A claim as a sentence in Markdown. */
export function claimSentence({ claim, paper, ours, test, verdict }: Claim): string {
  const words: Readonly<Record<Verdict, string>> = {
    reproduced: "**reproduced at this scale**",
    "not shown": "**not shown at this scale**",
    contradicted: "**contradicted at this scale**",
    "not tested": "**not tested**, as one training says nothing of the spread between them",
  };
  return `That ${claim} (the paper: ${paper}) was ${words[verdict]}: ${ours}. ` +
    `Stated test: ${test}.`;
}

const begin = "<!-- claims:begin -->", end = "<!-- claims:end -->";

/**
 * Puts the claims of all experiments into a page, one row each, between its markers.
 *
 * @param page The page, Markdown.
 * @param experiments Claims by experiment, in order.
 * @throws {Error} If the page lacks the markers.
 */
export function withClaims(
  page: string,
  experiments: readonly { readonly name: string; readonly claims: readonly Claim[] }[],
): string {
  const [before, after] = [page.indexOf(begin), page.indexOf(end)];
  if (before < 0 || after < before) throw new Error(`the page lacks ${begin} and ${end}`);
  const cell = (text: string) => text.replaceAll("|", "\\|");
  const rows = experiments.flatMap(({ name, claims }) =>
    claims.map(({ claim, paper, ours, test, verdict }) =>
      `| ${
        [`[${name}](${name}/table.md)`, claim, paper, ours, test, `**${verdict}**`].map(cell).join(
          " | ",
        )
      } |`
    )
  );
  return page.slice(0, before + begin.length) + "\n\n" +
    [
      "| experiment | claim | the paper | here (95 % interval) | reproduced if | verdict |",
      "| --- | --- | --- | --- | --- | --- |",
      ...rows,
    ].join("\n") +
    "\n\n" + page.slice(after);
}
