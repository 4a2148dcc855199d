/**
 * How far several people say the same of the same things: their majority, and their agreement beyond
 * chance.
 *
 * @module
 */

/**
 * Fleiss' kappa: agreement beyond chance among any number of raters.
 *
 * With n_ij ratings of item i in category j, n_i of them for item i, and N items,
 *
 * P_i = (sum_j n_ij^2 - n_i) / (n_i (n_i - 1)), the share of pairs of raters that agree on item i,
 * p_j = (1 / N) sum_i n_ij / n_i, how common category j is,
 * kappa = (mean_i P_i - sum_j p_j^2) / (1 - sum_j p_j^2).
 *
 * 1 is perfect agreement, 0 is what chance gives; below 0 people agree less than that. With equally
 * many raters for every item this is the kappa of Fleiss, "Measuring nominal scale agreement among
 * many raters", Psychological Bulletin 76, 1971; items of different numbers of raters count equally,
 * as in Gwet, "Handbook of Inter-Rater Reliability", 4th edition, 2014.
 *
 * @param counts A row per item, a column per category: how many raters put the item there.
 * @returns The kappa; `NaN` if all ratings of all items fall into one category. Chance alone would
 * agree there too, so the data do not tell agreement from a habit (0 / 0).
 * @throws {RangeError} If there is no item, a row is of another length, a count is not a whole number
 * of at least 0, or an item has fewer than two raters.
 *
 * @example
 * ```ts
 * // Three people, two images: they agree on the first item, two to one on the second.
 * fleissKappa([[3, 0], [1, 2]]); // 0.25
 * ```
 */
export function fleissKappa(counts: readonly (readonly number[])[]): number {
  const categories = counts[0]?.length ?? 0;
  if (categories === 0) {
    throw new RangeError("Fleiss' kappa needs at least one item with one category, got none");
  }
  const shares = new Float64Array(categories);
  let agreement = 0;
  counts.forEach((row, i) => {
    if (row.length !== categories) {
      throw new RangeError(`Item ${i} has ${row.length} categories; expected ${categories}`);
    }
    for (const count of row) {
      if (Number.isInteger(count) && count >= 0) continue;
      throw new RangeError(`Item ${i} has a count of ${count}; expected a whole number from 0 up`);
    }
    const raters = row.reduce((sum, count) => sum + count, 0);
    if (raters < 2) {
      throw new RangeError(
        `Item ${i} has ${raters} ${raters === 1 ? "rater" : "raters"}; agreement needs at least ` +
          "two: leave such items out",
      );
    }
    const pairs = row.reduce((sum, count) => sum + count * (count - 1), 0);
    agreement += pairs / (raters * (raters - 1)) / counts.length;
    row.forEach((count, j) => shares[j]! += count / raters / counts.length);
  });
  // Counted, since rounding would hide the 0 / 0.
  const used = shares.filter((share) => share > 0).length;
  if (used === 1) return NaN;
  const chance = shares.reduce((sum, share) => sum + share * share, 0);
  return (agreement - chance) / (1 - chance);
}

/**
 * What most of the votes say.
 *
 * @param votes 1 or 0 each.
 * @returns 1 or 0; 0.5 for a tie.
 * @throws {RangeError} If there are no votes, or one is neither 1 nor 0.
 */
export function majority(votes: ArrayLike<number>): 0 | 0.5 | 1 {
  if (votes.length === 0) throw new RangeError("A majority of no votes is not defined");
  let balance = 0;
  for (let i = 0; i < votes.length; i++) {
    if (votes[i] !== 0 && votes[i] !== 1) {
      throw new RangeError(`Vote ${i} is ${votes[i]}; expected 1 or 0`);
    }
    balance += votes[i] === 1 ? 1 : -1;
  }
  return balance > 0 ? 1 : balance < 0 ? 0 : 0.5;
}
