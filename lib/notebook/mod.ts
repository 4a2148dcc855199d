/**
 * What the cells of the notebooks call: shows results so that none is lost, in a notebook and in a
 * terminal.
 *
 * @module
 */
export * from "./figure.ts";
export * from "./image.ts";
export { interruptCheck, Interrupted, type MimeBundle } from "./kernel.ts";
export * from "./lab.ts";
export * from "./live.ts";
export * from "./markdown.ts";
export * from "./plan.ts";
export * from "./preset.ts";
export * from "./progress.ts";
export * from "./show.ts";
export * from "./table.ts";
export * from "./training_curves.ts";
export * from "./workspace.ts";
