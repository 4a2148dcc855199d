/**
 * `deno task reproduce`: answers the questions of the paper with real training on this machine.
 *
 * @module
 */
import {
  type Experiment,
  experiments,
  openMaterials,
  presetDescriptions,
  presetNames,
  withClaims,
} from "../experiments/mod.ts";
import { writeWhole } from "../experiments/run.ts";
import { useDevice } from "./device.ts";
import { choice, deviceOption, integer, text } from "./options.ts";
import { duration, progressOf } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";

const names = experiments.map((experiment) => experiment.name);
const results = "results";

const command = {
  name: "reproduce",
  summary: "Train, evaluate, and write a table or figure of the paper with its record.",
  positionals: [{
    name: "experiment",
    description: [
      ...experiments.map(({ name, summary }) => `${name}: ${summary}`),
      "all: one after another",
    ].join("; "),
    choices: [...names, "all"],
  }],
  options: {
    preset: choice(presetNames, {
      description: presetNames.map((name) => `${name}: ${presetDescriptions[name]}`).join("; "),
      default: "quick",
    }),
    seeds: integer({
      description: "how many trainings of every kind; the preset's number unless given",
      min: 1,
    }),
    base: text({
      description: "your model, a folder in diffusers' layout or a single .safetensors file, in " +
        "place of the nano lineage's two",
      placeholder: "PATH",
    }),
    data: text({
      description:
        "your preference data in Pick-a-Pic v2's schema: a Parquet file, a folder of them, " +
        "or a pattern in quotes",
      placeholder: "PATH",
    }),
    prompts: text({
      description: "your prompts, in a file such as generate takes",
      placeholder: "FILE",
    }),
    pickscore: text({
      description: "your PickScore, a folder in transformers' CLIP layout",
      placeholder: "DIR",
    }),
    hps: text({
      description:
        "your HPSv2 or HPSv2.1, a .pt file with CLIP's tokenizer beside it, or a folder " +
        "in transformers' CLIP layout",
      placeholder: "PATH",
    }),
    votes: text({
      description: "people's votes, collected by deno task annotate, which figure4 reports too",
      placeholder: "FILE",
    }),
    device: deviceOption,
  },
  examples: [
    "deno task reproduce table1",
    "deno task reproduce figure3 --preset full",
    "deno task reproduce all --preset smoke",
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options, positionals: [wanted] }) => {
    const startedAt = Date.now();
    const device = await useDevice(options.device);
    const materials = await openMaterials(options);
    const chosen = experiments.filter(({ name }) => wanted === "all" || wanted === name);
    for (const experiment of chosen) {
      if (chosen.length > 1) console.error(`\n== ${experiment.name}: ${experiment.summary}`);
      const { markdown } = await experiment.reproduce({
        materials,
        preset: options.preset,
        seeds: options.seeds,
        votes: options.votes,
        results,
        device: device.name,
        deviceDescription: device.description,
        reporter: { say: (line) => console.error(line), job: progressOf },
      });
      console.log(`\n${markdown}`);
      if (options.preset === "full") await updateClaims();
    }
    console.error(`Took ${duration((Date.now() - startedAt) / 1000)}`);
  });
}

/** Puts the claims of all full reports into the page of results. */
async function updateClaims(): Promise<void> {
  const reported = [];
  for (const experiment of experiments) {
    const { claims } = await claimsOf(experiment);
    reported.push({ name: experiment.name, claims });
  }
  const path = `${results}/README.md`;
  await writeWhole(path, withClaims(await Deno.readTextFile(path), reported));
}

/** The claims of an experiment's full report; none before there is one. */
async function claimsOf(experiment: Experiment) {
  try {
    return (await experiment.read(results, "full")).presentation;
  } catch (error) {
    if ((error as Error).cause instanceof Deno.errors.NotFound) return { claims: [] };
    throw error;
  }
}
