/**
 * Scorers, and the statistics that compare what they say.
 *
 * @module
 */
export * from "./agreement.ts";
export * from "./comparison.ts";
export * from "./image_processor.ts";
export * from "./open_clip.ts";
export * from "./scorer.ts";
export * from "./statistics.ts";
