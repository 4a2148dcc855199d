import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { readJson, unetConfig } from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { loadLora } from "../../lib/nn/lora_file.ts";
import { loadWeights } from "../../lib/nn/weights.ts";
import {
  checkMemory,
  loadMetrics,
  measureTimestepWeight,
  type MethodName,
  pairsInMemory,
  train,
  type Training,
  type TrainingMemory,
} from "../../lib/preference/mod.ts";
import { type Backend, getDevice, randomNormal } from "../../lib/tensor/mod.ts";
import { goldenPath } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const model = goldenPath("unet/objectives");
const config = unetConfig(await readJson(`${model}/config.json`));
const schedule = NoiseSchedule.fromConfig({
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
});
const draw = (stream: number, shape: number[]) => randomNormal({ seed: 1, stream, step: 0 }, shape);
const pairs = pairsInMemory({
  latents: draw(1, [6, 8, 8, 4]),
  latentShape: [8, 8, 4],
  contexts: draw(2, [2, 6, 16]),
  contextShape: [6, 16],
  pairs: [
    { winner: 0, loser: 1, prompt: 0 },
    { winner: 0, loser: 2, prompt: 0 },
    { winner: 3, loser: 4, prompt: 1 },
    { winner: 5, loser: 4, prompt: 1 },
    { winner: 3, loser: 5, prompt: 1 },
  ],
});
const small = { batch: 2, rank: 2, targets: "attention", checkpointEvery: 2 } as const;

/** The golden model on the present device. */
async function setUp(): Promise<Omit<Training, "options" | "runDirectory">> {
  return { base: await loadWeights(model), config, schedule, pairs };
}

class Killed extends Error {}

for (
  const [name, options] of Object.entries(
    {
      "ncp-dpo": { ...small, method: "ncp-dpo", steps: 5, warmup: 2, logEvery: 1 },
      // Measures the weighting of timesteps anew.
      "a weighted method": { ...small, method: "dpo-tw", steps: 5, warmup: 2 },
      // Convolutions of rank 16 are large enough for 8 bits.
      "accumulation and 8 bits": {
        ...small,
        method: "cpo",
        steps: 5,
        warmup: 0,
        logEvery: 2,
        accumulate: 2,
        rank: 16,
        targets: ["to_k", "conv1"],
        optimizer: "adamw8bit",
      },
    } as const,
  )
) {
  eachDevice(`train: killed and resumed, ${name} ends in the same bits`, async () => {
    const setting = await setUp();
    const whole = `${folder}/${name}-whole`;
    const broken = `${folder}/${name}-broken`;
    await train({ ...setting, options, runDirectory: whole });
    await assertRejects(
      () =>
        train({
          ...setting,
          options,
          runDirectory: broken,
          onProgress: ({ step }) => {
            if (step >= 3) throw new Killed();
          },
        }),
      Killed,
    );
    // What a kill in the middle of writing would leave.
    await Deno.writeTextFile(`${broken}/metrics.jsonl`, '{"step":', { append: true });
    await Deno.writeTextFile(`${broken}/checkpoint.safetensors.partial`, "half");
    const result = await train({ ...setting, options, runDirectory: broken });

    for (const file of ["checkpoint.safetensors", "pytorch_lora_weights.safetensors"]) {
      const a = await Deno.readFile(`${whole}/${file}`);
      const b = await Deno.readFile(`${broken}/${file}`);
      assertEquals(a.length, b.length);
      assert(a.every((byte, i) => byte === b[i]), `${file} differs`);
    }
    const lines = await Promise.all(
      [whole, broken].map(async (d) =>
        (await loadMetrics(`${d}/metrics.jsonl`)).map(({ seconds: _, ...rest }) => rest)
      ),
    );
    assertEquals(lines[1], lines[0]);
    assertEquals(lines[0]!.map((line) => line.step), [1, 2, 3, 4, 5]);
    assertEquals(result.metrics.length, 5);
    const lora = await loadLora(result.lora, setting.base);
    for (const { up } of lora.layers.values()) {
      assert((await up.data()).some((x) => x !== 0), "a layer was not trained");
    }
    await Deno.remove(whole, { recursive: true });
    await Deno.remove(broken, { recursive: true });
    setting.base.dispose();
  });
}

eachDevice(
  "train: DPO starts at ln 2 with logits of zero, and leaves no memory behind",
  async () => {
    const setting = await setUp();
    const runDirectory = `${folder}/dpo`;
    const options = { ...small, method: "dpo", steps: 2 } as const;
    await train({ ...setting, options, runDirectory });
    const before = getDevice().liveBytes;
    await Deno.remove(runDirectory, { recursive: true });
    const { metrics } = await train({ ...setting, options, runDirectory });
    assertEquals(getDevice().liveBytes, before);
    assertAlmostEquals(metrics[0]!.loss, Math.LN2, 1e-6);
    assertEquals([metrics[0]!.logitMean, metrics[0]!.logitStd, metrics[0]!.accuracy], [0, 0, 0.5]);
    assertEquals(metrics[0]!.winnerError, metrics[0]!.referenceWinnerError);
    assert(metrics[0]!.gradientNorm > 0);
    assert(metrics[1]!.logitStd! > 0);
    setting.base.dispose();
    await Deno.remove(runDirectory, { recursive: true });
  },
);

eachDevice("train: every method takes a step", async () => {
  const setting = await setUp();
  for (const method of ["sft", "ncp-sft", "ncp-cpo", "dpo-tw"] as MethodName[]) {
    const runDirectory = `${folder}/${method}`;
    const options = { ...small, method, steps: 1, features: "levels" } as const;
    const { metrics } = await train({ ...setting, options, runDirectory });
    const first = metrics[0]!;
    assert(first.loss > 0 && first.gradientNorm > 0, `${method}: ${JSON.stringify(first)}`);
    assertEquals("accuracy" in first, !method.endsWith("sft"));
    await Deno.remove(runDirectory, { recursive: true });
  }
  setting.base.dispose();
});

eachDevice("train: a folder that holds another run is an error", async () => {
  const setting = await setUp();
  const runDirectory = `${folder}/other`;
  const options = { ...small, method: "sft", steps: 1 } as const;
  await train({ ...setting, options, runDirectory });
  await assertRejects(
    () => train({ ...setting, options: { ...options, steps: 2, seed: 7 }, runDirectory }),
    Error,
    "seed was 0 and is now 7",
  );
  setting.base.dispose();
  await Deno.remove(runDirectory, { recursive: true });
});

eachDevice(
  "train: adapters are given while they are there, and again after an interruption",
  async () => {
    const setting = await setUp();
    const options = { ...small, method: "ncp-dpo", nextTimestep: "uniform", steps: 5 } as const;
    const given: number[] = [];
    const run = (runDirectory: string, killAt?: number) =>
      train({
        ...setting,
        options,
        runDirectory,
        onLora: async (step, lora) => {
          assert((await loadLora(lora, setting.base)).layers.size > 0);
          given.push(step);
          if (step === killAt) throw new Killed();
        },
      });
    const whole = await run(`${folder}/lora-whole-${getDevice().name}`);
    assertEquals(given.splice(0), [2, 4, 5]);
    await assertRejects(() => run(`${folder}/lora-broken-${getDevice().name}`, 4), Killed);
    const resumed = await run(`${folder}/lora-broken-${getDevice().name}`);
    assertEquals(given, [2, 4, 4, 5]);
    const values = ({ metrics }: typeof whole) => metrics.map(({ seconds: _, ...rest }) => rest);
    assertEquals(values(resumed), values(whole));
    setting.base.dispose();
  },
);

eachDevice("train: t' = t - 1 and uniform t' learn different things", async () => {
  const setting = await setUp();
  const first = async (nextTimestep: "previous" | "uniform") => {
    const options = { ...small, method: "ncp-dpo", nextTimestep, steps: 1 } as const;
    const { metrics } = await train({
      ...setting,
      options,
      runDirectory: `${folder}/next-${nextTimestep}-${getDevice().name}`,
    });
    return metrics[0]!.winnerError;
  };
  assert(await first("previous") !== await first("uniform"));
  setting.base.dispose();
});

Deno.test("train: options and data that make no sense are errors", async () => {
  const setting = await setUp();
  const options = { ...small, method: "sft", steps: 1 } as const;
  const run = (change: Partial<Training>) =>
    train({ ...setting, options, runDirectory: `${folder}/none`, ...change });
  await assertRejects(
    () => run({ options: { ...options, batch: 0 } }),
    RangeError,
    "the option batch must be a positive integer, not 0",
  );
  await assertRejects(
    () => run({ pairs: { ...pairs, latentShape: [8, 8, 16] } }),
    RangeError,
    "the latents have 16 channels, but the U-Net takes 4",
  );
  await assertRejects(
    () => run({ schedule: NoiseSchedule.fromConfig({ prediction_type: "v_prediction" }) }),
    Error,
    "prediction_type is v_prediction",
  );
});

eachDevice(
  "measureTimestepWeight: a positive ratio at every knot, the same each time",
  async () => {
    const setting = await setUp();
    const measure = (batch: number, images?: number) =>
      measureTimestepWeight({
        ...setting,
        features: "down",
        knots: [1, 500],
        batch,
        seed: 0,
        ...images && { images },
      });
    const { knots, ratios } = await measure(4, 4);
    assertEquals(knots, [1, 500]);
    // A step near the end moves the features far more than the latents' error says.
    assert(ratios.every((r) => r > 0 && r < 1), `${ratios}`);
    assertEquals((await measure(4, 4)).ratios, ratios);
    // Other shapes are other shaders, which take a software GPU long to compile and show nothing new.
    if (getDevice().name === "cpu") {
      // Other noise for each batch, so the same only about.
      const [, inBatches] = (await measure(2, 4)).ratios;
      assert(Math.abs(Math.log(inBatches! / ratios[1]!)) < 1, `${inBatches} beside ${ratios[1]}`);
    }
    setting.base.dispose();
  },
);

eachDevice("train: says beforehand what memory it takes", async (backend) => {
  const training = await setUp();
  await training.base.realize();
  let said: TrainingMemory | undefined;
  let held = 0;
  const batches: [number, number][] = [];
  await train({
    ...training,
    options: { ...small, method: "ncp-dpo", steps: 1, accumulate: 2 },
    runDirectory: `${folder}/memory-${backend.name}`,
    onBatch: (...counts) => void batches.push(counts),
    onMemory: (memory) => said = memory,
    onProgress: () => void (held = backend.liveBytes),
  });
  assert(said !== undefined);
  // What it did not count: the kernels' tables and arguments.
  assertEquals(batches, [[1, 2], [2, 2]]);
  assert(held > 0.95 * said.total && held < 1.1 * said.total, `${held} of ${said.total}`);
  training.base.dispose();
});

Deno.test("checkMemory: refuses with numbers and remedies", () => {
  const memory = { held: 1.72e9, state: 0.31e9, step: 2.97e9, total: 5e9 };
  const backend = (capacity?: number) => ({ name: "cpu", capacity }) as Backend;
  checkMemory(backend(5e9), memory);
  checkMemory(backend(), memory);
  assertThrows(
    () => checkMemory(backend(4e9), memory),
    RangeError,
    "needs 1.72 GB of weights + 310.0 MB of LoRA and optimiser + 2.97 GB for a step = 5.00 GB, " +
      "but the cpu device holds at most 4.00 GB: take smaller batches",
  );
});
