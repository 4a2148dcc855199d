/**
 * A side-by-side study as a folder: `study.json` says which images stand against each other and what
 * is asked about them, and one PNG per model holds its images one below the other.
 *
 * @module
 */
import { createHash } from "node:crypto";
import sharp from "sharp";
import { writeAtomically } from "../nn/safetensors.ts";

/** What a person can be asked about a pair of images. */
export type QuestionId = "general" | "appeal" | "alignment";

/** A question about a pair of images. */
export interface Question {
  readonly id: QuestionId;
  /** As the person reads it. */
  readonly text: string;
  /** Whether the prompt stands beside it. */
  readonly showPrompt: boolean;
}

/**
 * The three questions of the human study in Wallace et al., "Diffusion Model Alignment Using Direct
 * Preference Optimization", 2023, which the NCP paper asks too.
 */
export const questions: readonly Question[] = [
  { id: "general", text: "Which image do you prefer given the prompt?", showPrompt: true },
  { id: "appeal", text: "Which image is more visually appealing?", showPrompt: false },
  {
    id: "alignment",
    text: "Which image fits the text description better?",
    showPrompt: true,
  },
];

/** The images of one model, one below the other in a PNG. */
export interface Strip {
  /** Name of the PNG in the study's folder. */
  readonly file: string;
  /** Width of an image in pixels. */
  readonly width: number;
  /** Height of an image in pixels; the PNG is `count` times as high. */
  readonly height: number;
  readonly count: number;
}

/** One image: a row of a model's strip, counted from 0 at the top. */
export interface Place {
  readonly model: string;
  readonly row: number;
}

/** A pair of images for one prompt. */
export interface Item {
  /** Unique in the study. */
  readonly id: string;
  /** What is compared, such as `ncp-dpo over dpo`: `a` is by the first, `b` by the second. */
  readonly comparison: string;
  /** A group of items that is summed up on its own too, such as the kind of its prompts. */
  readonly kind: string;
  readonly prompt: string;
  readonly a: Place;
  readonly b: Place;
}

/** What is compared, and how: the content of `study.json`. */
export interface Study {
  readonly title: string;
  readonly questions: readonly Question[];
  /** The images by model; all models have images of one size, which would tell them apart. */
  readonly models: Readonly<Record<string, Strip>>;
  readonly items: readonly Item[];
}

/** The images of each model: RGB, `count * height * width * 3` bytes. */
export type StudyImages = Readonly<Record<string, Uint8Array>>;

/** A study as {@linkcode readStudy} found it. */
export interface StoredStudy {
  readonly study: Study;
  readonly images: StudyImages;
  /** See {@linkcode studyDigest}. */
  readonly digest: string;
}

const studyFile = "study.json";

/**
 * Reads a study and checks all of it.
 *
 * @param folder Holds `study.json` and the PNGs that it names.
 * @throws {Error} if a file is missing, is damaged, or does not fit the others; the message names the
 * file and the item.
 */
export async function readStudy(folder: string): Promise<StoredStudy> {
  const path = `${folder}/${studyFile}`;
  let content: unknown;
  try {
    content = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    if (cause instanceof Deno.errors.NotFound) {
      throw new Error(
        `${path} does not exist: make the study with "deno task reproduce figure4", or name the ` +
          "folder of another one",
      );
    }
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new Error(`${path} is not JSON: make the study again`, { cause });
  }
  const study = checkStudy(content, path);
  const images: Record<string, Uint8Array> = {};
  for (const [model, strip] of Object.entries(study.models)) {
    images[model] = await readStrip(`${folder}/${strip.file}`, strip, path);
  }
  return { study, images, digest: studyDigest(study, images) };
}

/**
 * Writes a study. `study.json` comes last and an earlier one goes first, so that an interruption
 * leaves a folder without it, which {@linkcode readStudy} refuses, and never a study with other
 * images.
 *
 * @param folder Where; made if missing.
 * @param study What is compared.
 * @param images The images of each model in the study.
 * @returns The study's digest.
 * @throws {Error} if the study contradicts itself, the images are not of the sizes that it gives, or
 * the folder cannot be written.
 */
export async function writeStudy(
  folder: string,
  study: Study,
  images: StudyImages,
): Promise<string> {
  const path = `${folder}/${studyFile}`;
  checkStudy(study, path);
  for (const [model, { width, height, count }] of Object.entries(study.models)) {
    const bytes = width * height * count * 3;
    if (images[model]?.length === bytes) continue;
    throw new Error(
      `${path}: ${count} RGB images of ${width}x${height} take ${bytes} bytes, but model ` +
        `"${model}" has ${images[model]?.length ?? "none"}`,
    );
  }
  await Deno.mkdir(folder, { recursive: true });
  await Deno.remove(path).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  for (const [model, { file, width, height, count }] of Object.entries(study.models)) {
    const png = await sharp(images[model]!, {
      raw: { width, height: height * count, channels: 3 },
      limitInputPixels: false,
    }).png({ compressionLevel: 9 }).toBuffer();
    await writeAtomically(`${folder}/${file}`, png.length, (write) => write(png));
  }
  const json = new TextEncoder().encode(JSON.stringify(study, null, 1) + "\n");
  await writeAtomically(path, json.length, (write) => write(json));
  return studyDigest(study, images);
}

/**
 * Identifies a study by what its votes mean: the questions, and each item's prompt and two images.
 * A study drawn anew with other images has another digest; another title, name of a model or layout
 * of the files leaves it.
 *
 * @param study What is compared.
 * @param images The images of each model.
 * @returns 64 hexadecimal digits of a SHA-256.
 */
export function studyDigest(study: Study, images: StudyImages): string {
  const sha256 = (data: string | Uint8Array) => createHash("sha256").update(data).digest("hex");
  const image = (place: Place) => sha256(imageAt(study, images, place));
  return sha256(JSON.stringify([
    study.questions.map(({ id, text, showPrompt }) => [id, text, showPrompt]),
    study.items.map(({ id, prompt, a, b }) => [id, prompt, image(a), image(b)]),
  ]));
}

/**
 * One image of a study.
 *
 * @param study What is compared.
 * @param images The images of each model.
 * @param place Which image.
 * @returns A view of its RGB bytes.
 */
export function imageAt(study: Study, images: StudyImages, { model, row }: Place): Uint8Array {
  const { width, height } = study.models[model]!;
  const bytes = width * height * 3;
  return images[model]!.subarray(row * bytes, (row + 1) * bytes);
}

async function readStrip(path: string, strip: Strip, source: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = await Deno.readFile(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`${path} does not exist, but ${source} names it: make the study again`);
  }
  let decoded;
  try {
    decoded = await sharp(bytes, { failOn: "truncated", limitInputPixels: false }).removeAlpha()
      .toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
  } catch (cause) {
    throw new Error(`${path} is not a readable image: make the study again`, { cause });
  }
  const { data, info } = decoded;
  const height = strip.height * strip.count;
  if (info.width !== strip.width || info.height !== height) {
    throw new Error(
      `${path} is ${info.width}x${info.height}, but ${source} says that it holds ${strip.count} ` +
        `images of ${strip.width}x${strip.height}, which are ${strip.width}x${height}: make the ` +
        "study again",
    );
  }
  return new Uint8Array(data);
}

/** A study from what a file holds; the messages begin with `path` and name the place in the file. */
function checkStudy(content: unknown, path: string): Study {
  const fail = (words: string): never => {
    throw new Error(`${path}: ${words}`);
  };
  type Fields = Readonly<Record<string, unknown>>;
  const fields = (value: unknown, place: string): Fields =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? value as Fields
      : fail(`${place} must be an object, found ${JSON.stringify(value)}`);
  const list = (value: unknown, place: string): readonly unknown[] =>
    Array.isArray(value) && value.length > 0
      ? value
      : fail(`${place} must be a list of at least one, found ${JSON.stringify(value)}`);
  const text = (value: unknown, place: string): string =>
    typeof value === "string" && value !== ""
      ? value
      : fail(`${place} must be a text, found ${JSON.stringify(value)}`);
  const whole = (value: unknown, least: number, place: string): number =>
    Number.isSafeInteger(value) && value as number >= least ? value as number : fail(
      `${place} must be a whole number of at least ${least}, found ${JSON.stringify(value)}`,
    );

  const study = fields(content, "the study");
  text(study.title, "title");

  const asked = new Set<string>();
  for (const [i, entry] of list(study.questions, "questions").entries()) {
    const question = fields(entry, `question ${i}`);
    const id = text(question.id, `the id of question ${i}`);
    const known = questions.map((known) => known.id);
    if (!(known as string[]).includes(id)) {
      fail(`question ${i} has the id "${id}"; expected one of ${known.join(", ")}`);
    }
    if (asked.has(id)) fail(`question "${id}" is there twice`);
    asked.add(id);
    text(question.text, `the text of question "${id}"`);
    if (typeof question.showPrompt !== "boolean") {
      fail(`showPrompt of question "${id}" must be true or false, found ${question.showPrompt}`);
    }
  }

  const strips = new Map<string, Strip>();
  for (const [model, entry] of Object.entries(fields(study.models, "models"))) {
    const strip = fields(entry, `model "${model}"`);
    const file = text(strip.file, `the file of model "${model}"`);
    if (/[/\\]|^\.\.?$/.test(file) || file === studyFile) {
      fail(`the file of model "${model}" is "${file}"; expected the name of a PNG in the folder`);
    }
    for (const [other, { file: taken }] of strips) {
      if (taken === file) fail(`models "${other}" and "${model}" both have the file "${file}"`);
    }
    strips.set(model, {
      file,
      width: whole(strip.width, 1, `the width of model "${model}"`),
      height: whole(strip.height, 1, `the height of model "${model}"`),
      count: whole(strip.count, 1, `the count of model "${model}"`),
    });
  }
  const [first, ...others] = strips;
  for (const [model, { width, height }] of others) {
    const [expected, size] = first!;
    if (width === size.width && height === size.height) continue;
    fail(
      `images of model "${model}" are ${width}x${height}, those of "${expected}" are ` +
        `${size.width}x${size.height}: a person could tell them apart; draw all at one size`,
    );
  }

  const ids = new Set<string>();
  for (const [i, entry] of list(study.items, "items").entries()) {
    const item = fields(entry, `item ${i}`);
    const id = text(item.id, `the id of item ${i}`);
    if (ids.has(id)) fail(`item "${id}" is there twice`);
    ids.add(id);
    for (const name of ["comparison", "kind", "prompt"]) {
      text(item[name], `${name} of item "${id}"`);
    }
    const [a, b] = (["a", "b"] as const).map((side) => {
      const place = fields(item[side], `image ${side} of item "${id}"`);
      const model = text(place.model, `the model of image ${side} of item "${id}"`);
      const row = whole(place.row, 0, `the row of image ${side} of item "${id}"`);
      const strip = strips.get(model) ?? fail(
        `image ${side} of item "${id}" is by model "${model}"; there are ` +
          `${[...strips.keys()].join(", ") || "no models"}`,
      );
      if (row >= strip.count) {
        fail(
          `image ${side} of item "${id}" is row ${row} of model "${model}", whose rows are 0 to ` +
            `${strip.count - 1}`,
        );
      }
      return { model, row };
    });
    if (a!.model === b!.model && a!.row === b!.row) {
      fail(`item "${id}" compares row ${a!.row} of model "${a!.model}" with itself`);
    }
  }
  return content as Study;
}
