import { assert, assertEquals, assertRejects } from "@std/assert";
import { initialise } from "../../lib/nn/init.ts";
import { type LoraAdapter, Weights } from "../../lib/nn/weights.ts";
import { clipTextParameters } from "../../lib/diffusion/clip_text.ts";
import {
  clipTextConfig,
  type Json,
  readJson,
  unetConfig,
  vaeConfig,
} from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { generate, Pipeline, type PromptEncoder } from "../../lib/diffusion/pipeline.ts";
import { loadPipeline, savePipeline } from "../../lib/diffusion/pipeline_files.ts";
import { startingNoise } from "../../lib/diffusion/sample.ts";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { samplingPlan } from "../../lib/diffusion/schedulers.ts";
import { unetParameters } from "../../lib/diffusion/unet.ts";
import { vaeParameters } from "../../lib/diffusion/vae.ts";
import { getDevice, setDevice, tensor } from "../../lib/tensor/mod.ts";
import { device, eachDevice } from "../tensor/devices.ts";
import { goldenPath } from "./golden.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

async function config(path: string, change: Json = {}): Promise<Json> {
  return { ...await readJson(goldenPath(path)), ...change };
}

async function textEncoder(change: Json, seed: number): Promise<PromptEncoder> {
  const read = clipTextConfig(
    await config("clip/text-gelu-end/config.json", {
      max_position_embeddings: 24,
      vocab_size: 700,
      eos_token_id: 2,
      ...change,
    }),
  );
  return {
    config: read,
    weights: new Weights(initialise(clipTextParameters(read), seed)),
    tokenizer: await ClipTokenizer.load(goldenPath("clip/tokenizer")),
  };
}

/** A random pipeline of Stable Diffusion 1.5's or XL's layout. */
async function randomPipeline(layout: "sd15" | "sdxl"): Promise<Pipeline> {
  const two = layout === "sdxl";
  const unet = unetConfig(
    await config(`unet/${layout}/config.json`, {
      sample_size: 4,
      cross_attention_dim: two ? 64 : 32,
    }),
  );
  const vae = vaeConfig(await config("vae/plain/config.json"));
  const second = { architectures: ["CLIPTextModelWithProjection"], projection_dim: 20 };
  return new Pipeline({
    unet: { config: unet, weights: new Weights(initialise(unetParameters(unet), 1)) },
    vae: { config: vae, weights: new Weights(initialise(vaeParameters(vae), 1)) },
    textEncoders: [await textEncoder({}, 1), ...two ? [await textEncoder(second, 2)] : []],
    schedule: NoiseSchedule.fromConfig({
      beta_schedule: "scaled_linear",
      beta_start: 0.00085,
      beta_end: 0.012,
      timestep_spacing: "trailing",
    }),
  });
}

const prompts = ["a photo of a cat", "a small red circle", "rain"];
const options = { seed: 5, steps: 3, guidanceScale: 3 };

/** The largest difference between two images' bytes; devices may round differently by one. */
const difference = (a: Uint8Array, b: Uint8Array) =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i]!)), 0);

for (const layout of ["sd15", "sdxl"] as const) {
  eachDevice(`pipeline: ${layout} is saved, loaded and makes the same images`, async () => {
    const live = getDevice().liveBytes;
    const pipeline = await randomPipeline(layout);
    const first = await generate(pipeline, prompts, options);
    assertEquals([first.count, first.height, first.width], [3, 8, 8]);
    assertEquals(first.data.length, 3 * 8 * 8 * 3);
    assert(new Set(first.data).size > 3, "the images are flat");

    await savePipeline(`${folder}/${layout}`, pipeline);
    pipeline.dispose();
    const loaded = await loadPipeline(`${folder}/${layout}`);
    assertEquals(loaded.textEncoders.length, layout === "sdxl" ? 2 : 1);
    assertEquals(await generate(loaded, prompts, options), first);
    loaded.dispose();
    assertEquals(getDevice().liveBytes, live);
  });
}

eachDevice("generate: an image depends on its own prompt and index only", async () => {
  const pipeline = await randomPipeline("sd15");
  const pairs = { ...options, batchSize: 2 };
  const progress: string[] = [];
  const all = await generate(pipeline, prompts, {
    ...pairs,
    onProgress: (done, total) => progress.push(`${done}/${total}`),
  });
  assertEquals(progress, ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6"]);
  const rest = all.data.subarray(all.data.length / 3);
  const later = await generate(pipeline, prompts.slice(1), { ...pairs, firstIndex: 1 });
  assert(difference(later.data, rest) <= 1);
  const noise = Float32Array.of(
    ...startingNoise(5, 1, [4, 4, 4]),
    ...startingNoise(5, 2, [4, 4, 4]),
  );
  const given = await generate(pipeline, prompts.slice(1), { ...pairs, noise });
  assert(difference(given.data, rest) <= 1);
  const other = await generate(pipeline, prompts, { ...pairs, seed: 6 });
  assert(difference(other.data, all.data) > 1);
  pipeline.dispose();
});

eachDevice(
  "generate: guidance 1 ignores the negative prompt, an adapter changes the images",
  async () => {
    const pipeline = await randomPipeline("sd15");
    const plain = { ...options, guidanceScale: 1 };
    const one = await generate(pipeline, prompts, plain);
    const negative = await generate(pipeline, prompts, { ...plain, negativePrompt: "a cat" });
    assertEquals(negative.data, one.data);
    const guided = await generate(pipeline, prompts, { ...options, negativePrompt: prompts[1]! });
    assert(difference(guided.data, one.data) > 0);

    const width = pipeline.unet.weights.get("mid_block.resnets.0.conv1.weight").shape;
    const adapter = (value: number): LoraAdapter => ({
      scale: 1,
      layers: new Map([["mid_block.resnets.0.conv1", {
        down: tensor(new Float32Array(9 * width[2]!).fill(0.2), [3, 3, width[2]!, 1]),
        up: tensor(new Float32Array(width[3]!).fill(value).map((v, i) => v * (i % 3)), [
          1,
          1,
          1,
          width[3]!,
        ]),
      }]]),
    });
    const zero = await generate(pipeline, prompts, { ...plain, lora: adapter(0) });
    assert(difference(zero.data, one.data) <= 1);
    const tuned = await generate(pipeline, prompts, { ...plain, lora: adapter(3) });
    assert(difference(tuned.data, one.data) > 0);
    pipeline.dispose();
  },
);

eachDevice("generate: bad requests are refused with the numbers", async () => {
  const pipeline = await randomPipeline("sd15");
  await assertRejects(
    () => generate(pipeline, ["a cat ".repeat(40)], options),
    RangeError,
    "at most 24 fit",
  );
  await assertRejects(
    () => generate(pipeline, prompts, { ...options, height: 9 }),
    RangeError,
    "multiples of 2",
  );
  await assertRejects(
    () => generate(pipeline, prompts, { ...options, noise: new Float32Array(3) }),
    RangeError,
    "3 images of [4,4,4] latents take 192",
  );
  pipeline.dispose();
});

/** The pipeline with another scheduler's file. */
const sampledBy = ({ unet, vae, textEncoders }: Pipeline, json: Json) =>
  new Pipeline({ unet, vae, textEncoders, schedule: NoiseSchedule.fromConfig(json, "its file") });

eachDevice("generate: the folder's scheduler samples, or the one asked for", async () => {
  const plain = await randomPipeline("sd15");
  const scaled = { ...plain.schedule.json, steps_offset: 1, set_alpha_to_one: false };
  const pndm = sampledBy(plain, { ...scaled, _class_name: "PNDMScheduler", skip_prk_steps: true });
  const progress: string[] = [];
  const own = await generate(pndm, prompts, {
    ...options,
    batchSize: 2,
    onProgress: (done, total) => progress.push(`${done}/${total}`),
  });
  // Two batches of three steps, the first of which is taken twice.
  assertEquals(progress, ["1/8", "2/8", "3/8", "4/8", "5/8", "6/8", "7/8", "8/8"]);
  const asked = await generate(pndm, prompts, { ...options, scheduler: "ddim" });
  assert(difference(own.data, asked.data) > 0);
  const ddim = sampledBy(plain, { ...scaled, _class_name: "DDIMScheduler" });
  assertEquals(await generate(ddim, prompts, options), asked);
  plain.dispose();
  for (const { sampler } of [pndm, ddim]) sampler.dispose();
});

eachDevice("generate: the noise of DDPM's steps is the seed's and the image's own", async () => {
  const pipeline = await randomPipeline("sd15");
  const noisy = { ...options, scheduler: "ddpm", batchSize: 2 } as const;
  const all = await generate(pipeline, prompts, noisy);
  const later = await generate(pipeline, prompts.slice(1), { ...noisy, firstIndex: 1 });
  assert(difference(later.data, all.data.subarray(all.data.length / 3)) <= 1);
  const noise = new Float32Array(3 * 64).fill(0.5);
  const seeded = (seed: number) => generate(pipeline, prompts, { ...noisy, noise, seed });
  const one = await seeded(5);
  assertEquals(await seeded(5), one);
  assert(difference((await seeded(6)).data, one.data) > 1);
  pipeline.dispose();
});

eachDevice("generate: what cannot be sampled is refused before anything is computed", async () => {
  const plain = await randomPipeline("sd15");
  const pipeline = sampledBy(plain, { _class_name: "LCMScheduler" });
  await assertRejects(
    () =>
      generate(pipeline, prompts, { ...options, onProgress: () => assert(false, "it computes") }),
    Error,
    'its file: "_class_name" is "LCMScheduler"; known are DDIMScheduler',
  );
  const images = await generate(pipeline, prompts, { ...options, scheduler: "euler" });
  assertEquals(images.count, 3);
  plain.dispose();
  pipeline.sampler.dispose();
});

Deno.test("readJson: takes the numbers that Python writes and JSON lacks", async () => {
  const path = `${folder}/python.json`;
  Deno.writeTextFileSync(path, '{"a": [-Infinity, Infinity], "b": NaN, "-Infinity": "\\"NaN"}');
  assertEquals(await readJson(path), { a: [-Infinity, Infinity], b: null, "-Infinity": '"NaN' });
  // A string without an end takes no longer than another.
  Deno.writeTextFileSync(path, '{"a": "' + '\\"'.repeat(1e6));
  await assertRejects(() => readJson(path), Error, `${path} is not JSON`);
});

Deno.test("loadPipeline: a scheduler is read as diffusers reads and writes it", async () => {
  setDevice(await device("cpu"));
  const plain = await randomPipeline("sd15");
  const file = goldenPath("scheduler/dpm-solver-12/scheduler_config.json");
  // Python's JSON has infinities.
  assert(Deno.readTextFileSync(file).includes('"lambda_min_clipped": -Infinity'));
  const json = await readJson(file);
  assertEquals(json.lambda_min_clipped, -Infinity);
  const path = `${folder}/scheduler`;
  await savePipeline(path, sampledBy(plain, json));

  const { lambda_min_clipped: _, ...kept } = json;
  const loaded = await loadPipeline(path);
  assertEquals(loaded.schedule.json, kept);
  assertEquals(loaded.index.scheduler, ["diffusers", "DPMSolverMultistepScheduler"]);

  const index = { ...loaded.index, scheduler: ["diffusers", "EulerDiscreteScheduler"] };
  Deno.writeTextFileSync(`${path}/model_index.json`, JSON.stringify(index));
  const other = await loadPipeline(path);
  assertEquals(samplingPlan(other.schedule, 9), samplingPlan(loaded.schedule, 9, "euler"));
  for (const pipeline of [plain, loaded, other]) pipeline.dispose();
});

Deno.test("loadPipeline: names what is missing", async () => {
  await assertRejects(
    () => loadPipeline("/nowhere"),
    Error,
    "no model at /nowhere: there is no such file or folder",
  );
  const path = `${folder}/other`;
  Deno.mkdirSync(path);
  await assertRejects(() => loadPipeline(path), Error, `no such file: ${path}/model_index.json`);
  Deno.writeTextFileSync(`${path}/model_index.json`, '{"_class_name": "FluxPipeline"}');
  await assertRejects(() => loadPipeline(path), Error, '"_class_name" is "FluxPipeline"');
});
