/**
 * `deno task generate`: images from prompts, with a LoRA or without.
 *
 * @module
 */
import { generate, loadPipeline, type PromptEncoder, schedulerNames } from "../diffusion/mod.ts";
import { imageGrid } from "../experiments/image_grid.ts";
import { writeWhole } from "../experiments/run.ts";
import { loadLora } from "../nn/mod.ts";
import { useDevice } from "./device.ts";
import { gridName, readPrompts, writeImages } from "./files.ts";
import { choice, deviceOption, integer, number, text, texts } from "./options.ts";
import { byteProgress, progressOf } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "generate",
  summary: "Draw one image per prompt.",
  options: {
    base: text({
      description: "model: a folder in diffusers' layout, or a single .safetensors file",
      placeholder: "PATH",
      default: "data/nano/weak",
    }),
    lora: text({
      description: "LoRA file, as diffusers, peft or kohya's scripts write it",
      placeholder: "FILE",
    }),
    prompt: texts({ description: "what to draw" }),
    prompts: text({
      description:
        "more prompts: a text file with one per line, PartiPrompts' table, HPDv2's JSON " +
        "or Pick-a-Pic's Parquet",
      placeholder: "FILE",
    }),
    scheduler: choice(schedulerNames, {
      description: "what to sample by, with the folder's settings; the folder's own unless given",
    }),
    steps: integer({ description: "denoising steps", default: 12, min: 1, max: 1000 }),
    guidance: number({
      description: "classifier-free guidance scale; 1 turns it off",
      default: 4,
      min: 1,
    }),
    height: integer({ description: "height in pixels; the model's own unless given", min: 8 }),
    width: integer({ description: "width in pixels; the model's own unless given", min: 8 }),
    weights: choice(["stored", "f16"], {
      description: "how the model is held: as in its files, or in 16 bits",
      default: "stored",
    }),
    seed: integer({ description: "seed of the starting noise", default: 0, min: 0 }),
    output: text({ description: "folder for the images", placeholder: "DIR", default: "images" }),
    device: deviceOption,
  },
  examples: [
    'deno task generate --prompt "a large red circle on a dark background"',
    "deno task generate --prompts prompts.txt --lora runs/mine/pytorch_lora_weights.safetensors",
    'deno task generate --base models/sd15 --scheduler dpm-solver++ --steps 25 --guidance 7.5 --prompt "a cat"',
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const prompts = [
      ...options.prompt,
      ...(options.prompts ? await readPrompts(options.prompts) : []),
    ];
    if (prompts.length === 0) {
      throw new UserError('nothing to draw: give --prompt "..." or --prompts FILE');
    }
    await useDevice(options.device);
    const pipeline = await loadPipeline(options.base, {
      dtype: options.weights,
      onProgress: byteProgress("load the model"),
    });
    const lora = options.lora ? await loadLora(options.lora, pipeline.unet.weights) : undefined;
    if (lora && lora.textEncoderLayers > 0) {
      console.log(
        `${options.lora} adapts ${lora.textEncoderLayers} layers of the text encoders as well: ` +
          `they are left as they are, only the U-Net is adapted`,
      );
    }
    const [encoder] = pipeline.textEncoders as [PromptEncoder];
    const cut = prompts.filter((prompt) => !encoder.tokenizer.fits(prompt));
    if (cut.length > 0) {
      console.error(
        `${cut.length} prompt${cut.length === 1 ? " has" : "s have"} more than ` +
          `${encoder.tokenizer.maxLength} tokens and lose${cut.length === 1 ? "s" : ""} the end: ` +
          `"${cut[0]!.slice(0, 60)}..."`,
      );
    }
    const images = await generate(pipeline, prompts, {
      overlong: "truncate",
      seed: options.seed,
      steps: options.steps,
      guidanceScale: options.guidance,
      onProgress: progressOf("generate", "steps"),
      ...(lora ? { lora } : {}),
      ...(options.scheduler ? { scheduler: options.scheduler } : {}),
      ...(options.height ? { height: options.height } : {}),
      ...(options.width ? { width: options.width } : {}),
    });
    await writeImages(options.output, images);
    // A line break is a space to the tokenizer, but would be the next prompt to who reads the file.
    const lines = prompts.map((prompt) => prompt.replace(/\s*[\r\n]\s*/g, " "));
    await writeWhole(`${options.output}/prompts.txt`, lines.join("\n") + "\n");
    const { width, height } = images;
    const bytes = width * height * 3;
    const grid = await imageGrid(
      prompts.map((caption, i) => ({
        pixels: images.data.subarray(i * bytes, (i + 1) * bytes),
        width,
        height,
        caption,
      })),
      { columns: Math.min(4, prompts.length) },
    );
    await writeWhole(`${options.output}/${gridName}`, grid);
    console.log(`${prompts.length} images in ${options.output}, overview in ${gridName}`);
  });
}
