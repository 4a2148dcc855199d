/**
 * Fits a network: all parameters, AdamW with a cosine schedule, a running average of the weights, and
 * a checkpoint now and then from which a killed run goes on.
 *
 * @module
 */
import { adamw, adamwDefaults, adamwRate, type AdamWState, initAdamW } from "../../nn/adamw.ts";
import { clipGradNorm } from "../../nn/clip_grad_norm.ts";
import { layOut, pack, packArrays, unpack } from "../../nn/packing.ts";
import { Weights } from "../../nn/weights.ts";
import { loadCheckpoint, saveCheckpoint } from "../../nn/checkpoint.ts";
import { grad, jit, leavesOf, type Tensor, tensor, type Tree } from "../../tensor/mod.ts";

/** Tensors that a step is given. */
export type Batch = { readonly [name: string]: Tensor };

/** What to fit and how. */
export interface Fit<B extends Batch = Batch> {
  /** For messages and the file names. */
  readonly name: string;
  /** Where the checkpoint and the losses go; made if missing. */
  readonly directory: string;
  /** The starting values. */
  readonly initial: ReadonlyMap<string, Tensor>;
  readonly steps: number;
  /** The highest learning rate, reached after `warmup` steps and left by half a cosine. */
  readonly learningRate: number;
  readonly warmup: number;
  /** What is left of the learning rate at the end, as a share. */
  readonly floor: number;
  /** Default 0.01. */
  readonly weightDecay?: number;
  /** Decay of the running average of the weights. */
  readonly average: number;
  /** Determines the data; part of what a checkpoint must agree with. */
  readonly seed: number;
  /** The data of step 1, 2, ... */
  batch(step: number): B | Promise<B>;
  /** The loss (a scalar) and numbers to record. */
  loss(weights: Weights, batch: B): { loss: Tensor; [metric: string]: Tensor };
  /** Steps after which `onKeep` gets the averaged weights. */
  readonly keep?: readonly number[];
  onKeep?(step: number, weights: Map<string, Tensor>): Promise<void>;
  onProgress?(step: number, steps: number, note: string): void | Promise<void>;
}

/** Steps between readings of the loss. */
const LOG_EVERY = 20;
/** Steps between checkpoints. */
const CHECKPOINT_EVERY = 100;

type State = {
  readonly parameters: Tensor;
  readonly optimizer: AdamWState;
  readonly average: Tensor;
};

/** Half a cosine from the full rate to `floor` of it, after a linear warm-up. */
function rateAt(step: number, { steps, warmup, learningRate, floor }: Fit): number {
  if (step <= warmup) return learningRate * step / warmup;
  const done = (step - warmup) / Math.max(1, steps - warmup);
  return learningRate * (floor + (1 - floor) * (1 + Math.cos(Math.PI * done)) / 2);
}

/**
 * Fits a network, or goes on where a killed run stopped.
 *
 * @returns The averaged weights, on the host.
 */
export async function fit<B extends Batch>(task: Fit<B>): Promise<Map<string, Tensor>> {
  const { name, directory, initial, steps, seed } = task;
  await Deno.mkdir(directory, { recursive: true });
  const path = `${directory}/${name}.checkpoint.safetensors`;
  const packing = layOut([...initial].map(([key, t]) => [key, t.shape] as const));
  const arrays = new Map<string, Float32Array>();
  for (const [key, t] of initial) arrays.set(key, await t.data() as Float32Array);
  const start = packArrays(packing, arrays);
  const fresh: State = {
    parameters: tensor(start, [packing.size]),
    optimizer: initAdamW(packing.size),
    average: tensor(start.slice(), [packing.size]),
  };
  const identity = { name, steps, seed, learningRate: task.learningRate, average: task.average };
  const found = await loadCheckpoint(path, fresh, identity);
  const state = found?.state ?? fresh;
  const options = { ...adamwDefaults, weightDecay: task.weightDecay ?? 0.01 };

  const step = jit((s: State, args: { batch: Tree; rate: Tensor; decay: Tensor }) => {
    const tensors = unpack(packing, s.parameters);
    const { loss, ...metrics } = task.loss(new Weights(tensors), args.batch as B);
    const gradients = pack(packing, grad(loss, [...tensors.values()]));
    const clipped = clipGradNorm([gradients], 1);
    const next = adamw(s.parameters, clipped.gradients[0]!, s.optimizer, args.rate, options);
    const average = s.average.mul(args.decay).add(next.parameters.mul(args.decay.neg().add(1)));
    const result: Record<string, Tensor> = { loss, norm: clipped.norm, ...metrics };
    return {
      state: { parameters: next.parameters, optimizer: next.state, average },
      result,
    };
  });
  const averaged = async () => {
    const vector = await state.average.data() as Float32Array;
    return new Map(packing.entries.map(({ name, shape, offset, size }) => [
      name,
      tensor(vector.slice(offset, offset + size), shape),
    ]));
  };
  try {
    const began = performance.now();
    for (let i = (found?.step ?? 0) + 1; i <= steps; i++) {
      const batch = await task.batch(i);
      // The average must not remember the start: its decay grows with the steps.
      const decay = Math.min(task.average, i / (i + 10));
      const result = await step(state, {
        batch,
        rate: adamwRate(i, rateAt(i, task), options),
        decay: tensor([decay], [1]),
      });
      for (const t of leavesOf(batch)) t.dispose();
      if (i % LOG_EVERY === 0 || i === steps) {
        const numbers: Record<string, number> = { step: i };
        for (const [key, t] of Object.entries(result)) numbers[key] = await t.item();
        numbers["seconds"] = (performance.now() - began) / 1000;
        if (!Number.isFinite(numbers["loss"])) {
          throw new Error(`${name}: the loss is ${numbers["loss"]} at step ${i}`);
        }
        await Deno.writeTextFile(
          `${directory}/${name}.losses.jsonl`,
          JSON.stringify(numbers) + "\n",
          { append: true },
        );
        await task.onProgress?.(i, steps, `loss ${numbers["loss"]!.toFixed(4)}`);
      }
      for (const t of Object.values(result)) t.dispose();
      if (task.keep?.includes(i)) await task.onKeep?.(i, await averaged());
      if (i % CHECKPOINT_EVERY === 0 || i === steps) await saveCheckpoint(path, i, state, identity);
    }
    const weights = await averaged();
    return weights;
  } finally {
    step.dispose();
    for (const leaf of leavesOf(state)) leaf.dispose();
  }
}

/** Removes the checkpoint of a fit whose result is stored. */
export async function forget(directory: string, name: string): Promise<void> {
  await Deno.remove(`${directory}/${name}.checkpoint.safetensors`).catch(() => {});
}
