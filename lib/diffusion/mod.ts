/**
 * Stable Diffusion's networks, noise schedules and pipelines in the formats of diffusers and
 * transformers. A model is a pure function of weights, configuration and inputs.
 *
 * @module
 */
export * from "./clip.ts";
export * from "./clip_text.ts";
export * from "./clip_vision.ts";
export * from "./conditions.ts";
export * from "./config.ts";
export { addNoise, velocity } from "./ddpm.ts";
export * from "./noise_schedule.ts";
export * from "./pipeline.ts";
export * from "./pipeline_files.ts";
export * from "./sample.ts";
export * from "./sampling_plan.ts";
export * from "./scheduler_config.ts";
export * from "./schedulers.ts";
export * from "./single_file.ts";
export * from "./tokenizer.ts";
export * from "./unet.ts";
export * from "./vae.ts";
