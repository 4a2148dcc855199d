/**
 * The record of a training: one JSON line per step. Numbers are gathered in a ring on the device and read
 * back every so many steps, since each reading waits for the device.
 *
 * @module
 */
import { concat, type Tensor, tensor } from "../tensor/mod.ts";
import { writeAtomically } from "../nn/safetensors.ts";
import type { PreferenceLoss } from "./loss.ts";
import type { Objective } from "./objectives.ts";

/** One step's numbers. Those that a method does not have are absent. */
export interface StepMetrics {
  /** Counted from 1. */
  readonly step: number;
  /** As the objective defines it, without the method's loss scale. */
  readonly loss: number;
  /** Means of the errors; weighted for a weighted method. */
  readonly winnerError: number;
  readonly loserError?: number;
  readonly referenceWinnerError?: number;
  readonly referenceLoserError?: number;
  /** Mean and standard deviation of what is inside the sigmoid: it saturates beyond 4 or so. */
  readonly logitMean?: number;
  readonly logitStd?: number;
  /** Share of pairs whose logit says that the winner is preferred; ties count as half. */
  readonly accuracy?: number;
  /** Norm of the gradient before clipping, of the scaled loss. */
  readonly gradientNorm: number;
  readonly learningRate: number;
  /** Training time since the run began, interruptions left out. */
  readonly seconds: number;
}

/** Columns of the ring, in order; the gradient's norm is kept apart. */
const COLUMNS = [
  "loss",
  "winnerError",
  "loserError",
  "referenceWinnerError",
  "referenceLoserError",
  "logitMean",
  "logitSquare",
  "accuracy",
] as const;

/** The number of columns. */
export const METRIC_COLUMNS = COLUMNS.length;

/** A batch's numbers as a row [1, columns]; absent ones are 0. */
export function metricsRow({ loss, logits, theta, reference }: PreferenceLoss): Tensor {
  const absent = tensor([0], [1]);
  const preferred = logits && logits.gt(0).add(logits.eq(0).mul(0.5));
  const values: Record<(typeof COLUMNS)[number], Tensor | undefined> = {
    loss,
    winnerError: theta.winner,
    loserError: theta.loser,
    referenceWinnerError: reference?.winner,
    referenceLoserError: reference?.loser,
    logitMean: logits,
    logitSquare: logits?.square(),
    accuracy: preferred,
  };
  return concat(COLUMNS.map((name) => values[name]?.mean().reshape([1]) ?? absent), 0)
    .reshape([1, METRIC_COLUMNS]);
}

/** One step's numbers from its row of the ring. */
export function readMetrics(
  row: ArrayLike<number>,
  objective: Objective,
  { step, ...rest }: Pick<StepMetrics, "step" | "gradientNorm" | "learningRate" | "seconds">,
): StepMetrics {
  const value = Object.fromEntries(COLUMNS.map((name, i) => [name, row[i]])) as Record<
    (typeof COLUMNS)[number],
    number
  >;
  const { loss, winnerError, loserError, logitMean, logitSquare, accuracy } = value;
  const { referenceWinnerError, referenceLoserError } = value;
  return {
    step,
    loss,
    winnerError,
    ...objective !== "sft" && {
      loserError,
      logitMean,
      logitStd: Math.sqrt(Math.max(0, logitSquare - logitMean ** 2)),
      accuracy,
    },
    ...objective === "dpo" && { referenceWinnerError, referenceLoserError },
    ...rest,
  };
}

/** Appends lines and waits until they are on the disk. */
export async function appendMetrics(path: string, lines: readonly StepMetrics[]): Promise<void> {
  using file = await Deno.open(path, { append: true, create: true });
  const text = lines.map((line) => JSON.stringify(line) + "\n").join("");
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
  await file.syncData();
}

/**
 * Reads a run's metrics. A last line that was cut off is left out.
 *
 * @param path The JSON lines file; one that does not exist has no lines.
 */
export async function loadMetrics(path: string): Promise<StepMetrics[]> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** Drops the lines after a step, which a resumed run will write again. */
export async function truncateMetrics(path: string, step: number): Promise<StepMetrics[]> {
  const kept = (await loadMetrics(path)).filter((line) => line.step <= step);
  const bytes = new TextEncoder().encode(kept.map((line) => JSON.stringify(line) + "\n").join(""));
  await writeAtomically(path, bytes.length, (write) => write(bytes));
  return kept;
}
