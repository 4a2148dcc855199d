/**
 * The human side of a side-by-side study: which images stand against each other, the page on which
 * people vote, their votes, and what these say.
 *
 * @module
 */
export * from "./annotator_name.ts";
export * from "./asks.ts";
export * from "./picture.ts";
export * from "./server.ts";
export * from "./study.ts";
export * from "./summary.ts";
export * from "./votes.ts";
