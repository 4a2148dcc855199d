/** The full-size measurement, on a small model: its files, its forward pass and its steps. */
import { assert, assertEquals } from "@std/assert";
import {
  forward,
  forwardInputs,
  fullSizes,
  ncpDpoSteps,
  writeRandomUNet,
} from "../../lib/bench/full_size.ts";
import {
  loadUNet,
  NoiseSchedule,
  readJson,
  unetConfig,
  unetParameters,
} from "../../lib/diffusion/mod.ts";
import { fileShape, openSafetensors } from "../../lib/nn/mod.ts";
import { setDevice } from "../../lib/tensor/mod.ts";
import { type GoldenCheckpoint, goldenJson } from "../diffusion/checkpoint_files.ts";
import { goldenPath } from "../diffusion/golden.ts";
import { device } from "../tensor/devices.ts";

for (const model of ["sd15", "sdxl"] as const) {
  Deno.test(`fullSizes: ${model} has the published model's tensors`, () => {
    const { parts } = goldenJson<GoldenCheckpoint>(`checkpoint/${model}.json.gz`);
    const found = unetParameters(unetConfig(fullSizes[model]))
      .map(({ name, shape }) => [name, fileShape(shape)] as const);
    const expected = Object.entries(parts.unet!).map(([name, [shape]]) => [name, shape]);
    assertEquals(Object.fromEntries(found), Object.fromEntries(expected));
  });
}

Deno.test({
  name: "full size: random weights are written, run forwards and trained",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    setDevice(await device("cpu"));
    const folder = await Deno.makeTempDir();
    const json = await readJson(goldenPath("unet/sdxl/config.json"));
    await writeRandomUNet(folder, json);
    const file = await openSafetensors(`${folder}/diffusion_pytorch_model.safetensors`);
    assert(file.entries.values().every(({ dtype }) => dtype === "F16"));
    const loaded = await loadUNet(folder);
    const inputs = forwardInputs(loaded.config, 64);
    assertEquals(inputs.sample.shape, [1, 8, 8, 4]);

    const { output } = await forward(loaded, 64);
    assert(output.length === 8 * 8 * 4 && output.every(Number.isFinite));
    const schedule = NoiseSchedule.fromConfig({ beta_start: 0.00085, beta_end: 0.012 });
    const cost = await ncpDpoSteps(loaded, schedule, 64, 2, `${folder}/run`);
    assertEquals(cost.seconds.length, 2);
    assert(Number.isFinite(cost.loss) && cost.memory.step > 0);
    loaded.weights.dispose();
    await Deno.remove(folder, { recursive: true });
  },
});
