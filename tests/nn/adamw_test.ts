import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { adamw, adamwDefaults, adamwRate, initAdamW } from "../../lib/nn/adamw.ts";
import { clipGradNorm } from "../../lib/nn/clip_grad_norm.ts";
import { layOut, pack, packArrays, unpack } from "../../lib/nn/packing.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { linearWarmup } from "../../lib/nn/warmup.ts";
import { jit, realize, type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { goldenCases, goldenPath, relativeError } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

eachDevice("adamw: five compiled steps over packed parameters agree with PyTorch", async () => {
  const [golden] = goldenCases("adamw") as unknown as [{
    golden: string;
    params: string[];
    lr: number;
    steps: number;
  }];
  const file = await openSafetensors(goldenPath(golden.golden));
  const packing = layOut(
    golden.params.map((name) => [name, file.entries.get(`param.${name}.0`)!.shape] as const),
  );
  const vector = async (kind: string, step: number) =>
    packArrays(
      packing,
      new Map(
        await Promise.all(golden.params.map(async (name) =>
          [name, await file.read(`${kind}.${name}.${step}`) as Float32Array] as const
        )),
      ),
    );
  const on = (data: Float32Array) => tensor(data, [data.length]);
  const step = jit((
    s: { parameters: Tensor; state: { mean: Tensor; square: Tensor } },
    args: { gradients: Tensor; rate: Tensor },
  ) => ({ state: adamw(s.parameters, args.gradients, s.state, args.rate), result: [] }));
  const state = {
    parameters: on(await vector("param", 0)),
    state: initAdamW(packing.size),
  };
  for (let n = 1; n <= golden.steps; n++) {
    await step(state, { gradients: on(await vector("grad", n)), rate: adamwRate(n, golden.lr) });
    for (
      const [kind, found] of [
        ["param", state.parameters],
        ["m", state.state.mean],
        ["v", state.state.square],
      ] as const
    ) {
      const error = relativeError(await found.data(), await vector(kind, n));
      assert(error < 1e-6, `${kind} after step ${n}: relative error ${error}`);
    }
  }
  step.dispose();
  [state.parameters, state.state.mean, state.state.square].forEach((t) => t.dispose());
});

eachDevice("clipGradNorm: agrees with PyTorch above and below the limit", async () => {
  const [golden] = goldenCases("clip-grad-norm") as unknown as [{
    golden: string;
    max_norm: number;
    names: string[];
  }];
  const file = await openSafetensors(goldenPath(golden.golden));
  for (const name of golden.names) {
    const read = async (key: string) => await file.read(key) as Float32Array;
    const given = await Promise.all(["a", "b"].map(async (k) => {
      const key = `grad.${name}.${k}`;
      return tensor(await read(key), file.entries.get(key)!.shape);
    }));
    const { gradients, norm } = clipGradNorm(given, golden.max_norm);
    await realize(norm, ...gradients);
    assertAlmostEquals(await norm.item(), (await read(`norm.${name}`))[0]!, 1e-5);
    for (const [i, k] of ["a", "b"].entries()) {
      const error = relativeError(await gradients[i]!.data(), await read(`clipped.${name}.${k}`));
      assert(error < 1e-6, `${name} ${k}: relative error ${error}`);
    }
    [norm, ...gradients].forEach((t) => t.dispose());
  }
});

eachDevice("packing: tensors come back as views, gaps are zeros", async () => {
  const packing = layOut([["a", [3]], ["b", [2, 2]]], 4);
  assertEquals(packing.size, 8);
  const a = tensor([1, 2, 3], [3]);
  const b = tensor([4, 5, 6, 7], [2, 2]);
  using vector = pack(packing, [a, b]);
  assertEquals([...await vector.data()], [1, 2, 3, 0, 4, 5, 6, 7]);
  using back = unpack(packing, vector).get("b")!;
  assertEquals([...back.shape], [2, 2]);
  assertEquals([...await back.data()], [4, 5, 6, 7]);
});

Deno.test("linearWarmup: rises to the full rate and stays there", () => {
  assertEquals([1, 2, 4, 5, 9].map((n) => linearWarmup(n, 8, 4)), [2, 4, 8, 8, 8]);
  assertEquals(linearWarmup(1, 8, 0), 8);
  assertEquals(adamwDefaults, { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01 });
});
