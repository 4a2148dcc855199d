/**
 * `deno task score`: how well images fit their prompts, by a CLIP scorer.
 *
 * @module
 */
import { loadScorer } from "../evaluation/mod.ts";
import { quote } from "../experiments/report.ts";
import { writeWhole } from "../experiments/run.ts";
import { useDevice } from "./device.ts";
import { readImages, readPrompts } from "./files.ts";
import { deviceOption, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "score",
  summary: "Score images against their prompts: 100 times the cosine of a CLIP scorer.",
  options: {
    scorer: text({
      description: "scorer folder in transformers' CLIP layout",
      placeholder: "DIR",
      default: "data/nano/pickscore",
    }),
    images: text({
      description: "folder of images, taken in the order of their names",
      placeholder: "DIR",
      default: "images",
    }),
    prompts: text({
      description: "one prompt per image, in the same order, in a file such as generate takes; " +
        "prompts.txt of the images' folder unless given",
      placeholder: "FILE",
    }),
    output: text({ description: "CSV file for the scores", placeholder: "FILE" }),
    device: deviceOption,
  },
  examples: ["deno task score --images images --output scores.csv"],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { images, names } = await readImages(options.images);
    const prompts = await readPrompts(options.prompts ?? `${options.images}/prompts.txt`);
    if (prompts.length !== names.length) {
      throw new UserError(
        `${prompts.length} prompts for ${names.length} images: there must be one prompt per image`,
      );
    }
    if (images.width !== images.height) {
      throw new UserError(
        `${options.images} holds images of ${images.width}x${images.height}: the scorer takes squares`,
      );
    }
    await useDevice(options.device);
    const scorer = await loadScorer(options.scorer);
    const scores = await scorer.score(prompts, images.data, images.width);
    const csv = [
      "image,prompt,score",
      ...names.map((name, i) => [name, prompts[i]!, String(scores[i])].map(quote).join(",")),
    ].join("\r\n") + "\r\n";
    if (options.output) {
      await writeWhole(options.output, csv);
    } else console.log(csv.trimEnd());
    const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
    console.error(`Mean score of ${names.length} images: ${mean.toFixed(3)}`);
  });
}
