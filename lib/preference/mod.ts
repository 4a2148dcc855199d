/**
 * An objective (SFT, DPO, CPO) times an error space (latent, perceptual) is a loss: six losses from two
 * small axes, and the trainer that tunes a LoRA with one of them.
 *
 * @module
 */
export * from "./adapter.ts";
export * from "./batches.ts";
export * from "./encode.ts";
export * from "./encoding_cache.ts";
export * from "./errors.ts";
export * from "./features.ts";
export * from "./loss.ts";
export * from "./memory.ts";
export * from "./method.ts";
export * from "./metrics.ts";
export * from "./objectives.ts";
export * from "./pairs.ts";
export * from "./recipes.ts";
export * from "./timestep_weight.ts";
export * from "./trainer.ts";
