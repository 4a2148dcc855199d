/** Every experiment from data to page, on a lineage that is too small to learn anything. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { loadPipeline } from "../../lib/diffusion/pipeline_files.ts";
import { type Circumstances, experiments, openMaterials } from "../../lib/experiments/mod.ts";
import type { Materials } from "../../lib/experiments/materials.ts";
import { presets, type Settings } from "../../lib/experiments/presets.ts";
import { trainingPairs } from "../../lib/experiments/training_pairs.ts";
import type { Tuning } from "../../lib/experiments/tune.ts";
import { type Reporter, Workbench } from "../../lib/experiments/workbench.ts";
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
  const xl = await openMaterials({ ...lineage, base: lineage.baseXl, prompts: list });
  const backbones: Materials["backbones"] = [...opened.backbones, ...xl.backbones];
  return { ...opened, backbones, prompts, oracle: true };
}

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

function cpuTest(name: string, run: (given: Omit<Circumstances, "reporter">) => Promise<void>) {
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
        preset: "smoke",
        results: `${lineage.folder}/${crypto.randomUUID()}`,
        device: "cpu",
        deviceDescription: cpu.description,
      });
    },
  });
}

/** Where runs end up, whichever experiment asks. */
const shared = `${lineage.folder}/shared`;

for (const experiment of experiments) {
  cpuTest(
    `${experiment.name}: its report comes out, and comes out of its record again`,
    async (given) => {
      const first = recorder();
      const here = { ...given, results: shared };
      const { folder, markdown, record, presentation } = await experiment.reproduce({
        ...here,
        reporter: first.reporter,
      });
      assertStringIncludes(markdown, "answer nothing");
      if (experiment.name === "table1") {
        assertStringIncludes(markdown, "base (SD1.5's layout), base-xl (SDXL's layout)");
      }
      const files = [...Deno.readDirSync(folder)].map((entry) => entry.name);
      const figures = presentation.figures.flatMap((_, i) => {
        const name = i === 0 ? "figure" : `figure-${i + 1}`;
        return [`${name}.svg`, `${name}.png`];
      });
      const images = presentation.images.map(({ content }) => content);
      for (const name of ["table.md", "table.csv", "record.json", ...figures, ...images]) {
        assert(files.includes(name), `${name} is missing`);
      }
      assert(record.runs.length > 0);
      assertEquals(record.experiment, experiment.name);
      for (const { content } of presentation.tables) {
        assert(content.rows.length > 0);
        assert(content.rows.every((row) => row.length === content.columns.length));
      }
      // Nothing was tested with one seed, and the record alone gives the page.
      assert(presentation.claims.every(({ verdict }) => verdict === "not tested"));
      const again = await experiment.read(shared, "smoke");
      assertEquals(again.markdown, markdown);
      assertEquals(again.presentation.tables, presentation.tables);

      const second = recorder();
      const reused = await experiment.reproduce({ ...here, reporter: second.reporter });
      assertEquals(second.reports, []);
      assertEquals(reused.markdown, markdown);
      await assertRejects(
        () => experiment.read(shared, "full"),
        Error,
        `run deno task reproduce ${experiment.name} --preset full`,
      );
    },
  );
}

/** A workbench for a training of 22 steps. */
async function bench(
  given: Omit<Circumstances, "reporter">,
  reporter: Reporter,
  settings?: Settings,
) {
  return new Workbench({
    ...given,
    settings: settings ?? { ...presets.smoke, sampling: { ...presets.smoke.sampling, steps: 2 } },
    selections: ["filtered"],
    materials: await materials(),
    reporter,
  });
}

const tuning: Tuning = {
  method: "ncp-dpo",
  data: "filtered",
  seed: 0,
  steps: 22,
  batch: 2,
  rank: 2,
  lr: 1e-3,
  beta: 1e6,
};

cpuTest(
  "a training that was interrupted goes on, and then nothing is computed again",
  async (given) => {
    const interrupted = recorder((label, done) => {
      if (label === "train it" && done === 22) throw new Error("interrupted");
    });
    const [backbone] = (await materials()).backbones;
    {
      using first = await bench(given, interrupted.reporter);
      await assertRejects(() => first.tune("it", backbone, tuning), Error, "interrupted");
      assert(interrupted.reports.includes("train it 10/22"));
    }
    const resumed = recorder();
    using second = await bench(given, resumed.reporter);
    const { result } = await second.tune("it", backbone, tuning);
    // The checkpoint is of step 20.
    assertEquals(resumed.reports.filter((line) => line.startsWith("train")), ["train it 22/22"]);
    assertEquals(result.curve.at(-1)!.step, 22);
    assertEquals(await second.tune("it", backbone, tuning).then(({ result }) => result), result);
    assertEquals(resumed.said, []);
    assertEquals(second.notes.map(({ kind }) => kind), ["train"]);
  },
);

cpuTest("a course that was interrupted in an evaluation has the same scores", async (given) => {
  const [backbone] = (await materials()).backbones;
  const prompts = lineage.prompts.validation;
  const course = async (reporter: Reporter, results = given.results) => {
    using there = await bench({ ...given, results }, reporter);
    return await there.course("it", backbone, { ...tuning, steps: 5 }, 2, prompts);
  };
  const whole = await course(recorder().reporter);
  assertEquals(whole.map(({ step }) => step), [2, 4, 5]);
  const interrupted = recorder((label) => {
    if (label === "evaluate it, step 4") throw new Error("interrupted");
  });
  const other = `${given.results}-2`;
  await assertRejects(() => course(interrupted.reporter, other), Error, "interrupted");
  const resumed = recorder();
  assertEquals(await course(resumed.reporter, other), whole);
  assert(!resumed.reports.some((line) => line.startsWith("evaluate it, step 2 ")));
});

cpuTest(
  "hyperparameters are searched for once, and settings without a search take them",
  async (given) => {
    const search = { data: "filtered", seed: 1000, steps: 1, batch: 2, prompts: 2 } as const;
    const settings = {
      ...presets.smoke,
      search,
      sampling: { ...presets.smoke.sampling, steps: 2 },
    };
    const [backbone] = (await materials()).backbones;
    const first = recorder();
    using searching = await bench(given, first.reporter, settings);
    const sft = await searching.hyperparameters(backbone, "sft");
    const dpo = await searching.hyperparameters(backbone, "dpo");
    assertEquals(first.said.filter((line) => line.includes("over the base")).length, 2 * 5);
    // One encoding serves all trials.
    assertEquals(first.reports.filter((line) => line.startsWith("encode")).length, 2);
    const stored = JSON.parse(await Deno.readTextFile(`${given.results}/search/base.json`));
    assertEquals(stored.trials.length, 10);
    assertEquals(stored.chosen, { sft, dpo });

    const second = recorder();
    using taking = await bench(given, second.reporter, { ...settings, search: null });
    assertEquals(await taking.hyperparameters(backbone, "dpo"), dpo);
    assertEquals(await taking.hyperparameters(backbone, "cpo"), { lr: 1e-3, beta: 100 });
    assertEquals(second.reports, []);
    const used = taking.hyperparametersUsed.base!;
    assertEquals(used.dpo!.from, "chosen on validation prompts");
    assertEquals(used.cpo!.from, "the method's defaults");
  },
);

Deno.test({
  name: "training pairs: the filtered pairs are among the full ones, and images are encoded once",
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
      { onProgress: (_, total) => totals.push(total) },
    );
    assertEquals([full.length, filtered.length], [12, 6]);
    assertEquals(new Set(totals), new Set([3 * 6 + 6]));
    assertEquals(await filtered.read([1, 5]), await full.read([2, 10]));
    const alone = await trainingPairs(pipeline, lineage.data, ["filtered"]);
    assertEquals(await alone.filtered.read([1, 5]), await full.read([2, 10]));
    pipeline.dispose();
  },
});
