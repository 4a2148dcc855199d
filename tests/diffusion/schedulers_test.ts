import { assert, assertAlmostEquals, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type Json, readJson } from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { loadUNet } from "../../lib/diffusion/mod.ts";
import { Sampler } from "../../lib/diffusion/sample.ts";
import {
  advance,
  followPlan,
  type SampleState,
  type SamplingPlan,
  type StepInputs,
} from "../../lib/diffusion/sampling_plan.ts";
import {
  samplingPlan,
  type SchedulerName,
  schedulerNames,
} from "../../lib/diffusion/schedulers.ts";
import { getDevice, jit, type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, goldenCases, goldenPath, openGolden } from "./golden.ts";

const SD = { beta_schedule: "scaled_linear", beta_start: 0.00085, beta_end: 0.012 };

const NAMES: Record<string, SchedulerName> = {
  DDIMScheduler: "ddim",
  DDPMScheduler: "ddpm",
  PNDMScheduler: "pndm",
  EulerDiscreteScheduler: "euler",
  DPMSolverMultistepScheduler: "dpm-solver++",
};

/** The plan of a golden case: by the file's own class, or by another that takes its keys over. */
function planOf(schedule: NoiseSchedule, className: string, steps: number): SamplingPlan {
  const own = schedule.config.className === className;
  return samplingPlan(schedule, steps, own ? undefined : NAMES[className]!);
}

/** The largest difference over the largest value. */
function largestError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  assertEquals(found.length, expected.length);
  let [difference, size] = [0, 0];
  for (let i = 0; i < found.length; i++) {
    // What is not a number must not pass for no difference.
    const d = Math.abs(found[i]! - expected[i]!);
    difference = Number.isNaN(d) ? Infinity : Math.max(difference, d);
    size = Math.max(size, Math.abs(expected[i]!));
  }
  return difference / size;
}

/** Follows a plan with given model outputs; `look` sees the state before each evaluation. */
async function followOutputs(
  plan: SamplingPlan,
  start: Float32Array,
  outputOf: (evaluation: number) => Float32Array,
  look: (latents: Tensor, evaluation: number) => Promise<void> = () => Promise.resolve(),
  noiseOf?: (evaluation: number) => Float32Array,
): Promise<Float32Array> {
  const shape = [start.length];
  const step = jit((state: SampleState, given: StepInputs & { readonly output: Tensor }) => ({
    state: advance(plan.form, state, given.output, given.weights, given.noise[0]),
    result: {},
  }));
  const sample = await followPlan(plan, { data: start, shape }, async (state, inputs, i) => {
    await look(state.latents, i);
    using output = tensor(outputOf(i), shape);
    await step(state, { ...inputs, output });
  }, noiseOf);
  const found = await sample.data() as Float32Array;
  sample.dispose();
  step.dispose();
  return found;
}

for (const { name, model, golden, scheduler, steps } of goldenCases("trajectory")) {
  eachDevice(`schedulers: ${name} agrees with diffusers`, async () => {
    const live = getDevice().liveBytes;
    const json = await readJson(goldenPath(`${model}/scheduler_config.json`));
    const schedule = NoiseSchedule.fromConfig(json);
    const plan = planOf(schedule, scheduler!, steps!);
    const file = await openGolden(golden);
    const values = async (name: string) => await file.values(name) as Float32Array;

    const timesteps = await values("timesteps");
    const planned = plan.evaluations.map(({ timestep }) => timestep);
    if (timesteps.every(Number.isInteger)) assertEquals(planned, [...timesteps]);
    // Those between two come from logarithms, which diffusers takes in f32.
    else timesteps.forEach((t, i) => assertAlmostEquals(planned[i]!, t, 1e-3));

    const sigmas = file.has("sigmas") ? await values("sigmas") : undefined;
    if (sigmas && schedule.predictionType === "epsilon") {
      // The predicted original is (x - noise o) / signal.
      const found = plan.evaluations.map(({ weights }) => -weights.original[1]);
      const error = largestError(found, sigmas.subarray(0, -1));
      assert(error <= 1e-5, `sigmas: ${error}`);
    }

    const [samples, inputs, outputs] = await Promise.all(
      ["samples", "model_inputs", "model_outputs"].map(values),
    ) as [Float32Array, Float32Array, Float32Array];
    const z = file.has("z") ? await values("z") : undefined;
    const size = outputs.length / timesteps.length;
    const row = (values: Float32Array, i: number) => values.slice(i * size, (i + 1) * size);
    const [initial] = await values("initial_sigma");
    const start = row(samples, 0).map((value) => value / initial!);
    const found = await followOutputs(plan, start, (i) => row(outputs, i), async (latents, i) => {
      const error = largestError(await latents.data(), row(inputs, i));
      assert(error <= 1e-5, `the model's input ${i}: ${error}`);
    }, z && ((i) => row(z, i)));
    const error = largestError(found, row(samples, timesteps.length));
    assert(error <= 1e-5, `the sample: ${error}`);
    assertEquals(getDevice().liveBytes, live);
  });
}

for (const { name, model, golden } of goldenCases("ddpm")) {
  eachDevice(`schedulers: ${name}, single steps agree with diffusers`, async () => {
    const json = await readJson(goldenPath(`${model}/scheduler_config.json`));
    const plan = samplingPlan(NoiseSchedule.fromConfig(json), 1000);
    const file = await openGolden(golden);
    const [noisy, output, z, expected] = await Promise.all(
      ["noisy", "model_output", "z", "previous"].map((name) => file.values(name)),
    ) as [Float32Array, Float32Array, Float32Array, Float32Array];
    const timesteps = await file.values("timestep");
    const size = expected.length / timesteps.length;
    for (const [i, t] of timesteps.entries()) {
      const row = (values: Float32Array) => values.slice(i * size, (i + 1) * size);
      const one = plan.evaluations.filter(({ timestep }) => timestep === t);
      const found = await followOutputs(
        { ...plan, evaluations: one },
        row(noisy),
        () => row(output),
        undefined,
        () => row(z),
      );
      // Not 1e-5: diffusers' `1 - abar` has lost digits where abar is nearly 1.
      const error = largestError(found, row(expected));
      assert(error <= (t < 50 ? 1e-4 : 1e-5), `step from ${t}: ${error}`);
    }
  });
}

for (const { name, model, golden, scheduler, steps, config, guidance } of goldenCases("pipeline")) {
  eachDevice(`schedulers: the pipeline ${name} agrees with diffusers`, async () => {
    const schedule = NoiseSchedule.fromConfig(config!);
    const unet = await loadUNet(goldenPath(model));
    const sampler = new Sampler(unet.weights, unet.config);
    const file = await openGolden(golden);
    const timeIds = tensor([32, 32, 0, 0, 32, 32, 32, 32, 0, 0, 32, 32], [2, 6]);
    const conditions = async (prefix: string) => ({
      context: await file.tensor(`${prefix}prompt_embeds`),
      ...file.has("pooled_prompt_embeds") && {
        added: { textEmbeds: await file.tensor(`${prefix}pooled_prompt_embeds`), timeIds },
      },
    });
    const noise = await file.tensor("noise");
    const z: Float32Array[] = [];
    while (file.has(`z.${z.length}`)) {
      z.push(await file.values(`z.${z.length}`) as Float32Array);
    }
    const done: number[] = [];
    using latents = await sampler.sample(
      { data: await file.values("noise") as Float32Array, shape: noise.shape },
      await conditions(""),
      await conditions("negative_"),
      {
        plan: planOf(schedule, scheduler!, steps!),
        guidanceScale: guidance!,
        stepNoise: (i) => z[i]!,
        onStep: (n) => done.push(n),
      },
    );
    await assertClose(latents, await file.values("latents"), "latents");
    assertEquals(done.length, scheduler === "PNDMScheduler" ? steps! + 1 : steps!);
    sampler.dispose();
    unet.weights.dispose();
  });
}

eachDevice("schedulers: from the true noise every run leads to the original", async () => {
  const [original, epsilon] = [[0.3, -1.2, 0.8], [1.1, 0.4, -0.7]];
  for (const prediction_type of ["epsilon", "v_prediction", "sample"]) {
    const schedule = NoiseSchedule.fromConfig({
      ...SD,
      prediction_type,
      steps_offset: 1,
      timestep_spacing: "leading",
      set_alpha_to_one: true,
    });
    for (const name of schedulerNames) {
      // PNDM's mean of outputs at two levels is that of noise only where noise is predicted.
      if (name === "ddpm" || name === "pndm" && prediction_type !== "epsilon") continue;
      const plan = samplingPlan(schedule, 7, name);
      const [first] = plan.evaluations;
      const levels = plan.evaluations.map(({ timestep }) => schedule.level(timestep));
      const output = (i: number) =>
        Float32Array.from(original, (x, k) => {
          const { signal, noise } = levels[i]!;
          const answers = {
            epsilon: epsilon[k]!,
            sample: x,
            v_prediction: signal * epsilon[k]! - noise * x,
          };
          return answers[prediction_type as keyof typeof answers];
        });
      const { signal, noise } = schedule.level(first!.timestep);
      const start = Float32Array.from(original, (x, k) => signal * x + noise * epsilon[k]!);
      const found = await followOutputs(plan, start, output);
      original.forEach((x, k) => assertAlmostEquals(found[k]!, x, 1e-5, `${name} ${k}`));
    }
  }
});

Deno.test("schedulers: a file's own class is taken, another one by its name", () => {
  const pndm = NoiseSchedule.fromConfig({
    ...SD,
    _class_name: "PNDMScheduler",
    skip_prk_steps: true,
    steps_offset: 1,
  });
  assertEquals(samplingPlan(pndm, 4).evaluations.map((e) => e.timestep), [751, 501, 501, 251, 1]);
  assertEquals(samplingPlan(pndm, 50).evaluations.length, 51);
  assertEquals(samplingPlan(pndm, 4, "ddim").evaluations.length, 4);
  assertEquals(samplingPlan(pndm, 4, "ddpm").form, { noisy: true });
  const plain = NoiseSchedule.fromConfig(SD);
  assertEquals(samplingPlan(plain, 4), samplingPlan(plain, 4, "ddim"));
});

Deno.test("schedulers: DDPM's step is the posterior mean with its variance", () => {
  const schedule = NoiseSchedule.fromConfig(SD);
  const t = 400;
  const step = (schedule: NoiseSchedule, t: number) =>
    samplingPlan(schedule, 1000, "ddpm").evaluations.find((e) => e.timestep === t)!.weights;
  const { original, next } = step(schedule, t);
  const alpha = 1 - schedule.betas[t]!, abar = schedule.alphasCumprod[t]!;
  // x_{t-1} = (x_t - (1 - alpha_t) / sqrt(1 - abar_t) eps) / sqrt(alpha_t) + sigma_t z
  assertAlmostEquals(next[0] * original[0] + next[2], 1 / Math.sqrt(alpha), 1e-9);
  assertAlmostEquals(
    next[0] * original[1],
    -(1 - alpha) / Math.sqrt((1 - abar) * alpha),
    1e-9,
  );
  const before = schedule.alphasCumprod[t - 1]!;
  assertAlmostEquals(next[3] ** 2, (1 - before) / (1 - abar) * (1 - alpha), 1e-12);
  assertEquals(step(schedule, 0).next[3], 0);
  const large = NoiseSchedule.fromConfig({ ...SD, variance_type: "fixed_large" });
  assertAlmostEquals(step(large, t).next[3], Math.sqrt(schedule.betas[t]!), 1e-9);
});

Deno.test("schedulers: DDIM's last step leads to no noise, or to the first level", () => {
  const last = (change: Json) =>
    samplingPlan(NoiseSchedule.fromConfig({ ...SD, ...change }), 50).evaluations.at(-1)!.weights;
  assertEquals(last({}).next, [1, 0, 0, 0]);
  assertAlmostEquals(last({ set_alpha_to_one: false }).next[1], Math.sqrt(0.00085), 1e-12);
});

Deno.test("schedulers: what is not implemented is refused by file, key and value", () => {
  const plan = (change: Json, steps = 10) => () =>
    samplingPlan(NoiseSchedule.fromConfig({ ...SD, ...change }, "my/scheduler_config.json"), steps);
  assertThrows(
    plan({ _class_name: "EulerAncestralDiscreteScheduler" }),
    Error,
    'my/scheduler_config.json: "_class_name" is "EulerAncestralDiscreteScheduler"; known are ' +
      "DDIMScheduler, DDPMScheduler, PNDMScheduler, EulerDiscreteScheduler, " +
      "DPMSolverMultistepScheduler: choose one of the schedulers ddim, ddpm, pndm, euler, " +
      "dpm-solver++ instead",
  );
  const pndm = { _class_name: "PNDMScheduler" };
  assertThrows(
    plan(pndm),
    Error,
    '"skip_prk_steps" is false (diffusers\' default); known is true',
  );
  assertThrows(
    plan({ ...pndm, skip_prk_steps: false }),
    Error,
    '"skip_prk_steps" is false; known is true',
  );
  const euler = { _class_name: "EulerDiscreteScheduler" };
  const solver = { _class_name: "DPMSolverMultistepScheduler" };
  for (
    const [key, value, base, known] of [
      ["thresholding", true, {}, "is false"],
      ["timestep_spacing", "random", {}, "are leading, trailing, linspace"],
      [
        "variance_type",
        "learned",
        { _class_name: "DDPMScheduler" },
        "are fixed_small, fixed_large",
      ],
      ["timestep_type", "continuous", euler, "is discrete"],
      ["interpolation_type", "log_linear", euler, "is linear"],
      ["use_exponential_sigmas", true, euler, "is false"],
      ["use_beta_sigmas", true, euler, "is false"],
      ["final_sigmas_type", "mean", euler, "are zero, sigma_min"],
      ["solver_order", 3, solver, "are 2, 1"],
      ["solver_type", "heun", solver, "are midpoint, logrho, bh1, bh2"],
      ["algorithm_type", "sde-dpmsolver++", solver, "are dpmsolver++, deis"],
      ["use_lu_lambdas", true, solver, "is false"],
      ["use_flow_sigmas", true, solver, "is false"],
      ["lambda_min_clipped", -5.1, solver, "is -Infinity"],
    ] as const
  ) {
    assertThrows(
      plan({ ...base, [key]: value }),
      Error,
      `my/scheduler_config.json: "${key}" is ${JSON.stringify(value)}; known ${known}`,
    );
  }
  assertThrows(
    plan({ clip_sample: "yes" }),
    Error,
    '"clip_sample" is "yes"; expected true or false',
  );
  assertThrows(
    plan({ ...euler, use_karras_sigmas: true, sigma_min: 0 }),
    Error,
    '"sigma_min" is 0; expected a number above 0',
  );
  assertThrows(plan({ steps_offset: -1 }), Error, '"steps_offset" is -1; expected an integer');
  for (const timestep_spacing of ["leading", "linspace"]) {
    assertThrows(
      plan({ ...solver, timestep_spacing }, 1000),
      RangeError,
      "1000 steps are too many for DPM-Solver++",
    );
  }
  for (const _class_name of Object.keys(NAMES)) {
    assertThrows(
      plan({ _class_name, skip_prk_steps: true }, 1001),
      RangeError,
      "from 1 to 1000, not 1001",
    );
  }
});

Deno.test("schedulers: a noisy plan asks for its noise", async () => {
  const plan = samplingPlan(NoiseSchedule.fromConfig(SD), 3, "ddpm");
  await assertRejects(
    () => followOutputs(plan, new Float32Array(2), () => new Float32Array(2)),
    TypeError,
    "give followPlan stepNoise",
  );
});
