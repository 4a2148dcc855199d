/**
 * DPM-Solver++ (Lu et al. 2022, algorithm 2, multistep of second order): DDIM's step with the
 * predicted original extrapolated from the last two in `lambda = log(signal / noise)`.
 *
 * @module
 */
import type { NoiseLevel, NoiseSchedule } from "./noise_schedule.ts";
import type { SamplingPlan, StepWeights } from "./sampling_plan.ts";
import {
  finalLevel,
  karrasSigmas,
  sigmaLevel,
  sigmaTable,
  timestepAt,
  usesKarras,
} from "./sigmas.ts";
import {
  checkSteps,
  leading,
  linspace,
  roundHalfEven,
  spacedTimesteps,
  timestepSpacings,
} from "./timesteps.ts";

/** A run of diffusers' `DPMSolverMultistepScheduler` with its data-predicting, noiseless solver. */
export function dpmSolverPlan(schedule: NoiseSchedule, steps: number): SamplingPlan {
  const { config, trainTimesteps } = schedule;
  // DEIS' and UniPC's names for their own solvers, which diffusers takes for these.
  config.choice("algorithm_type", ["dpmsolver++", "deis"]);
  config.choice("solver_type", ["midpoint", "logrho", "bh1", "bh2"]);
  config.choice("thresholding", [false]);
  for (const key of ["use_lu_lambdas", "use_flow_sigmas"]) config.choice(key, [false]);
  config.choice("lambda_min_clipped", [-Infinity]);
  const order = config.choice("solver_order", [2, 1]);
  checkSteps(steps, trainTimesteps);

  const table = sigmaTable(schedule);
  const { timesteps, sigmas } = visited(schedule, table, steps);
  const levels = [...sigmas.map(sigmaLevel), finalLevel(schedule, table)];
  // The last step is of first order where it leads to no noise at all, or is one of few.
  const lowerOrderFinal = config.boolean("lower_order_final", true) && steps < 15 ||
    config.boolean("euler_at_final", false) || levels[steps]!.noise === 0;
  return {
    form: { memory: { of: "original", length: 1 } },
    startScale: 1,
    evaluations: timesteps.map((timestep, i) => {
      const first = order === 1 || i === 0 || lowerOrderFinal && i === steps - 1;
      return {
        timestep,
        weights: step(schedule, levels[i]!, levels[i + 1]!, first ? undefined : levels[i - 1]!),
      };
    }),
  };
}

/** The timesteps of a run and their sigmas. */
function visited(schedule: NoiseSchedule, table: Float64Array, steps: number) {
  const { config, trainTimesteps } = schedule;
  if (usesKarras(schedule)) {
    const sigmas = karrasSigmas(steps, table[0]!, table.at(-1)!);
    // A cosine schedule's are cut, by diffusers' conversion to integers.
    const whole = config.json.beta_schedule === "squaredcos_cap_v2" ? Math.floor : roundHalfEven;
    return { timesteps: sigmas.map((sigma) => whole(timestepAt(table, sigma))), sigmas };
  }
  const timesteps = timestepsOf(schedule, steps);
  if (timesteps.some((t, i) => t === timesteps[i + 1])) {
    throw new RangeError(
      `${steps} steps are too many for DPM-Solver++ over ${trainTimesteps} timesteps, which would ` +
        "repeat: take fewer",
    );
  }
  return { timesteps, sigmas: timesteps.map((t) => table[t]!) };
}

/** Unlike the other samplers', these leave out the lowest of `steps + 1`, save for trailing ones. */
function timestepsOf(schedule: NoiseSchedule, steps: number): number[] {
  const total = schedule.trainTimesteps;
  switch (schedule.config.choice("timestep_spacing", timestepSpacings, "linspace")) {
    case "leading": {
      const stride = Math.floor(total / (steps + 1));
      return leading(schedule, steps, stride, stride);
    }
    case "trailing":
      return spacedTimesteps(schedule, steps, "trailing");
    case "linspace":
      return linspace(total - 1, steps + 1).slice(0, -1).map(roundHalfEven);
  }
}

/**
 * A step from one level to another.
 *
 * @param before The level of the remembered prediction; none for a step of first order.
 */
function step(
  schedule: NoiseSchedule,
  from: NoiseLevel,
  to: NoiseLevel,
  before?: NoiseLevel,
): StepWeights {
  const lambda = ({ signal, noise }: NoiseLevel) => Math.log(signal / noise);
  const shrink = to.noise / from.noise;
  const pull = to.signal - from.signal * shrink;
  // 1 / (2 r) of the paper, r being the last step's length over this one's.
  const slope = before ? (lambda(to) - lambda(from)) / (lambda(from) - lambda(before)) / 2 : 0;
  return {
    ...schedule.prediction(from),
    next: [pull * (1 + slope), 0, shrink, 0],
    memory: [-pull * slope],
  };
}
