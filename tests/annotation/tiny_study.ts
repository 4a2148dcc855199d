/**
 * A study of four items whose images say in their colour what they are: red for the first model, blue
 * for the second, and the row in green. The names are such that any leak of them is found.
 */
import { questions, type Study, type StudyImages, writeStudy } from "../../lib/annotation/study.ts";

/** Side of an image in pixels. */
export const side = 8;

/** Names of which a browser must see none. */
export const secrets = [
  "hidden-first",
  "hidden-second",
  "hidden-comparison",
  "hidden-kind",
  "hidden-item",
  "hidden-title",
  "hidden-file",
];

const strip = (file: string) => ({ file, width: side, height: side, count: 4 });

/** Two of the prompts are the same, one has characters that HTML would take for a tag. */
const prompts = [
  "a small red circle",
  'a blue square <b>above</b> a "cross" & more',
  "a small red circle",
  "a large teal triangle on the left of a very small orange ring, on a dark violet background",
];

/** The study. */
export const tinyStudy: Study = {
  title: "hidden-title",
  questions,
  models: {
    "hidden-first": strip("hidden-file-1.png"),
    "hidden-second": strip("hidden-file-2.png"),
  },
  items: prompts.map((prompt, row) => ({
    id: `hidden-item-${row}`,
    comparison: "hidden-comparison",
    kind: `hidden-kind-${row % 2}`,
    prompt,
    a: { model: "hidden-first", row },
    b: { model: "hidden-second", row },
  })),
};

const images = (red: number, blue: number) =>
  Uint8Array.from(
    { length: 4 * side * side * 3 },
    (_, i) => [red, 60 * Math.floor(i / (side * side * 3)), blue][i % 3]!,
  );

/** Its images. */
export const tinyImages: StudyImages = {
  "hidden-first": images(255, 0),
  "hidden-second": images(0, 255),
};

/** Writes the study into a new temporary folder, and returns the folder. */
export async function makeTinyStudy(): Promise<string> {
  const folder = await Deno.makeTempDir();
  await writeStudy(folder, tinyStudy, tinyImages);
  return folder;
}
