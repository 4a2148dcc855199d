import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { ddimStep } from "../../lib/diffusion/ddim.ts";
import { addNoise, ddpmStep, velocity } from "../../lib/diffusion/ddpm.ts";
import { applyStep, NoiseSchedule, packStep } from "../../lib/diffusion/noise_schedule.ts";
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
  assertEquals(schedule.timesteps(4, "leading"), [751, 501, 251, 1]);
  assertEquals(schedule.timesteps(4, "trailing"), [999, 749, 499, 249]);
  assertEquals(schedule.timesteps(4, "linspace"), [999, 666, 333, 0]);
  assertEquals(schedule.timesteps(3, "leading"), [667, 334, 1]);
  assertEquals(schedule.timesteps(3, "trailing"), [999, 666, 332]);
  assertEquals(schedule.timesteps(12, "trailing").length, 12);
  assertThrows(() => schedule.timesteps(0), RangeError, "an integer from 1 to 1000, not 0");
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
  assertThrows(read({ thresholding: true }), Error, '"thresholding" is true');
  assertThrows(read({ beta_start: "x" }), Error, "expected a number");
});

eachDevice("schedule: a step from the true noise leads to the true marginal", async () => {
  const original = [0.3, -1.2, 0.8];
  const epsilon = [1.1, 0.4, -0.7];
  const v = (abar: number, i: number) =>
    Math.sqrt(abar) * epsilon[i]! - Math.sqrt(1 - abar) * original[i]!;
  for (const prediction_type of ["epsilon", "v_prediction", "sample"]) {
    const schedule = NoiseSchedule.fromConfig({ ...SD, prediction_type });
    const [t, steps] = [751, 4];
    const abar = schedule.alphasCumprod[t]!;
    const at = (abar: number, i: number) =>
      Math.sqrt(abar) * original[i]! + Math.sqrt(1 - abar) * epsilon[i]!;
    const output = [0, 1, 2].map((i) =>
      ({ epsilon: epsilon[i], sample: original[i], v_prediction: v(abar, i) })[prediction_type]!
    );
    const sample = [0, 1, 2].map((i) => at(abar, i));
    using next = applyStep(
      tensor(packStep(ddimStep(schedule, t, steps)), [8]),
      tensor(sample, [1, 3]),
      tensor(output, [1, 3]),
    );
    const found = await next.data();
    const abarNext = schedule.alphasCumprod[t - 250]!;
    [0, 1, 2].forEach((i) => assertAlmostEquals(found[i]!, at(abarNext, i), 1e-5));
  }
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

Deno.test("schedule: DDPM's step is the posterior mean, DDIM at eta 1 has its variance", () => {
  const schedule = NoiseSchedule.fromConfig(SD);
  const t = 400;
  const { original, next } = ddpmStep(schedule, t, t - 1);
  const alpha = 1 - schedule.betas[t]!, abar = schedule.alphasCumprod[t]!;
  // x_{t-1} = (x_t - (1 - alpha_t) / sqrt(1 - abar_t) eps) / sqrt(alpha_t) + sigma_t z
  assertAlmostEquals(next[0] * original[0] + next[2], 1 / Math.sqrt(alpha), 1e-9);
  assertAlmostEquals(
    next[0] * original[1],
    -(1 - alpha) / Math.sqrt((1 - abar) * alpha),
    1e-9,
  );
  assertAlmostEquals(next[3], ddimStep(schedule, t, 1000, 1).next[3], 1e-12);
  assertEquals(ddpmStep(schedule, 0, -1).next[3], 0);
  const large = NoiseSchedule.fromConfig({ ...SD, variance_type: "fixed_large" });
  assertAlmostEquals(ddpmStep(large, t, t - 1).next[3], Math.sqrt(schedule.betas[t]!), 1e-9);
});

Deno.test("schedule: DDIM's last step leads to no noise, or to the first level", () => {
  const one = NoiseSchedule.fromConfig(SD);
  const first = NoiseSchedule.fromConfig({ ...SD, set_alpha_to_one: false });
  assertEquals(ddimStep(one, 1, 50).next, [1, 0, 0, 0]);
  assertAlmostEquals(ddimStep(first, 1, 50).next[1], Math.sqrt(0.00085), 1e-12);
});

eachDevice("schedule: the predicted original is clipped where the schedule says so", async () => {
  const schedule = NoiseSchedule.fromConfig({ ...SD, clip_sample: true });
  assert(NoiseSchedule.fromConfig(SD).clipRange === Infinity);
  using next = applyStep(
    tensor(packStep(ddimStep(schedule, 1, 50)), [8]),
    tensor([3, -3, 0.5], [3]),
    tensor([0, 0, 0], [3]),
    schedule.clipRange,
  );
  const found = await next.data();
  assertEquals([found[0], found[1]], [1, -1]);
  assertAlmostEquals(found[2]!, 0.5, 1e-2);
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
    const [clean, noise, timesteps, noisy, output, z] = await Promise.all(
      ["clean", "noise", "timestep", "noisy", "model_output", "z"].map((t) => file.tensor(t)),
    ) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    using added = addNoise(schedule, clean, noise, timesteps);
    await assertClose(added, await file.values("noisy"), "noisy");
    using v = velocity(schedule, clean, noise, timesteps);
    await assertClose(v, await file.values("velocity"), "velocity");

    const steps = await file.values("timestep");
    const expected = await file.values("previous");
    const size = expected.length / steps.length;
    for (const [i, t] of steps.entries()) {
      using next = applyStep(
        tensor(packStep(ddpmStep(schedule, t, t - 1)), [8]),
        noisy.slice(0, i, i + 1),
        output.slice(0, i, i + 1),
        schedule.clipRange,
        z.slice(0, i, i + 1),
      );
      await assertClose(next, expected.subarray(i * size, (i + 1) * size), `step from ${t}`);
    }
  });
}

for (const { name, model, golden, scheduler, steps } of goldenCases("trajectory")) {
  if (scheduler !== "DDIMScheduler") continue;
  eachDevice(`schedule: ${name} agrees with diffusers`, async () => {
    const json = await readJson(goldenPath(`${model}/scheduler_config.json`));
    const schedule = NoiseSchedule.fromConfig(json);
    const file = await openGolden(golden);
    const timesteps = schedule.timesteps(steps!);
    assertEquals(timesteps, [...await file.values("timesteps")]);
    const [samples, outputs] = [await file.values("samples"), await file.values("model_outputs")];
    const size = outputs.length / timesteps.length;
    const row = (values: typeof samples, i: number) =>
      tensor(values.slice(i * size, (i + 1) * size), [size]);
    for (const [i, t] of timesteps.entries()) {
      using next = applyStep(
        tensor(packStep(ddimStep(schedule, t, steps!)), [8]),
        row(samples, i),
        row(outputs, i),
      );
      await assertClose(next, samples.subarray((i + 1) * size, (i + 2) * size), `step from ${t}`);
    }
  });
}
