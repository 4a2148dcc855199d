/** Table 1 from data to page, on a lineage that is too small to learn anything. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { loadPipeline } from "../../lib/diffusion/pipeline.ts";
import type { Materials } from "../../lib/experiments/materials.ts";
import { openMaterials } from "../../lib/experiments/materials.ts";
import { type Preset, presets } from "../../lib/experiments/presets.ts";
import { type Reporter, runTable1, type Table1Options } from "../../lib/experiments/run_table1.ts";
import { trainingPairs } from "../../lib/experiments/training_pairs.ts";
import { setDevice } from "../../lib/tensor/mod.ts";
import { device } from "../tensor/devices.ts";
import { makeTinyLineage } from "./tiny_lineage.ts";

const lineage = await makeTinyLineage();
globalThis.addEventListener("unload", () => Deno.removeSync(lineage.folder, { recursive: true }));

async function materials(): Promise<Materials> {
  const { base, data, pickscore, hps, prompts } = lineage;
  const list = `${lineage.folder}/prompts.txt`;
  const fillers = Array.from({ length: 10 }, (_, i) => `prompt ${i}`);
  await Deno.writeTextFile(list, fillers.join("\n"));
  const opened = await openMaterials({ base, data, pickscore, hps, prompts: list });
  return { ...opened, prompts, oracle: true };
}

const tiny: Preset = {
  ...presets.smoke,
  steps: 2,
  batch: 2,
  rank: 2,
  prompts: 3,
  sampling: { ...presets.smoke.sampling, steps: 2 },
};

/** Keeps what is said and reported; `onReport` may interrupt. */
function recorder(onReport: (label: string, done: number) => void = () => {}) {
  const said: string[] = [], reports: string[] = [];
  const reporter: Reporter = {
    say: (line) => said.push(line),
    job: (label) => (done, total) => {
      reports.push(`${label} ${done}/${total}`);
      onReport(label, done);
    },
  };
  return { said, reports, reporter };
}

function cpuTest(name: string, run: (options: Omit<Table1Options, "reporter">) => Promise<void>) {
  Deno.test({
    name,
    // The device outlives the test that opens it, as does the figure's DOM.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const cpu = await device("cpu");
      setDevice(cpu);
      await run({
        materials: await materials(),
        presetName: "smoke",
        preset: tiny,
        results: `${lineage.folder}/${crypto.randomUUID()}`,
        device: "cpu",
        deviceDescription: cpu.description,
      });
    },
  });
}

cpuTest(
  "table1: interrupted in a training it goes on there, and then nothing is computed again",
  async (options) => {
    const preset = { ...tiny, steps: 22 };
    const second = "train 2/3 DPO-tw, filtered, seed 0";
    const interrupted = recorder((label, done) => {
      if (label === second && done === 22) throw new Error("interrupted");
    });
    await assertRejects(
      () => runTable1({ ...options, preset, reporter: interrupted.reporter }),
      Error,
      "interrupted",
    );
    assert(interrupted.reports.includes(`${second} 10/22`));

    const resumed = recorder();
    const { folder, markdown } = await runTable1({
      ...options,
      preset,
      reporter: resumed.reporter,
    });
    assert(resumed.said.includes("evaluate base model: done before"));
    assert(resumed.said.includes("train 1/3 DPO, filtered, seed 0: done before"));
    // The checkpoint is of step 20.
    assertEquals(resumed.reports.filter((line) => line.startsWith(second)), [`${second} 22/22`]);
    assertStringIncludes(markdown, "| filtered | NCP-DPO over DPO | ");
    assertStringIncludes(markdown, "answer nothing");
    const files = [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();
    assertEquals(files, ["figure.svg", "record.json", "samples.png", "table.csv", "table.md"]);
    const record = JSON.parse(await Deno.readTextFile(`${folder}/record.json`));
    assertEquals(record.runs.length, 1 + 2 * 3);
    assertEquals(record.runs[0].result.utility.length, 3);
    assertEquals(record.runs[1].result.curve.at(-1).step, 22);
    assertEquals(record.comparisons.length, 6);

    const reused = recorder();
    const again = await runTable1({ ...options, preset, reporter: reused.reporter });
    assertEquals(reused.reports, []);
    assertEquals(again.markdown, markdown);
  },
);

cpuTest(
  "table1: hyperparameters are searched for once, and presets without a search take them",
  async (options) => {
    const rates = [1e-3, 2e-3].map((lr) => ({ lr, beta: 1000 }));
    const search = {
      grid: { dpo: rates, "dpo-tw": rates, "ncp-dpo": rates },
      data: "filtered",
      seed: 1000,
      steps: 1,
      batch: 2,
      prompts: 2,
    } as const;
    const preset: Preset = { ...tiny, data: ["full", "filtered"], search };
    const first = recorder();
    const { markdown } = await runTable1({ ...options, preset, reporter: first.reporter });
    assertStringIncludes(markdown, "chosen on validation prompts");
    assertStringIncludes(markdown, "| full | NCP-DPO over DPO | ");
    assertEquals(first.said.filter((line) => line.includes("over the base")).length, 6);
    // One encoding serves the search and both data sets.
    assertEquals(first.reports.filter((line) => line.startsWith("encode")).length, 3);
    const path = `${options.results}/table1/search.json`;
    const { trials } = JSON.parse(await Deno.readTextFile(path));
    assertEquals(trials.length, 6);

    const second = recorder();
    const later = await runTable1({
      ...options,
      preset: { ...preset, search: null },
      reporter: second.reporter,
    });
    assertEquals(second.reports, []);
    assertEquals(later.markdown, markdown);
  },
);

Deno.test({
  name: "training pairs: the filtered pairs are among the full ones, and encoded once",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    setDevice(await device("cpu"));
    const pipeline = await loadPipeline(lineage.base);
    const totals: number[] = [];
    const { full, filtered } = await trainingPairs(
      pipeline,
      lineage.data,
      ["filtered", "full"],
      (_, total) => totals.push(total),
    );
    assertEquals([full.length, filtered.length], [12, 6]);
    assertEquals(new Set(totals), new Set([3 * 6 + 6]));
    assertEquals(await filtered.read([1, 5]), await full.read([2, 10]));
    const alone = await trainingPairs(pipeline, lineage.data, ["filtered"]);
    assertEquals(await alone.filtered.read([1, 5]), await full.read([2, 10]));
    pipeline.dispose();
  },
});
