import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { addNoise, velocity } from "../../lib/diffusion/ddpm.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { spacedTimesteps } from "../../lib/diffusion/timesteps.ts";
import { type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { readJson } from "../../lib/diffusion/config.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, goldenCases, goldenPath, openGolden, relativeError } from "./golden.ts";

const SD = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };

Deno.test("schedule: Stable Diffusion's noise levels", () => {
  const schedule = NoiseSchedule.fromConfig(SD);
  assertEquals(schedule.trainTimesteps, 1000);
  assertAlmostEquals(schedule.alphasCumprod[0]!, 1 - 0.00085, 1e-12);
  assertAlmostEquals(schedule.alphasCumprod[999]!, 0.00466, 1e-5);
  assertEquals(schedule.alphaCumprod(-1), 1);
});

Deno.test("schedule: timesteps are spaced as diffusers spaces them", () => {
  const schedule = NoiseSchedule.fromConfig({ ...SD, steps_offset: 1 });
  const timesteps = (steps: number, spacing: "leading" | "trailing" | "linspace") =>
    spacedTimesteps(schedule, steps, spacing);
  assertEquals(timesteps(4, "leading"), [751, 501, 251, 1]);
  assertEquals(timesteps(4, "trailing"), [999, 749, 499, 249]);
  assertEquals(timesteps(4, "linspace"), [999, 666, 333, 0]);
  assertEquals(timesteps(3, "leading"), [667, 334, 1]);
  assertEquals(timesteps(3, "trailing"), [999, 666, 332]);
  assertEquals(timesteps(61, "trailing").length, 61);
  assertThrows(() => timesteps(0, "leading"), RangeError, "an integer from 1 to 1000, not 0");
  assertThrows(
    () => timesteps(1000, "leading"),
    RangeError,
    '1000 steps would begin at timestep 1000, but the last is 999, since "steps_offset" is 1',
  );
});

Deno.test("schedule: what is not known is refused by name", () => {
  const read = (change: Record<string, unknown>) => () =>
    NoiseSchedule.fromConfig({ ...SD, ...change }, "scheduler_config.json");
  assertThrows(
    read({ beta_schedule: "sigmoid" }),
    Error,
    'scheduler_config.json: "beta_schedule" is "sigmoid"; known are linear, scaled_linear',
  );
  assertThrows(read({ prediction_type: "flow" }), Error, '"prediction_type" is "flow"');
  assertThrows(
    read({ rescale_betas_zero_snr: true }),
    Error,
    'scheduler_config.json: "rescale_betas_zero_snr" is true; known is false',
  );
  assertThrows(read({ beta_start: "x" }), Error, '"beta_start" is "x"; expected a number');
  assertThrows(read({ beta_end: 2 }), Error, '"beta_end" is 2; expected a number between 0 and 1');
  for (const count of [1e12, 1.5, 0, "1000"]) {
    assertThrows(
      read({ num_train_timesteps: count }),
      Error,
      "expected an integer from 2 to 1000000",
    );
  }
  assertThrows(
    read({ trained_betas: [0.1, 0.2] }),
    Error,
    '"trained_betas" must be a list of 1000 numbers between 0 and 1',
  );
  assertThrows(
    // deno-lint-ignore no-explicit-any
    () => NoiseSchedule.fromConfig([1] as any, "scheduler_config.json"),
    Error,
    "scheduler_config.json holds [1]; expected an object",
  );
});

Deno.test("schedule: any scheduler's file serves for training", () => {
  for (const _class_name of ["EulerAncestralDiscreteScheduler", "LCMScheduler"]) {
    const { alphasCumprod } = NoiseSchedule.fromConfig({ ...SD, _class_name, solver_order: 3 });
    assertEquals(alphasCumprod, NoiseSchedule.fromConfig(SD).alphasCumprod);
  }
});

Deno.test("schedule: betas may be given one by one", () => {
  const trained_betas = [0.1, 0.2, 0.5];
  const schedule = NoiseSchedule.fromConfig({ trained_betas, num_train_timesteps: 3 });
  assertEquals([...schedule.betas], trained_betas);
  assertAlmostEquals(schedule.alphasCumprod[2]!, 0.9 * 0.8 * 0.5, 1e-12);
});

eachDevice("schedule: noise and velocity are added by each image's timestep", async () => {
  const schedule = NoiseSchedule.fromConfig(SD);
  const [x, e] = [tensor([1, 2, 3, 4], [2, 2]), tensor([-1, 0.5, 2, 1], [2, 2])];
  const t = tensor([10, 900], [2], "i32");
  using noisy = addNoise(schedule, x, e, t);
  using v = velocity(schedule, x, e, t);
  const [foundNoisy, foundV] = [await noisy.data(), await v.data()];
  const [signal, noise] = [Math.sqrt, (a: number) => Math.sqrt(1 - a)]
    .map((f) => [f(schedule.alphasCumprod[10]!), f(schedule.alphasCumprod[900]!)]) as [
      number[],
      number[],
    ];
  const [xs, es] = [[1, 2, 3, 4], [-1, 0.5, 2, 1]];
  for (let i = 0; i < 4; i++) {
    const row = i >> 1;
    assertAlmostEquals(foundNoisy[i]!, signal[row]! * xs[i]! + noise[row]! * es[i]!, 1e-5);
    assertAlmostEquals(foundV[i]!, signal[row]! * es[i]! - noise[row]! * xs[i]!, 1e-5);
  }
});

Deno.test("schedule: noise tables agree with diffusers", async () => {
  const { golden } = goldenCases("noise-table")[0]!;
  const file = await openGolden(golden);
  for (const kind of ["linear", "scaled_linear"]) {
    const schedule = NoiseSchedule.fromConfig({ ...SD, beta_schedule: kind });
    const close = async (found: Float64Array, name: string) =>
      assert(relativeError(found, await file.values(`${name}.${kind}`)) < 1e-6, `${name} ${kind}`);
    await close(schedule.betas, "betas");
    await close(schedule.alphasCumprod, "alphas_cumprod");
  }
});

for (const { name, model, golden } of goldenCases("ddpm")) {
  eachDevice(`schedule: ${name} agrees with diffusers`, async () => {
    const json = await readJson(goldenPath(`${model}/scheduler_config.json`));
    const schedule = NoiseSchedule.fromConfig(json);
    const file = await openGolden(golden);
    const [clean, noise, timesteps] = await Promise.all(
      ["clean", "noise", "timestep"].map((t) => file.tensor(t)),
    ) as [Tensor, Tensor, Tensor];
    using added = addNoise(schedule, clean, noise, timesteps);
    await assertClose(added, await file.values("noisy"), "noisy");
    using v = velocity(schedule, clean, noise, timesteps);
    await assertClose(v, await file.values("velocity"), "velocity");
  });
}
