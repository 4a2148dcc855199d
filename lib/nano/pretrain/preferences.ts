/**
 * Stage `preferences`: images of the weak and the strong model at several guidance scales, and what
 * simulated annotators say of them.
 *
 * Two collections: `preference` (tuning, and PickScore's training) and `hps` (HPS's training), each
 * with prompts and annotators of its own; held-out prompts of both scorers come with the first.
 *
 * @module
 */
import type { TextEncoder } from "../../diffusion/conditions.ts";
import { generate, Pipeline } from "../../diffusion/pipeline.ts";
import { NoiseSchedule } from "../../diffusion/noise_schedule.ts";
import { encodeImage, type ImageFormat } from "../../data/images.ts";
import { writePreferences } from "../../data/preferences.ts";
import { choiceRow } from "../../data/schema.ts";
import { annotate, type Choice } from "../annotator.ts";
import { parseCaption } from "../caption.ts";
import { judge } from "../oracle.ts";
import { promptSplits, type Split } from "../prompts.ts";
import { IMAGE_VALUES } from "../world.ts";
import { nanoTokenizer } from "./clip.ts";
import { SCHEDULER } from "./configs.ts";
import type { Fit } from "./fit.ts";
import { openClip, openUNet, openVae, textTower } from "./store.ts";

/** Prompts per split. */
export const PROMPTS: Partial<Record<Split, number>> = { preference: 1000, hps: 300 };

/** The splits that get images. */
export const COLLECTIONS = ["preference", "scorerValidation", "hps"] as const;
/** A split that gets images. */
export type Collection = (typeof COLLECTIONS)[number];

/** Images per prompt, and how each is made: even prompts at one scale, odd ones at several. */
const RECIPES = [
  [{ model: "strong", scale: 4 }, { model: "strong", scale: 4 }, { model: "weak", scale: 4 }, {
    model: "weak",
    scale: 4,
  }],
  [{ model: "strong", scale: 2 }, { model: "strong", scale: 5.5 }, { model: "weak", scale: 2.5 }, {
    model: "weak",
    scale: 5,
  }],
] as const;
/** Images of one prompt. */
export const PER_PROMPT = RECIPES[0].length;
const STEPS = 12;
/** Small, and close enough that the oracle's utility moves by less than a tenth of the annotators' noise. */
const FORMAT: ImageFormat = { kind: "avif", quality: 60 };

/** Judgements per collection: seed offset and annotators per prompt. */
export const ANNOTATORS: Readonly<Record<Collection, { seed: number; annotators: number }>> = {
  preference: { seed: 1, annotators: 2 },
  scorerValidation: { seed: 2, annotators: 2 },
  hps: { seed: 3, annotators: 5 },
};

/** A collection's images and prompts. */
export interface PreferenceImages {
  readonly prompts: readonly string[];
  /** RGB bytes [prompt, image, 64, 64, 3]. */
  readonly images: Uint8Array;
}

/** A base model's name. */
export type BaseName = "weak" | "strong" | "xl";

/** What encodes a base model's prompts. */
export async function textEncodersOf(output: string, model: BaseName): Promise<TextEncoder[]> {
  const first = textTower(await openClip(`${output}/clip-a`), false);
  if (model !== "xl") return [first];
  return [first, textTower(await openClip(`${output}/clip-b`), true)];
}

/** Opens a base model as a pipeline. */
export async function openBase(output: string, model: BaseName): Promise<Pipeline> {
  const textEncoders = await textEncodersOf(output, model);
  return new Pipeline({
    unet: await openUNet(`${output}/unet-${model}`),
    vae: await openVae(`${output}/vae`),
    textEncoders: textEncoders.map((encoder) => ({ ...encoder, tokenizer: nanoTokenizer() })),
    schedule: NoiseSchedule.fromConfig(SCHEDULER),
  });
}

/** Makes the images of a collection, part by part; a part that is there is not made again. */
export async function makeImages(
  output: string,
  collection: Collection,
  seed: number,
  onProgress?: Fit["onProgress"],
): Promise<void> {
  const path = `${output}/${collection}.rgb`;
  if (await exists(path)) return;
  const prompts = promptSplits(seed, PROMPTS)[collection];
  const images = new Uint8Array(prompts.length * PER_PROMPT * IMAGE_VALUES);
  let done = 0;
  for (const model of ["strong", "weak"] as const) {
    const pipeline = await openBase(output, model);
    const jobs = prompts.flatMap((_, p) =>
      RECIPES[p % 2]!.flatMap((recipe, i) => recipe.model === model ? [{ p, i, ...recipe }] : [])
    );
    for (const scale of new Set(jobs.map((job) => job.scale))) {
      const some = jobs.filter((job) => job.scale === scale);
      for (let first = 0; first < some.length; first += 64) {
        const part = some.slice(first, first + 64);
        const made = await generate(pipeline, part.map(({ p }) => prompts[p]!), {
          // Every image has starting noise of its own.
          seed: seed + 10 + COLLECTIONS.indexOf(collection) * 10 + (model === "weak" ? 1 : 0),
          firstIndex: Math.round(scale * 100_000) + first,
          steps: STEPS,
          guidanceScale: scale,
          batchSize: 32,
        });
        part.forEach(({ p, i }, k) =>
          images.set(
            made.data.subarray(k * IMAGE_VALUES, (k + 1) * IMAGE_VALUES),
            (p * PER_PROMPT + i) * IMAGE_VALUES,
          )
        );
        done += part.length;
        await onProgress?.(done, prompts.length * PER_PROMPT, collection);
      }
    }
    pipeline.dispose();
  }
  await Deno.writeFile(`${path}.partial`, images);
  await Deno.rename(`${path}.partial`, path);
}

/** Reads a collection's images. */
export async function openImages(
  output: string,
  collection: Collection,
  seed: number,
): Promise<PreferenceImages> {
  return {
    prompts: promptSplits(seed, PROMPTS)[collection],
    images: await Deno.readFile(`${output}/${collection}.rgb`),
  };
}

/** True utilities of the images, per prompt. */
export function utilitiesOf({ prompts, images }: PreferenceImages): Float64Array[] {
  return prompts.map((prompt, p) => {
    const caption = parseCaption(prompt);
    return Float64Array.from({ length: PER_PROMPT }, (_, i) => {
      const at = (p * PER_PROMPT + i) * IMAGE_VALUES;
      return judge(images.subarray(at, at + IMAGE_VALUES), caption).utility;
    });
  });
}

/** What a collection's annotators say. */
export function choicesOf(data: PreferenceImages, collection: Collection, seed: number): Choice[] {
  const { seed: offset, annotators } = ANNOTATORS[collection];
  return annotate(utilitiesOf(data), { seed: seed + offset, annotators, shown: PER_PROMPT });
}

/** Writes the collection for tuning as a Parquet file in Pick-a-Pic v2's schema. */
export async function writeDataset(path: string, output: string, seed: number): Promise<void> {
  const data = await openImages(output, "preference", seed);
  const choices = choicesOf(data, "preference", seed);
  const { prompts, images } = data;
  const encoded: Uint8Array[] = [];
  for (let i = 0; i < prompts.length * PER_PROMPT; i++) {
    const bytes = images.subarray(i * IMAGE_VALUES, (i + 1) * IMAGE_VALUES);
    encoded.push(await encodeImage({ width: 64, height: 64, data: bytes }, FORMAT));
  }
  const perPrompt = choices.length / prompts.length;
  const offered = (prompt: number, image: number) => {
    const number = prompt * PER_PROMPT + image;
    const recipe = RECIPES[prompt % 2]![image]!;
    return {
      uid: `nano-${String(number).padStart(6, "0")}`,
      bytes: encoded[number]!,
      model: `nano-${recipe.model} (guidance ${recipe.scale})`,
    };
  };
  const rows = choices.map(({ prompt, image0, image1, label0, ranking, annotator }, row) =>
    choiceRow({
      caption: prompts[prompt]!,
      images: [offered(prompt, image0), offered(prompt, image1)],
      label0,
      // Judgements follow each other by a minute; the day has no meaning.
      time: new Date(Date.UTC(2026, 0, 1) + 60_000 * ranking),
      user: prompt * ANNOTATORS.preference.annotators + annotator,
      perPrompt,
    }, row)
  );
  await writePreferences(path, rows, {
    licence: "MIT",
    description:
      "NCP Lab nano preferences: procedural prompts, images of the nano models, simulated annotators",
  });
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
