/**
 * The files that commands read and write: prompts and images.
 *
 * @module
 */
import sharp from "sharp";
import { readPromptSet } from "../data/prompt_sets.ts";
import type { Images } from "../diffusion/mod.ts";
import { writeWhole } from "../experiments/run.ts";
import { UserError } from "./user_error.ts";

/**
 * Reads prompts in any of the formats of {@linkcode readPromptSet}.
 *
 * @param path A file, or a folder of them.
 * @throws {UserError} if the file is missing, damaged, or has no prompt.
 */
export async function readPrompts(path: string): Promise<readonly string[]> {
  try {
    return (await readPromptSet(path)).prompts;
  } catch (cause) {
    throw new UserError(`prompts: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Reads the images of a folder in the order of their names.
 *
 * @param folder Holds PNG, JPEG or WebP files of one size.
 * @returns The images and their file names.
 * @throws {UserError} if there are none, or if their sizes differ.
 */
export async function readImages(folder: string): Promise<{ images: Images; names: string[] }> {
  let names: string[];
  try {
    names = [...Deno.readDirSync(folder)].map((entry) => entry.name)
      .filter((name) => /\.(png|jpe?g|webp)$/i.test(name) && name !== gridName).sort();
  } catch (cause) {
    throw new UserError(`images folder ${folder}: ${(cause as Error).message}`, { cause });
  }
  if (names.length === 0) {
    throw new UserError(`images folder ${folder} holds no PNG, JPEG or WebP file`);
  }
  const decoded = await Promise.all(names.map(async (name) => {
    try {
      return await sharp(await Deno.readFile(`${folder}/${name}`)).removeAlpha()
        .toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
    } catch (cause) {
      throw new UserError(`${folder}/${name} is not a readable image`, { cause });
    }
  }));
  const { width, height } = decoded[0]!.info;
  const all = new Uint8Array(names.length * width * height * 3);
  decoded.forEach(({ data, info }, i) => {
    if (info.width !== width || info.height !== height) {
      throw new UserError(
        `${folder}/${names[i]} is ${info.width}x${info.height}, but ${names[0]} is ` +
          `${width}x${height}: images of a folder must have one size`,
      );
    }
    all.set(data, i * width * height * 3);
  });
  return { images: { data: all, count: names.length, width, height }, names };
}

/** The overview that `generate` writes beside the images. */
export const gridName = "grid.png";

/**
 * Writes images as `0001.png`, `0002.png`, ...
 *
 * @param folder Where; made if missing.
 * @param images What.
 */
export async function writeImages(folder: string, images: Images): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  const { width, height } = images;
  const bytes = width * height * 3;
  for (let i = 0; i < images.count; i++) {
    const png = await sharp(images.data.subarray(i * bytes, (i + 1) * bytes), {
      raw: { width, height, channels: 3 },
    }).png().toBuffer();
    await writeWhole(`${folder}/${String(i + 1).padStart(4, "0")}.png`, png);
  }
}
