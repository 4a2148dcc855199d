/**
 * The nano lineage's world: captions, pictures, the oracle and its annotators, prompts and tokenizer.
 *
 * @module
 */
export * from "./annotator.ts";
export * from "./caption.ts";
export * from "./degrade.ts";
export * from "./kinds.ts";
export * from "./oracle.ts";
export * from "./prompts.ts";
export * from "./tokenizer_files.ts";
export * from "./world.ts";
