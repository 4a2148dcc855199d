/**
 * What is measured: the kernels that training spends its time in, and one step of training. Names and
 * shapes are those of `tests/golden/bench_torch.py`, so that rows can be compared.
 *
 * @module
 */
import { silu } from "../nn/activation.ts";
import { groupNorm } from "../nn/norm.ts";
import { Weights } from "../nn/weights.ts";
import type { ConvShape } from "../tensor/kernel.ts";
import {
  attention,
  jit,
  randomNormal,
  realize,
  type Shape,
  stream,
  type Tensor,
  tensor,
} from "../tensor/mod.ts";
import { convolve } from "../tensor/tensor.ts";
import { nanoStep } from "./nano_step.ts";

/** Something to measure on the current device. */
export interface Workload {
  readonly name: string;
  readonly shape: string;
  /** Uploads its data and compiles. */
  readonly prepare: () => Promise<Prepared>;
}

/** A workload on a device. */
export interface Prepared {
  readonly run: () => Promise<void>;
  /** Floating-point operations of one call; a multiply-add counts as two. */
  readonly flops: number;
  /** Kernels of one call. */
  readonly kernels: number;
  readonly dispose: () => void;
}

/** Standard normal numbers, the same for every run. */
function normal(name: string, shape: Shape): Tensor {
  return tensor(randomNormal({ seed: 0, stream: stream(`bench.${name}`), step: 0 }, shape), shape);
}

/** One compiled function of tensors that are already on the device. */
function kernel<I extends Record<string, Shape>>(
  name: string,
  shape: string,
  flops: number,
  shapes: I,
  fn: (inputs: { readonly [K in keyof I]: Tensor }) => Tensor,
): Workload {
  const prepare = async (): Promise<Prepared> => {
    const inputs = Object.fromEntries(
      Object.entries(shapes).map(([key, of]) => [key, normal(key, of)]),
    ) as { [K in keyof I]: Tensor };
    await realize(...Object.values(inputs));
    const step = jit((state: Record<string, Tensor>, args: Record<string, Tensor>) => ({
      state,
      result: fn(args as typeof inputs),
    }));
    const run = async () => (await step({}, inputs)).dispose();
    await run();
    return {
      run,
      flops,
      kernels: step.plan!.kernels,
      dispose: () => {
        step.dispose();
        for (const input of Object.values(inputs)) input.dispose();
      },
    };
  };
  return { name, shape, prepare };
}

function gemm(name: string, m: number, k: number, n: number): Workload {
  return kernel(
    name,
    `${m}x${k}x${n}`,
    2 * m * k * n,
    { a: [m, k], b: [k, n] },
    ({ a, b }) => a.matmul(b),
  );
}

/** A convolution and the two that autodiff makes of it, g being the gradient of its output. */
function convolutions(n: number, size: number, c: number): Workload[] {
  const shape = `${n}x${size}x${size}x${c}->${c}`;
  const flops = 2 * n * size * size * c * c * 9;
  const image = [n, size, size, c];
  const weight = [3, 3, c, c];
  const conv: ConvShape = {
    batch: n,
    height: size,
    width: size,
    inChannels: c,
    outHeight: size,
    outWidth: size,
    outChannels: c,
    kernelHeight: 3,
    kernelWidth: 3,
    stride: 1,
    padTop: 1,
    padLeft: 1,
  };
  return [
    kernel(
      "conv3x3-forward",
      shape,
      flops,
      { x: image, w: weight },
      ({ x, w }) => convolve("forward", conv, x, w),
    ),
    kernel(
      "conv3x3-input-grad",
      shape,
      flops,
      { g: image, w: weight },
      ({ g, w }) => convolve("input", conv, g, w),
    ),
    kernel(
      "conv3x3-weight-grad",
      shape,
      flops,
      { x: image, g: image },
      ({ x, g }) => convolve("weight", conv, x, g),
    ),
  ];
}

/** All workloads, in the order of the table. */
export const workloads: readonly Workload[] = [
  gemm("gemm", 512, 512, 512),
  gemm("gemm", 1024, 1024, 1024),
  gemm("gemm-skinny", 4096, 1024, 64),
  gemm("gemm-skinny", 4096, 64, 1024),
  ...convolutions(16, 16, 96),
  ...convolutions(8, 32, 64),
  // Counted as 12 operations an element: two sums, the affine map, and SiLU.
  kernel(
    "groupnorm-silu",
    "16x32x32x64",
    12 * 16 * 32 * 32 * 64,
    { x: [16, 32, 32, 64], weight: [64], bias: [64] },
    ({ x, weight, bias }) => {
      const w = new Weights(new Map([["weight", weight], ["bias", bias]]));
      return silu(groupNorm(w, x, { groups: 32, eps: 1e-5 }));
    },
  ),
  kernel(
    "attention",
    "4x8x1024x40",
    4 * 4 * 8 * 1024 * 1024 * 40,
    { q: [4, 8, 1024, 40], k: [4, 8, 1024, 40], v: [4, 8, 1024, 40] },
    ({ q, k, v }) => attention(q, k, v),
  ),
  { name: "ncp-dpo-step", shape: "16 pairs 4x16x16, nano U-Net, rank 8", prepare: nanoStep },
];
