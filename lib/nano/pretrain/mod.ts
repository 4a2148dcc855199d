/**
 * The nano lineage from a seed, stage by stage: autoencoder, two CLIPs, base model (weak and strong),
 * the one of SDXL's layout, preference data, two scorers, and the release that `data` holds.
 *
 * A stage whose result is there is skipped; a killed one goes on from its last checkpoint.
 *
 * @module
 */
import { writeManifest } from "../../data/manifest.ts";
import { savePipeline } from "../../diffusion/pipeline_files.ts";
import type { UNetConfig } from "../../diffusion/config.ts";
import { initUNet } from "../../diffusion/unet.ts";
import type { Tensor } from "../../tensor/mod.ts";
import { promptSplits } from "../prompts.ts";
import type { Fit } from "./fit.ts";
import { trainVae } from "./autoencoder.ts";
import { trainBase } from "./base.ts";
import { trainClip } from "./clip.ts";
import { CLIP_A, CLIP_B, UNET, UNET_XL } from "./configs.ts";
import { forget } from "./fit.ts";
import {
  COLLECTIONS,
  makeImages,
  openBase,
  PER_PROMPT,
  PROMPTS,
  textEncodersOf,
  writeDataset,
} from "./preferences.ts";
import { baseQuality, vaeQuality } from "./quality.ts";
import { scorerAccuracy, trainScorer } from "./scorers.ts";
import {
  isComplete,
  openClip,
  openUNet,
  openVae,
  saveClip,
  saveNetwork,
  writeText,
} from "./store.ts";

/** The stages in the order that they build on each other. */
export const stages = [
  "vae",
  "clip-a",
  "clip-b",
  "unet",
  "unet-xl",
  "preferences",
  "pickscore",
  "hps",
  "release",
] as const;

/** A stage's name. */
export type Stage = (typeof stages)[number];

/** How long each network is trained. */
const STEPS = {
  vae: 4500,
  "clip-a": 1000,
  "clip-b": 800,
  unet: 4000,
  weak: 2000,
  strong: 1800,
  "unet-xl": 3000,
} as const;

/** What to build and where. */
export interface PretrainOptions {
  readonly stages: readonly Stage[];
  readonly output: string;
  readonly seed: number;
  readonly onProgress?: (
    stage: Stage,
    ...progress: Parameters<NonNullable<Fit["onProgress"]>>
  ) => void;
}

/** Builds the stages asked for. */
export async function pretrain(options: PretrainOptions): Promise<void> {
  const { output, seed, onProgress } = options;
  await Deno.mkdir(output, { recursive: true });
  for (const stage of stages.filter((s) => options.stages.includes(s))) {
    const common = {
      directory: output,
      seed,
      onProgress: (...progress: Parameters<NonNullable<Fit["onProgress"]>>) =>
        onProgress?.(stage, ...progress),
    };
    await STAGES[stage](output, common);
  }
}

type Common = Pick<Fit, "directory" | "seed" | "onProgress">;

const STAGES: Readonly<Record<Stage, (output: string, common: Common) => Promise<void>>> = {
  async vae(output, common) {
    if (await isComplete(`${output}/vae`)) return;
    const { weights, config } = await trainVae({ ...common, steps: STEPS.vae });
    const label = { _class_name: "AutoencoderKL" };
    await saveNetwork(`${output}/vae`, "diffusion_pytorch_model", label, config, weights);
    await forget(output, "vae");
  },
  "clip-a": (output, common) => clipStage("clip-a", CLIP_A, output, common),
  "clip-b": (output, common) => clipStage("clip-b", CLIP_B, output, common),
  async unet(output, common) {
    if (await isComplete(`${output}/unet-strong`)) return;
    const vae = await openVae(`${output}/vae`);
    const model = { config: UNET, textEncoders: await textEncodersOf(output, "weak") };
    const save = (name: string, weights: Parameters<typeof saveNetwork>[4]) =>
      saveUNet(`${output}/unet-${name}`, UNET, weights);
    const total = STEPS.unet + STEPS.strong;
    if (!await isComplete(`${output}/unet-base`)) {
      const base = await trainBase(vae, model, {
        ...common,
        onProgress: ofWhole(common.onProgress, 0, total),
        name: "unet-base",
        initial: initUNet(UNET, common.seed),
        steps: STEPS.unet,
        learningRate: 1.5e-3,
        select: (step) => step <= STEPS.weak ? "all" : "better",
        keep: [STEPS.weak],
        onKeep: (_, weights) => save("weak", weights),
      });
      await save("base", base);
      await forget(output, "unet-base");
    }
    const { weights: base } = await openUNet(`${output}/unet-base`);
    const strong = await trainBase(vae, model, {
      ...common,
      onProgress: ofWhole(common.onProgress, STEPS.unet, total),
      seed: common.seed + 1,
      name: "unet-strong",
      initial: base.tensors,
      steps: STEPS.strong,
      learningRate: 1e-3,
      select: () => "flawless",
    });
    await save("strong", strong);
    await forget(output, "unet-strong");
  },
  async "unet-xl"(output, common) {
    if (await isComplete(`${output}/unet-xl`)) return;
    const model = { config: UNET_XL, textEncoders: await textEncodersOf(output, "xl") };
    // A seed of its own: another start, and pictures that the other model was not trained on.
    const seed = common.seed + 2;
    const weights = await trainBase(await openVae(`${output}/vae`), model, {
      ...common,
      seed,
      name: "unet-xl",
      initial: initUNet(UNET_XL, seed),
      steps: STEPS["unet-xl"],
      learningRate: 1.5e-3,
      select: () => "all",
    });
    await saveUNet(`${output}/unet-xl`, UNET_XL, weights);
    await forget(output, "unet-xl");
  },
  async preferences(output, common) {
    const splits = promptSplits(common.seed, PROMPTS);
    const counts = COLLECTIONS.map((collection) => splits[collection].length * PER_PROMPT);
    const total = counts.reduce((a, b) => a + b);
    let before = 0;
    for (const [i, collection] of COLLECTIONS.entries()) {
      const onProgress = ofWhole(common.onProgress, before, total);
      await makeImages(output, collection, common.seed, onProgress);
      before += counts[i]!;
    }
  },
  pickscore: (output, common) => scorerStage("pickscore", "clip-a", output, common),
  hps: (output, common) => scorerStage("hps", "clip-b", output, common),
  release,
};

/** A part's progress as the progress of its whole stage; `before` is what earlier parts have done of `total`. */
function ofWhole(
  onProgress: Fit["onProgress"],
  before: number,
  total: number,
): NonNullable<Fit["onProgress"]> {
  return (done, _, note) => onProgress?.(before + done, total, note);
}

async function scorerStage(
  name: "pickscore" | "hps",
  base: "clip-a" | "clip-b",
  output: string,
  common: Common,
): Promise<void> {
  if (await isComplete(`${output}/${name}`)) return;
  const clip = await openClip(`${output}/${base}`);
  const weights = await trainScorer(name, clip, output, common);
  await saveClip(`${output}/${name}`, clip.config, weights);
  await forget(output, name);
}

function saveUNet(
  folder: string,
  config: UNetConfig,
  weights: ReadonlyMap<string, Tensor>,
): Promise<void> {
  const label = { _class_name: "UNet2DConditionModel" };
  return saveNetwork(folder, "diffusion_pytorch_model", label, config, weights);
}

/** Gathers what `data` holds under `release/`. */
async function release(output: string, common: Common): Promise<void> {
  await releaseNano(output, common);
  await releaseXl(output, common);
}

/**
 * `nano`: both pipelines (the strong one shares everything but the U-Net), the scorers, the preferences,
 * the prompts, how good it all is, and the hashes.
 */
async function releaseNano(output: string, { seed }: Common): Promise<void> {
  const to = `${output}/release/nano`;
  await Deno.mkdir(to, { recursive: true });
  for (const model of ["weak", "strong"] as const) {
    const pipeline = await openBase(output, model);
    await savePipeline(`${to}/${model}`, pipeline, { dtype: "f16" });
    pipeline.dispose();
  }
  for (const part of ["vae", "text_encoder", "tokenizer"]) {
    await Deno.remove(`${to}/strong/${part}`, { recursive: true });
    await Deno.symlink(`../weak/${part}`, `${to}/strong/${part}`);
  }
  for (const name of ["pickscore", "hps"] as const) {
    await Deno.mkdir(`${to}/${name}`, { recursive: true });
    for await (const { name: file } of Deno.readDir(`${output}/${name}`)) {
      await Deno.copyFile(`${output}/${name}/${file}`, `${to}/${name}/${file}`);
    }
  }
  await writeDataset(`${to}/preferences.parquet`, output, seed);
  // The other splits' prompts are the captions of what was made from them.
  const { validation, test } = promptSplits(seed, PROMPTS);
  await writeText(`${to}/prompts.json`, JSON.stringify({ validation, test }, null, 1) + "\n");
  const { "unet-xl": _, ...steps } = STEPS;
  const quality = {
    seed,
    steps,
    vae: await vaeQuality(output, seed),
    weak: await baseQuality(output, "weak", seed),
    strong: await baseQuality(output, "strong", seed),
    pickscore: await scorerAccuracy(`${output}/pickscore`, output, seed),
    hps: await scorerAccuracy(`${output}/hps`, output, seed),
  };
  await writeText(`${to}/quality.json`, JSON.stringify(quality, null, 2) + "\n");
  await writeManifest(to);
}

/** `nano-xl`: the pipeline of SDXL's layout, which shares the autoencoder and the first text encoder. */
async function releaseXl(output: string, { seed }: Common): Promise<void> {
  const to = `${output}/release/nano-xl`;
  await Deno.mkdir(to, { recursive: true });
  const pipeline = await openBase(output, "xl");
  await savePipeline(to, pipeline, { dtype: "f16" });
  pipeline.dispose();
  for (const part of ["vae", "text_encoder", "tokenizer", "tokenizer_2"]) {
    await Deno.remove(`${to}/${part}`, { recursive: true });
    await Deno.symlink(`../nano/weak/${part.replace("_2", "")}`, `${to}/${part}`);
  }
  const quality = { seed, steps: STEPS["unet-xl"], ...await baseQuality(output, "xl", seed) };
  await writeText(`${to}/quality.json`, JSON.stringify(quality, null, 2) + "\n");
  await writeManifest(to);
}

async function clipStage(
  name: "clip-a" | "clip-b",
  config: typeof CLIP_A,
  output: string,
  common: Common,
): Promise<void> {
  if (await isComplete(`${output}/${name}`)) return;
  // Another seed for each, so that the two scorers see other data.
  const seed = common.seed + (name === "clip-a" ? 100 : 200);
  const weights = await trainClip(name, config, { ...common, seed, steps: STEPS[name] });
  await saveClip(`${output}/${name}`, config, weights);
  await forget(output, name);
}
