/**
 * What each step sees: pairs, timesteps and noise as pure functions of (seed, step), so that a resumed
 * run sees what an uninterrupted one does.
 *
 * @module
 */
import type { NoiseSchedule } from "../diffusion/noise_schedule.ts";
import { generator, randomIntegers, randomNormal, stream, tensor } from "../tensor/mod.ts";
import { COEFFICIENTS, gatherCoefficients, type NextTimestep } from "./errors.ts";
import type { PreferenceBatch } from "./loss.ts";
import type { Method } from "./method.ts";
import { addedConditions, type PreferencePairs } from "./pairs.ts";
import { type TimestepWeight, timestepWeight } from "./timestep_weight.ts";

/** How batches are drawn. */
export interface BatchOptions {
  readonly pairs: PreferencePairs;
  readonly schedule: NoiseSchedule;
  readonly method: Method;
  /** Pairs per batch. */
  readonly size: number;
  readonly seed: number;
  /** Where the perceptual error's reverse step leads; default `previous`. */
  readonly nextTimestep?: NextTimestep;
  /** r(t), for a weighted method. */
  readonly timestepWeight?: TimestepWeight | undefined;
}

/** Draws batches by number. */
export class Batches {
  readonly #options: BatchOptions;
  #epoch = -1;
  #order: readonly number[] = [];

  constructor(options: BatchOptions) {
    this.#options = options;
  }

  /** Batch `number`, counted from 0. Every epoch visits all pairs once, in an order of its own. */
  async draw(number: number): Promise<PreferenceBatch> {
    const { pairs, schedule, method, size, seed, timestepWeight: weight } = this.#options;
    const key = (name: string) => ({ seed, stream: stream(`trainer.${name}`), step: number });
    const shape = [size, ...pairs.latentShape];
    const timesteps = randomIntegers(key("timestep"), [size], 1, schedule.trainTimesteps);
    const next = method.space === "perceptual" && this.#options.nextTimestep === "uniform"
      ? randomIntegers(key("next-timestep"), [size], 0, schedule.trainTimesteps)
      : undefined;
    const noise = (name: string) => tensor(randomNormal(key(name), shape), shape);
    const visits = Array.from({ length: size }, (_, i) => number * size + i);
    const values = await pairs.read(visits.map((visit) => this.#pair(visit)), visits);
    const groups = method.objective === "sft" ? [values.winner] : [values.winner, values.loser];
    const latents = new Float32Array(groups.length * values.winner.length);
    groups.forEach((group, i) => latents.set(group, i * group.length));
    return {
      latents: tensor(latents, [groups.length, ...shape]),
      context: tensor(values.context, [size, ...pairs.contextShape]),
      timestep: tensor(Float32Array.from(timesteps), [size]),
      ...next && { nextTimestep: tensor(Float32Array.from(next), [size]) },
      coefficients: tensor(gatherCoefficients(schedule, timesteps, next), [COEFFICIENTS, size]),
      epsilon: noise("epsilon"),
      ...method.space === "perceptual" && { z: noise("z") },
      ...weight && {
        weight: tensor(Float32Array.from(timesteps, (t) => timestepWeight(weight, t)), [size]),
      },
      ...values.added && { added: addedConditions(values.added, size) },
    };
  }

  /** The pair at a place in the endless sequence of shuffled epochs. */
  #pair(place: number): number {
    const { pairs, seed } = this.#options;
    const epoch = Math.floor(place / pairs.length);
    if (epoch !== this.#epoch) {
      const key = { seed, stream: stream("trainer.order"), step: epoch };
      this.#order = generator(key).shuffle(Array.from({ length: pairs.length }, (_, i) => i));
      this.#epoch = epoch;
    }
    return this.#order[place % pairs.length]!;
  }
}
