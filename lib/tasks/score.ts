/**
 * `deno task score`: how well images fit their prompts, by a CLIP scorer.
 *
 * @module
 */
import { decodeImage, type Image } from "../data/mod.ts";
import { loadScorer, mean, type Scorer, type ScorerKind } from "../evaluation/mod.ts";
import { writeWhole } from "../experiments/run.ts";
import { progressOf } from "../notebook/progress.ts";
import { useDevice } from "./device.ts";
import { imageNames, readPrompts } from "./files.ts";
import { choice, deviceOption, flag, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { type ScoredImage, scoresAsCsv, scoresAsParquet } from "./scores.ts";
import { UserError } from "./user_error.ts";

/** Scorers by the names that they are published under. */
const kinds: Readonly<Record<string, ScorerKind>> = {
  cosine: "cosine",
  pickscore: "pickscore",
  hpsv2: "hps",
  "hpsv2.1": "hps",
};

/** The model that `cosine` scores with unless another is named. */
const nanoScorer = "data/nano/pickscore";

const command = {
  name: "score",
  summary: "Score images against their prompts.",
  options: {
    scorer: choice(["cosine", "pickscore", "hpsv2", "hpsv2.1"], {
      description:
        "how pictures are resized and what a score is: 100 times the cosine (as the nano " +
        "lineage's scores are), PickScore's exp(logit_scale) times it, or 100 times it as HPSv2 has it",
      default: "cosine",
    }),
    model: text({
      description:
        "the scorer's weights: a folder in transformers' CLIP layout, or a .pt file of " +
        `open_clip such as HPSv2's; for cosine ${nanoScorer} unless given`,
      placeholder: "PATH",
    }),
    tokenizer: text({
      description: "folder of CLIP's tokenizer; the model's folder unless given",
      placeholder: "DIR",
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
    output: text({
      description: "file for the scores, .csv or .parquet; CSV on the terminal unless given",
      placeholder: "FILE",
    }),
    antialias: flag({
      description:
        "let hpsv2 and hpsv2.1 resize with antialiasing, as torchvision does from 0.17 on; " +
        "the published scores are without",
    }),
    dtype: choice(["f32", "f16"], {
      description: "how weights are held: as in their file unless given, " +
        "but f16 where f32 takes more than 2 GiB, as ViT-H/14 does",
      placeholder: "TYPE",
    }),
    device: deviceOption,
  },
  examples: [
    "deno task score --images images --output scores.csv",
    "deno task score --scorer pickscore --model models/PickScore_v1 --tokenizer models/clip-vit-h-14",
    "deno task score --scorer hpsv2.1 --model models/HPS_v2.1_compressed.pt " +
    "--tokenizer models/clip-vit-h-14 --output scores.parquet",
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { output } = options;
    if (output && !/\.(csv|parquet)$/.test(output)) {
      throw new UserError(`--output is "${output}", but it must end in .csv or .parquet`);
    }
    const kind = kinds[options.scorer]!;
    if (options.antialias && kind !== "hps") {
      throw new UserError("--antialias is a choice of hpsv2 and hpsv2.1: the others always do so");
    }
    const model = options.model ?? (kind === "cosine" ? nanoScorer : undefined);
    if (!model) throw new UserError(`--scorer ${options.scorer} needs --model: its weights`);
    const names = imageNames(options.images);
    const prompts = await readPrompts(options.prompts ?? `${options.images}/prompts.txt`);
    if (prompts.length !== names.length) {
      throw new UserError(
        `${prompts.length} prompts for ${names.length} images: there must be one prompt per image`,
      );
    }
    await useDevice(options.device);
    const { tokenizer, antialias, dtype } = options;
    using scorer = await loadScorer(model, { kind, tokenizer, antialias, dtype });
    const { rows, faults } = await scoreFiles(
      scorer,
      names.map((name, i) => ({ name, path: `${options.images}/${name}`, prompt: prompts[i]! })),
    );
    if (!output) console.log(scoresAsCsv(rows).trimEnd());
    else if (output.endsWith(".csv")) await writeWhole(output, scoresAsCsv(rows));
    else await writeWhole(output, scoresAsParquet(rows, { scorer: options.scorer, model }));
    const scores = rows.flatMap(({ score }) => score ?? []);
    if (scores.length > 0) {
      console.error(`Mean score of ${scores.length} images: ${mean(scores).toFixed(3)}`);
    }
    if (faults.length === 0) return 0;
    console.error(`${faults.length} of ${names.length} images have no score:`);
    for (const fault of faults) console.error(`  ${fault}`);
    return 1;
  });
}

/** Scores image files; one that cannot be read gets no score, and the reason is among the faults. */
async function scoreFiles(
  scorer: Scorer,
  files: readonly { readonly name: string; readonly path: string; readonly prompt: string }[],
): Promise<{ rows: ScoredImage[]; faults: string[] }> {
  const rows: ScoredImage[] = [], faults: string[] = [];
  const progress = progressOf("score", "images");
  for (let first = 0; first < files.length; first += scorer.batch) {
    const some = files.slice(first, first + scorer.batch);
    const images = await Promise.all(some.map(async ({ path }): Promise<Image | undefined> => {
      try {
        return await decodeImage(await Deno.readFile(path), path);
      } catch (error) {
        faults.push((error as Error).message);
        return undefined;
      }
    }));
    const scores = await scorer.score(
      some.flatMap(({ prompt }, i) => images[i] ? prompt : []),
      images.flatMap((image) => image ?? []),
    );
    let next = 0;
    some.forEach(({ name, prompt }, i) => {
      rows.push({ image: name, prompt, score: images[i] ? scores[next++]! : null });
    });
    await progress(rows.length, files.length);
  }
  return { rows, faults };
}
