/**
 * A LoRA in training: its tensors packed into one vector per kind of optimiser state, so that a step of
 * the optimiser is a few kernels, and viewed as layers by the networks.
 *
 * @module
 */
import { adamw, adamwRate, type AdamWState, initAdamW } from "../nn/adamw.ts";
import {
  adamw8bit,
  type AdamW8bitState,
  BLOCK,
  initAdamW8bit,
  MIN_8BIT_SIZE,
} from "../nn/adamw8bit.ts";
import { initLora, loraOf, loraParameters, loraShapes, type LoraTargets } from "../nn/lora.ts";
import { layOut, pack, packArrays, type Packing, unpack } from "../nn/packing.ts";
import type { LoraAdapter, Weights } from "../nn/weights.ts";
import { type Tensor, tensor } from "../tensor/mod.ts";

/** The optimisers: 32-bit state, or 8-bit state for tensors large enough to gain by it. */
export type OptimizerName = "adamw" | "adamw8bit";

/** One packed vector of parameters and its optimiser's state. */
export type GroupState = {
  readonly parameters: Tensor;
  readonly optimizer: AdamWState | AdamW8bitState;
};

/** A LoRA's tensors, packed. */
export class PackedLora {
  readonly #groups: readonly { readonly packing: Packing; readonly optimizer: OptimizerName }[];
  readonly #initial: ReadonlyMap<string, Float32Array>;

  constructor(
    base: Weights,
    options: {
      readonly rank: number;
      readonly targets: LoraTargets;
      readonly optimizer: OptimizerName;
      readonly seed: number;
    },
  ) {
    const shapes = loraShapes(base, options.rank, options.targets);
    const parameters = loraParameters(shapes);
    const large = ([, shape]: (typeof parameters)[number]) =>
      options.optimizer === "adamw8bit" && shape.reduce((a, b) => a * b, 1) >= MIN_8BIT_SIZE;
    this.#groups = [
      {
        packing: layOut(parameters.filter((p) => !large(p))),
        optimizer: "adamw" as const,
      },
      // Blocks must not straddle tensors.
      { packing: layOut(parameters.filter(large), BLOCK), optimizer: "adamw8bit" as const },
    ].filter(({ packing }) => packing.size > 0);
    this.#initial = initLora(shapes, options.seed);
  }

  /** The state before the first step. */
  start(): GroupState[] {
    return this.#groups.map(({ packing, optimizer }) => ({
      parameters: tensor(packArrays(packing, this.#initial), [packing.size]),
      optimizer: optimizer === "adamw" ? initAdamW(packing.size) : initAdamW8bit(packing.size),
    }));
  }

  /** The adapter as views of the vectors. */
  lora(parameters: readonly Tensor[]): LoraAdapter {
    return loraOf(new Map(this.#groups.flatMap((g, i) => [...unpack(g.packing, parameters[i]!)])));
  }

  /** A vector per group from `differentiate`'s gradients of an adapter's tensors. */
  gradients(
    lora: LoraAdapter,
    differentiate: (parameters: readonly Tensor[]) => Tensor[],
  ): Tensor[] {
    const tensors = new Map([...lora.layers].flatMap(([path, { down, up }]): [string, Tensor][] => [
      [`${path}.down`, down],
      [`${path}.up`, up],
    ]));
    const gradients = differentiate([...tensors.values()]);
    const byName = new Map([...tensors.keys()].map((name, i) => [name, gradients[i]]));
    return this.#groups.map(({ packing }) =>
      pack(packing, packing.entries.map(({ name }) => byName.get(name)!))
    );
  }

  /** One step of the optimiser. */
  update(
    groups: readonly GroupState[],
    gradients: readonly Tensor[],
    rate: Tensor,
  ): GroupState[] {
    return groups.map(({ parameters, optimizer }, i) => {
      const { parameters: next, state } = "meanScale" in optimizer
        ? adamw8bit(parameters, gradients[i]!, optimizer, rate)
        : adamw(parameters, gradients[i]!, optimizer, rate);
      return { parameters: next, optimizer: state };
    });
  }

  /** What `update` needs to know of a step. */
  rate(step: number, learningRate: number): Tensor {
    return adamwRate(step, learningRate);
  }

  /** The adapter with its values read from the device, for saving. */
  async read(groups: readonly GroupState[]): Promise<LoraAdapter> {
    const vectors = await Promise.all(groups.map((g) => g.parameters.data()));
    return loraOf(
      new Map(
        this.#groups.flatMap(({ packing }, i) =>
          packing.entries.map(({ name, shape, offset, size }) => [
            name,
            tensor(vectors[i]!.slice(offset, offset + size) as Float32Array, shape),
          ])
        ),
      ),
    );
  }
}
