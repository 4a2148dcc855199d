/**
 * Layers as pure functions of named weights and inputs, the files that weights live in, and what
 * trains them.
 *
 * @module
 */
export * from "./activation.ts";
export * from "./adamw.ts";
export * from "./adamw8bit.ts";
export * from "./attention.ts";
export * from "./checkpoint.ts";
export * from "./clip_grad_norm.ts";
export * from "./conv.ts";
export * from "./embedding.ts";
export * from "./init.ts";
export * from "./linear.ts";
export * from "./lora.ts";
export * from "./lora_file.ts";
export * from "./norm.ts";
export * from "./recompute.ts";
export * from "./safetensors.ts";
export * from "./torch_checkpoint.ts";
export * from "./warmup.ts";
export * from "./weights.ts";
