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
 * The images of a folder in the order of their names.
 *
 * @param folder Holds PNG, JPEG or WebP files.
 * @returns Their file names.
 * @throws {UserError} if there are none.
 */
export function imageNames(folder: string): string[] {
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
  return names;
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
