/**
 * `deno task scale`: a full-size model with random weights on this machine: whether it fits, how long
 * a training step takes, and how far its forward pass is from diffusers'.
 *
 * @module
 */
import { cpus } from "node:os";
import {
  forward,
  forwardInputs,
  type FullSize,
  fullSizes,
  type LoadedUNet,
  ncpDpoSteps,
  type StepCost,
  weightBytes,
  writeRandomUNet,
} from "../bench/full_size.ts";
import { loadUNet, NoiseSchedule } from "../diffusion/mod.ts";

import { type Provenance, provenance, writeWhole } from "../experiments/run.ts";
import { markdownTable } from "../experiments/report.ts";
import { openSafetensors, writeSafetensors } from "../nn/mod.ts";
import { progressOf } from "../notebook/progress.ts";
import { describeMemory } from "../preference/mod.ts";
import { byteSize, getDevice } from "../tensor/mod.ts";
import { useDevice } from "./device.ts";
import { choice, deviceOption, integer, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "scale",
  summary:
    "Run a full-size Stable Diffusion U-Net with random weights: one forward pass, and steps " +
    "of NCP-DPO on one pair as the released scripts take them.",
  options: {
    model: choice(Object.keys(fullSizes) as [FullSize, ...FullSize[]], {
      description: "the architecture",
      default: "sd15",
    }),
    resolution: integer({ description: "pictures' side in pixels", default: 256, min: 64 }),
    steps: integer({ description: "training steps; the first one compiles", default: 2, min: 1 }),
    python: text({
      description: "a Python with diffusers, to compare the forward pass with",
      placeholder: "PATH",
    }),
    folder: text({
      description: "where the random weights are kept",
      placeholder: "DIR",
      default: "data/cache/scale",
    }),
    output: text({ description: "folder for the record and the table", placeholder: "DIR" }),
    device: deviceOption,
  },
  examples: [
    "deno task scale",
    "deno task scale --resolution 512 --python .venv/bin/python --output results/scale",
  ],
};

/** What diffusers did. */
interface Peer {
  /** Largest difference over the largest value. */
  readonly error: number;
  readonly seconds: number;
  readonly torch: string;
}

/** What is kept of a run. */
interface ScaleRecord extends StepCost {
  readonly model: FullSize;
  readonly resolution: number;
  readonly parameters: number;
  readonly processor: string;
  readonly forwardSeconds: number;
  /** Resident memory of the process at the end, in bytes. */
  readonly resident: number;
  readonly diffusers?: Peer;
  readonly provenance: Provenance;
}

/** The U-Net's folder, made at the first time. */
async function randomUNet(model: FullSize, folder: string): Promise<string> {
  const path = `${folder}/${model}`;
  try {
    await Deno.stat(`${path}/config.json`);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    await writeRandomUNet(path, fullSizes[model], progressOf("draw random weights", "parameters"));
  }
  return path;
}

/** Runs diffusers on the same weights and inputs. */
async function compareWithDiffusers(
  python: string,
  path: string,
  { config }: LoadedUNet,
  pixels: number,
  output: Float32Array,
): Promise<Peer> {
  const folder = await Deno.makeTempDir();
  try {
    // PyTorch's images have the channels first.
    const [inputs, result] = [`${folder}/inputs.safetensors`, `${folder}/output.safetensors`];
    await writeSafetensors(
      inputs,
      new Map(
        Object.entries(forwardInputs(config, pixels)).map(([name, { shape, data }]) => {
          if (shape.length !== 4) return [name, { dtype: "F32", shape, data }];
          const [n, h, w, c] = shape as [number, number, number, number];
          return [name, { dtype: "F32", shape: [n, c, h, w], data: channelsFirst(data, c) }];
        }),
      ),
    );
    const script = new URL("../../tests/golden/forward_torch.py", import.meta.url).pathname;
    const { success, stdout, stderr } = await new Deno.Command(python, {
      args: [script, path, inputs, result, "--threads", `${navigator.hardwareConcurrency}`],
    }).output().catch((cause) => {
      throw new UserError(`--python ${python} can't be started: ${cause.message}`, { cause });
    });
    if (!success) {
      const why = new TextDecoder().decode(stderr).trim().split("\n").at(-1);
      throw new UserError(`${python} ${script} failed: ${why}`);
    }
    const expected = await (await openSafetensors(result)).read("output") as Float32Array;
    const found = channelsFirst(output, config.out_channels);
    let difference = 0, largest = 0;
    expected.forEach((x, i) => {
      difference = Math.max(difference, Math.abs(x - found[i]!));
      largest = Math.max(largest, Math.abs(x));
    });
    const { seconds, torch } = JSON.parse(new TextDecoder().decode(stdout).trim());
    return { error: difference / largest, seconds, torch };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** One image [h, w, c] as [c, h, w]. */
function channelsFirst(data: Float32Array, channels: number): Float32Array<ArrayBuffer> {
  const pixels = data.length / channels;
  const out = new Float32Array(data.length);
  data.forEach((x, i) => out[(i % channels) * pixels + Math.floor(i / channels)] = x);
  return out;
}

/** All records of a folder as a table. */
async function writeTable(folder: string): Promise<void> {
  const records: ScaleRecord[] = [];
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".json")) {
      records.push(JSON.parse(await Deno.readTextFile(`${folder}/${name}`)));
    }
  }
  records.sort((a, b) => a.model.localeCompare(b.model) || a.resolution - b.resolution);
  const number = (heading: string, decimals: number) => ({ heading, name: heading, decimals });
  const table = markdownTable({
    columns: [
      { heading: "model", name: "model" },
      { heading: "device", name: "device" },
      number("pixels", 0),
      number("weights, GB", 2),
      number("LoRA and optimiser, GB", 2),
      number("step, GB", 2),
      number("all on the device, GB", 2),
      number("process, GB", 2),
      number("NCP-DPO step, s", 1),
      number("forward pass, s", 2),
      number("PyTorch's, s", 2),
      { heading: "largest difference from diffusers", name: "error" },
    ],
    rows: records.map(({ memory, diffusers, ...r }) => [
      r.model,
      r.provenance.device,
      r.resolution,
      ...[memory.held, memory.state, memory.step, memory.total, r.resident].map((b) => b / 1e9),
      Math.min(...r.seconds.slice(r.seconds.length > 1 ? 1 : 0)),
      r.forwardSeconds,
      diffusers?.seconds ?? null,
      diffusers ? diffusers.error.toExponential(1) : "",
    ]),
  });
  await writeWhole(
    `${folder}/table.md`,
    `# Full size

U-Nets of the real architectures with random weights, held in 16 bits and computed with in 32: one
forward pass of one image, and steps of NCP-DPO on one pair as the released scripts take them (LoRA of
rank 64 on attention, AdamW in 8 bits, blocks computed again in the backward pass). Made by
\`deno task scale --output results/scale\`; the difference is relative to the largest value.

${table}`,
  );
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { model, resolution, steps, python, output } = options;
    if (resolution % 64 !== 0) {
      throw new UserError(`--resolution is ${resolution}, but it must be a multiple of 64`);
    }
    const startedAt = new Date();
    const { name, capacity = Infinity } = await useDevice(options.device);
    const size = weightBytes(model);
    if (size > capacity) {
      throw new UserError(
        `the weights of ${model} take ${byteSize(size)} in 16 bits, but the ${name} device holds ` +
          `at most ${byteSize(capacity)}: run it on a GPU with --device webgpu`,
      );
    }
    const path = await randomUNet(model, options.folder);
    const loaded = await loadUNet(path);
    const parameters = [...loaded.weights.tensors.values()].reduce((sum, t) => sum + t.size, 0);
    await loaded.weights.realize();
    const { output: predicted, seconds } = await forward(loaded, resolution);
    console.log(`forward pass of one image: ${seconds.toFixed(2)} s`);
    const run = await Deno.makeTempDir();
    const progress = progressOf("ncp-dpo", "steps");
    const cost = await ncpDpoSteps(
      ...[loaded, stableDiffusionSchedule(), resolution, steps, run] as const,
      (done) => progress(done, steps),
    ).finally(() => Deno.remove(run, { recursive: true }));
    console.log(`memory: ${describeMemory(cost.memory)}`);
    console.log(`NCP-DPO steps: ${cost.seconds.map((s) => `${s.toFixed(1)} s`).join(", ")}`);
    const resident = Deno.memoryUsage().rss;
    const device = getDevice();
    loaded.weights.dispose();
    const diffusers = python === undefined
      ? undefined
      : await compareWithDiffusers(python, path, loaded, resolution, predicted);
    if (diffusers) {
      console.log(
        `diffusers (PyTorch ${diffusers.torch}): ${diffusers.seconds.toFixed(2)} s; ` +
          `largest difference ${diffusers.error.toExponential(1)} of the largest value`,
      );
    }
    if (!output) return;
    const record: ScaleRecord = {
      ...{ model, resolution, parameters, forwardSeconds: seconds, ...cost, resident },
      processor: cpus()[0]?.model.trim() ?? "unknown processor",
      ...diffusers && { diffusers },
      provenance: provenance(device.description, startedAt),
    };
    await Deno.mkdir(output, { recursive: true });
    await writeWhole(
      `${output}/${model}-${resolution}-${device.name}.json`,
      JSON.stringify(record, null, 1) + "\n",
    );
    await writeTable(output);
    console.log(`record and table in ${output}`);
  });
}

/** The schedule that both models were trained with. */
function stableDiffusionSchedule(): NoiseSchedule {
  return NoiseSchedule.fromConfig({
    ...{ beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 },
  });
}
