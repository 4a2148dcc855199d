/**
 * What a notebook works with: the device, the materials, and the experiments, which show in the running
 * cell how far they are and how their trainings go.
 *
 * @module
 */
import {
  claimSentence,
  type Experiment,
  experimentNamed,
  type Materials,
  openMaterials,
  type Outcome,
  type PresetName,
  type Reporter,
} from "../experiments/mod.ts";
import { type Backend, type DeviceName, openDevice, setDevice } from "../tensor/mod.ts";
import { showFigure } from "./figure.ts";
import { showImage } from "./image.ts";
import { openOutput } from "./kernel.ts";
import { showMarkdown } from "./markdown.ts";
import { duration, Progress, type ProgressDisplay } from "./progress.ts";
import { showTable } from "./table.ts";
import { TrainingCurves } from "./training_curves.ts";
import { enterRepository } from "./workspace.ts";

/** An open lab. */
export interface Lab {
  readonly device: Backend;
  readonly materials: Materials;
  /**
   * The outcome of an experiment: `full` is read from what the repository holds, the others are computed
   * here, as far as they have not been before, with live progress and curves.
   *
   * @param name Such as `table1`.
   */
  outcome(name: string, preset: PresetName): Promise<Outcome>;
}

const results = "results";

/**
 * Opens the lab: enters the repository, opens the device and makes it the current one, and checks the
 * nano lineage's files.
 *
 * @param name The device; `auto` takes a GPU where there is one.
 */
export async function openLab(name: DeviceName | "auto" = "auto"): Promise<Lab> {
  enterRepository();
  const device = await openDevice(name);
  setDevice(device);
  const materials = await openMaterials({});
  return {
    device,
    materials,
    async outcome(experimentName, preset) {
      const experiment = experimentNamed(experimentName);
      if (preset === "full") return await experiment.read(results, preset);
      return await reproduce(experiment, { device, materials, preset });
    },
  };
}

async function reproduce(
  experiment: Experiment,
  { device, materials, preset }: { device: Backend; materials: Materials; preset: PresetName },
): Promise<Outcome> {
  const startedAt = Date.now();
  const curves = new TrainingCurves(experiment.name);
  const line = openLine();
  let jobs = 0;
  const reporter: Reporter = {
    // What was done before is counted in the record; here it would only scroll by.
    say: () => {},
    job(label, unit) {
      jobs++;
      const progress = new Progress(label, { unit, ...line && { display: line } });
      return (done, total, note) => progress.update(done, total, note);
    },
    step: (label, metrics) => curves.add(label, metrics),
  };
  const outcome = await experiment.reproduce({
    materials,
    preset,
    results,
    device: device.name,
    deviceDescription: device.description,
    reporter,
  });
  const seconds = (Date.now() - startedAt) / 1000;
  const words = jobs === 0 ? "all runs were done before" : `${jobs} jobs`;
  await line?.show(`${experiment.name}, ${preset}: ${words}, took ${duration(seconds)}`, true);
  await curves.end();
  return outcome;
}

/** One line for all jobs, one after another. */
function openLine(): ProgressDisplay | undefined {
  const output = openOutput();
  return output && { interval: 500, show: (line) => output.put({ "text/plain": line }) };
}

/** Shows what became of the paper's claims, and what else there is to say. */
export async function showClaims({ presentation, record }: Outcome): Promise<void> {
  const { claims, remarks } = presentation;
  const sentences = record.preset === "smoke"
    ? ["This preset only shows that everything runs: its numbers answer nothing."]
    : [...claims.map(claimSentence), ...remarks];
  await showMarkdown(sentences.map((sentence) => `- ${sentence}`).join("\n"));
}

/** Shows the tables. */
export async function showTables({ presentation }: Outcome): Promise<void> {
  for (const { caption, content } of presentation.tables) await showTable(content, caption);
}

/** Shows the figures. */
export async function showFigures({ presentation }: Outcome): Promise<void> {
  for (const { caption, content: { figure, width, height } } of presentation.figures) {
    await showFigure(figure, { caption, width, height });
  }
}

/** Shows the images. */
export async function showImages({ presentation, folder }: Outcome): Promise<void> {
  for (const { caption, content } of presentation.images) {
    await showImage(await Deno.readFile(`${folder}/${content}`), caption);
  }
}
