import { assert, assertAlmostEquals, assertThrows } from "@std/assert";
import { readJson, unetConfig } from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { loadLora } from "../../lib/nn/lora_file.ts";
import { loadWeights } from "../../lib/nn/weights.ts";
import {
  COEFFICIENTS,
  coefficientsOf,
  type FeatureChoice,
  gatherCoefficients,
  type MethodName,
  methods,
  negativeLogSigmoid,
  noisy,
  preferenceLoss,
  reverseStep,
  timestepWeight,
} from "../../lib/preference/mod.ts";
import { concat, grad, realize, tensor } from "../../lib/tensor/mod.ts";
import {
  assertClose,
  type GoldenCase,
  goldenCases,
  goldenPath,
  openGolden,
  relativeError,
} from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

type ObjectiveCase = GoldenCase & {
  lora: string;
  inputs: string;
  method: MethodName;
  features: string | null;
  beta: number | null;
  lambda: number | null;
};

/** The released code's way of taking several levels is the one implemented. */
const choices: Record<string, FeatureChoice> = {
  "down": "down",
  "mid": "mid",
  "released-concatenated": "levels",
  "released-normalised": "normalised-levels",
};

const cases = (goldenCases("objective") as ObjectiveCase[])
  .filter(({ features }) => features === null || features in choices);

const schedule = NoiseSchedule.fromConfig({
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
});

/** The r(t) that the golden of the weighted method was made with. */
const weighting = {
  knots: [1, 5, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999],
  ratios: [
    ...[1.26e-3, 5.4e-4, 2.15e-4, 1.3e-4, 1.28e-4, 1.67e-4, 2.13e-4],
    ...[3.43e-4, 6.2e-4, 1.18e-3, 2.17e-3, 2.3e-3, 1.5e-3, 1e-3],
  ],
};

/** The golden batch and model. */
async function open({ model, lora, inputs }: ObjectiveCase) {
  const config = unetConfig(await readJson(goldenPath(`${model}/config.json`)));
  const base = await loadWeights(goldenPath(model));
  const file = await openGolden(inputs);
  const timesteps = await file.values("timestep") as Float32Array;
  const count = timesteps.length;
  const both = async (name: string) =>
    concat(
      [await file.tensor(`${name}_w`), await file.tensor(`${name}_l`)].map((x) => x.unsqueeze(0)),
      0,
    );
  const batch = {
    latents: await both("x"),
    context: await file.tensor("context"),
    timestep: tensor(timesteps, [count]),
    coefficients: tensor(gatherCoefficients(schedule, timesteps), [COEFFICIENTS, count]),
    epsilon: await file.tensor("eps"),
    z: await both("z"),
    weight: tensor(
      Float32Array.from(timesteps, (t) => timestepWeight(weighting, t)),
      [count],
    ),
  };
  return { config, base, lora: await loadLora(goldenPath(lora), base), file, batch };
}

const recomputed = cases.filter(({ name }) => name === "ncp-dpo-down");

for (
  const { golden, recompute } of [
    ...cases.map((golden) => ({ golden, recompute: false })),
    ...recomputed.map((golden) => ({ golden, recompute: true })),
  ]
) {
  eachDevice(
    `preferenceLoss: ${golden.name} agrees with PyTorch in value and gradients` +
      (recompute ? ", blocks computed again" : ""),
    async () => {
      const { config, base, lora, batch: { weight, ...batch } } = await open(golden);
      const method = methods[golden.method];
      const value = preferenceLoss(
        { base, config, lora },
        method.weighted ? { ...batch, weight } : batch,
        {
          ...method,
          beta: golden.beta ?? 1,
          lambda: golden.lambda ?? 0,
          features: choices[golden.features ?? "down"]!,
          recompute,
        },
      );
      const halves = [...lora.layers].flatMap(([module, { down, up }]) => [
        { name: `grad.unet.${module}.lora_A.weight`, tensor: down },
        { name: `grad.unet.${module}.lora_B.weight`, tensor: up },
      ]);
      const gradients = grad(value.loss, halves.map((half) => half.tensor));
      const parts = {
        loss: value.loss.reshape([1]),
        logits: value.logits,
        error_theta_w: value.theta.winner,
        error_theta_l: value.theta.loser,
        error_ref_w: value.reference?.winner,
        error_ref_l: value.reference?.loser,
      };
      const found = Object.entries(parts).flatMap(([name, t]) => t ? [{ name, tensor: t }] : []);
      await realize(...found.map((part) => part.tensor), ...gradients);

      const file = await openGolden(golden.golden);
      for (const { name, tensor } of found) {
        const error = relativeError(await tensor.data(), await file.values(name));
        // DPO's logits are small differences of errors that agree to 1e-5.
        assert(error <= (name === "logits" ? 1e-2 : 1e-3), `${name}: relative error ${error}`);
      }
      const all: number[] = [];
      const expected: number[] = [];
      for (const [i, { name }] of halves.entries()) {
        all.push(...await gradients[i]!.data());
        expected.push(...await file.values(name));
      }
      const error = relativeError(all, expected);
      assert(error <= 1e-3, `gradients: relative error ${error}`);
      [...found.map((part) => part.tensor), ...gradients].forEach((t) => t.dispose());
      base.dispose();
    },
  );
}

eachDevice("reverseStep: noising and the step back agree with PyTorch", async () => {
  const { base, file, batch } = await open(cases[0]!);
  const c = coefficientsOf(batch.coefficients);
  const sample = noisy(batch.latents, batch.epsilon, c);
  const previous = reverseStep(sample, batch.epsilon, batch.z, c);
  for (const [i, side] of ["w", "l"].entries()) {
    using x = sample.slice(0, i, i + 1);
    using y = previous.slice(0, i, i + 1);
    await assertClose(x, await file.values(`noisy_${side}`), "x_t");
    await assertClose(y, await file.values(`previous_${side}`), "x_{t-1}");
  }
  base.dispose();
});

eachDevice("reverseStep: to any t' the true noise leads to the forward noising at t'", async () => {
  const { base, batch } = await open(cases[0]!);
  const timesteps = await batch.timestep.data();
  const next = Array.from(timesteps, (_, i) => [0, 999, 500][i % 3]!);
  const count = timesteps.length;
  const c = coefficientsOf(
    tensor(gatherCoefficients(schedule, timesteps, next), [COEFFICIENTS, count]),
  );
  const sample = noisy(batch.latents, batch.epsilon, c);
  const there = reverseStep(sample, batch.epsilon, batch.z, c);
  const clean = await batch.latents.data(), epsilon = await batch.epsilon.data();
  const values = await there.data();
  const perImage = epsilon.length / count;
  for (let i = 0; i < values.length; i++) {
    const abar = schedule.alphaCumprod(next[Math.floor(i % epsilon.length / perImage)]!);
    const expected = Math.sqrt(abar) * clean[i]! +
      Math.sqrt(1 - abar) * epsilon[i % epsilon.length]!;
    // Undoing the noise of t near 1000 enlarges rounding errors by 1 / sqrt(abar_t).
    assertAlmostEquals(values[i]!, expected, 1e-4);
  }
  there.dispose();
  base.dispose();
});

eachDevice("negativeLogSigmoid: value and gradient over the whole range", async () => {
  const points = [-200, -30, -1, 0, 1, 30, 200];
  const x = tensor(points, [points.length]);
  const y = negativeLogSigmoid(x);
  const dx = grad(y.sum(), [x])[0]!;
  await realize(y, dx);
  const values = await y.data();
  const slopes = await dx.data();
  points.forEach((p, i) => {
    assertAlmostEquals(values[i]!, Math.max(-p, 0) + Math.log1p(Math.exp(-Math.abs(p))), 1e-5);
    assertAlmostEquals(slopes[i]!, -1 / (1 + Math.exp(p)), 1e-6);
  });
  [x, y, dx].forEach((t) => t.dispose());
});

Deno.test("timestepWeight: linear in log between knots, constant outside", () => {
  const weight = { knots: [10, 20], ratios: [1, 100] };
  for (const [t, ratio] of [[1, 1], [10, 1], [15, 10], [20, 100], [999, 100]] as const) {
    assertAlmostEquals(timestepWeight(weight, t), ratio, 1e-9);
  }
});

Deno.test("gatherCoefficients: there is no reverse step from timestep 0", () => {
  assertThrows(
    () => gatherCoefficients(schedule, [5, 0]),
    RangeError,
    "timesteps from 1 to 999, found 0",
  );
});
