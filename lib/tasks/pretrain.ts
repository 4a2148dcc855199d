/**
 * `deno task pretrain`: rebuilds the nano lineage from a seed.
 *
 * @module
 */
import { pretrain, stages } from "../nano/pretrain/mod.ts";
import { useDevice } from "./device.ts";
import { choice, deviceOption, integer, text } from "./options.ts";
import { progressOf } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";

const command = {
  name: "pretrain",
  summary: "Rebuild the nano lineage: VAE, CLIP, U-Net, preference data and scorers.",
  options: {
    stage: choice(["all", ...stages], {
      description: "which part to build; it needs the parts before it",
      default: "all",
    }),
    output: text({
      description: "folder for the lineage; an interrupted build goes on there",
      placeholder: "DIR",
      default: "data/cache/nano",
    }),
    seed: integer({ description: "seed of everything", default: 0, min: 0 }),
    device: deviceOption,
  },
  examples: ["deno task pretrain", "deno task pretrain --stage vae --output data/cache/vae"],
};

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    await useDevice(options.device);
    const { stage, output, seed } = options;
    const bars = new Map<string, ReturnType<typeof progressOf>>();
    await pretrain({
      stages: stage === "all" ? stages : [stage],
      output,
      seed,
      onProgress: (name, done, total, note) => {
        let report = bars.get(name);
        if (!report) {
          report = progressOf(name, name === "preferences" ? "images" : "steps");
          bars.set(name, report);
        }
        report(done, total, note);
      },
    });
    console.log(`The lineage is in ${output}; ${output}/release holds what data does.`);
  });
}
