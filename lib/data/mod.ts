/**
 * Preference datasets in Pick-a-Pic v2's schema, their images, and their curation.
 *
 * @module
 */
export * from "./comparisons.ts";
export * from "./curation.ts";
export * from "./faults.ts";
export * from "./images.ts";
export * from "./preferences.ts";
export * from "./preprocess.ts";
export * from "./prompt_sets.ts";
export * from "./resample.ts";
export * from "./schema.ts";
export * from "./stored_images.ts";
