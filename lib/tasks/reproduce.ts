/**
 * `deno task reproduce`: answers a question of the paper with real training on this machine.
 *
 * @module
 */
import { openMaterials } from "../experiments/materials.ts";
import { presets } from "../experiments/presets.ts";
import { runTable1 } from "../experiments/run_table1.ts";
import { useDevice } from "./device.ts";
import { choice, deviceOption, integer, text } from "./options.ts";
import { duration, progressOf } from "./progress.ts";
import { runCommand } from "./run_command.ts";

const presetNames = ["smoke", "quick", "full"] as const;

const command = {
  name: "reproduce",
  summary: "Train, evaluate, and write a table of the paper with its figure and record.",
  positionals: [{
    name: "experiment",
    description: "table1: the win rate of NCP-DPO over DPO",
    choices: ["table1"],
  }],
  options: {
    preset: choice(presetNames, {
      description: presetNames.map((name) => `${name}: ${presets[name].description}`).join("; "),
      default: "quick",
    }),
    seeds: integer({
      description: "how many trainings per method and data set; the preset's number unless given",
      min: 1,
    }),
    base: text({
      description: "your model, a folder in diffusers' layout, in place of the nano lineage's",
      placeholder: "DIR",
    }),
    data: text({
      description: "your preference data in Pick-a-Pic v2's schema, Parquet",
      placeholder: "FILE",
    }),
    prompts: text({ description: "your prompts, one per line", placeholder: "FILE" }),
    pickscore: text({
      description: "your PickScore, a folder in transformers' CLIP layout",
      placeholder: "DIR",
    }),
    hps: text({
      description: "your HPS, a folder in transformers' CLIP layout",
      placeholder: "DIR",
    }),
    device: deviceOption,
  },
  examples: [
    "deno task reproduce table1",
    "deno task reproduce table1 --preset full",
  ],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const startedAt = Date.now();
    const device = await useDevice(options.device);
    const preset = presets[options.preset];
    const { markdown } = await runTable1({
      materials: await openMaterials(options),
      presetName: options.preset,
      preset: options.seeds === undefined
        ? preset
        : { ...preset, seeds: Array.from({ length: options.seeds }, (_, seed) => seed) },
      results: "results",
      device: device.name,
      deviceDescription: device.description,
      reporter: {
        say: (line) => console.error(line),
        job: progressOf,
      },
    });
    console.log(`\n${markdown}`);
    console.error(`Took ${duration((Date.now() - startedAt) / 1000)}`);
  });
}
