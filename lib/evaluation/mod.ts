/**
 * Scorers, and the statistics that compare what they say.
 *
 * @module
 */
export * from "./agreement.ts";
export * from "./comparison.ts";
export * from "./scorer.ts";
export * from "./statistics.ts";
