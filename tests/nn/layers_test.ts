import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { activation, gelu, quickGelu, silu } from "../../lib/nn/activation.ts";
import { multiHeadAttention } from "../../lib/nn/attention.ts";
import { conv } from "../../lib/nn/conv.ts";
import { embedding, timestepEmbedding } from "../../lib/nn/embedding.ts";
import {
  convParameters,
  initialise,
  linearParameters,
  normal,
  normParameters,
} from "../../lib/nn/init.ts";
import { linear } from "../../lib/nn/linear.ts";
import { groupNorm, layerNorm } from "../../lib/nn/norm.ts";
import { type LoraAdapter, Weights } from "../../lib/nn/weights.ts";
import { randomNormal } from "../../lib/tensor/random.ts";
import { type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";

let step = 0;
const random = (...shape: number[]) =>
  tensor(randomNormal({ seed: 1, stream: 1, step: step++ }, shape), shape);

async function assertNear(found: Tensor, expected: ArrayLike<number>, tolerance = 1e-5) {
  const values = await found.data();
  assertEquals(values.length, expected.length);
  for (let i = 0; i < values.length; i++) assertAlmostEquals(values[i]!, expected[i]!, tolerance);
  found.dispose();
}

eachDevice("linear: agrees with sums written out, whole and in part", async () => {
  const w = new Weights(initialise(linearParameters("l", 5, 4), 1)).at("l");
  const x = random(2, 3, 5);
  const [xs, ws, bs] = await Promise.all([x.data(), w.get("weight").data(), w.get("bias").data()]);
  const expected = Array.from({ length: 24 }, (_, i) => {
    const [row, o] = [Math.floor(i / 4), i % 4];
    return Array.from({ length: 5 }, (_, k) => xs[row * 5 + k]! * ws[o * 5 + k]!)
      .reduce((a, b) => a + b, bs[o]!);
  });
  const y = linear(w, x);
  assertEquals(y.shape, [2, 3, 4]);
  await assertNear(y, expected);
  await assertNear(linear(w, x, [1, 3]), expected.filter((_, i) => i % 4 === 1 || i % 4 === 2));
});

eachDevice("linear and conv: the overlay equals weights with the update added", async () => {
  const parameters = [...linearParameters("l", 5, 4), ...convParameters("c", 3, 4, 3)];
  const weights = initialise(parameters, 2);
  const lora: LoraAdapter = {
    scale: 0.5,
    layers: new Map([
      ["l", { down: random(2, 5), up: random(4, 2) }],
      ["c", { down: random(3, 3, 3, 2), up: random(1, 1, 2, 4) }],
    ]),
  };
  const [l, c] = [lora.layers.get("l")!, lora.layers.get("c")!];
  const merged = new Weights(
    new Map([
      ...weights,
      ["l.weight", weights.get("l.weight")!.add(l.up.matmul(l.down).mul(0.5))],
      [
        "c.weight",
        weights.get("c.weight")!.add(
          c.down.reshape([27, 2]).matmul(c.up.reshape([2, 4])).mul(0.5).reshape([3, 3, 3, 4]),
        ),
      ],
    ]),
  );
  const tuned = new Weights(weights, { lora });
  const x = random(3, 5);
  await assertNear(linear(tuned.at("l"), x), await linear(merged.at("l"), x).data());
  await assertNear(
    linear(tuned.at("l"), x, [2, 4]),
    await linear(merged.at("l"), x, [2, 4]).data(),
  );
  const image = random(1, 5, 4, 3);
  const options = { padding: 1, stride: 2 };
  await assertNear(
    conv(tuned.at("c"), image, options),
    await conv(merged.at("c"), image, options).data(),
  );
});

eachDevice("conv: a 1x1 kernel is a matrix product", async () => {
  const w = new Weights(initialise(convParameters("c", 3, 2, 1), 3)).at("c");
  const x = random(2, 2, 3, 3);
  const rows = x.reshape([12, 3]).matmul(w.get("weight").reshape([3, 2])).add(w.get("bias"));
  const y = conv(w, x);
  assertEquals(y.shape, [2, 2, 3, 2]);
  await assertNear(y, await rows.data());
});

eachDevice("norms: mean 0 and variance 1 before the affine part, far from 0 too", async () => {
  const w = new Weights(initialise([...normParameters("n", 6)], 1)).at("n");
  const x = random(2, 3, 4, 6).mul(0.01).add(10);
  const y = await groupNorm(w, x, { groups: 3, eps: 1e-8 }).data();
  for (let n = 0; n < 2; n++) {
    for (let g = 0; g < 3; g++) {
      const group = Array.from(y).filter((_, i) =>
        Math.floor(i / 72) === n && Math.floor((i % 6) / 2) === g
      );
      const mean = group.reduce((a, b) => a + b, 0) / 24;
      const variance = group.reduce((a, b) => a + (b - mean) ** 2, 0) / 24;
      assertAlmostEquals(mean, 0, 2e-3);
      assertAlmostEquals(variance, 1, 2e-3);
    }
  }
  await assertNear(
    layerNorm(w, tensor([1, 2, 3, 4, 5, 6], [1, 6]), 0),
    [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5].map((d) => d / Math.sqrt(35 / 12)),
  );
});

Deno.test("group norm: groups that do not divide the channels are refused", () => {
  const w = new Weights(initialise(normParameters("n", 6), 1)).at("n");
  assertThrows(
    () => groupNorm(w, random(1, 2, 2, 6), { groups: 4, eps: 1e-5 }),
    RangeError,
    'group norm "n": 6 channels do not divide into 4 groups',
  );
});

eachDevice("activations: known values", async () => {
  const x = tensor([-2, 0, 1], [3]);
  await assertNear(silu(x), [-0.23840584, 0, 0.73105858]);
  await assertNear(gelu(x), [-0.04550026, 0, 0.84134475]);
  await assertNear(quickGelu(x), [-0.06434137, 0, 0.84579577]);
  assertThrows(() => activation("relu6"), Error, 'unknown activation "relu6": known are silu');
});

eachDevice("timestep embedding: sines and cosines, exact at large timesteps", async () => {
  const times = [0, 3.5, 999];
  const plain = timestepEmbedding(tensor(times, [3]), 8, { flipSinToCos: false, freqShift: 1 });
  const angles = (t: number, shift: number) =>
    [0, 1, 2, 3].map((i) => Math.fround(t * Math.exp(-Math.log(10000) * i / (4 - shift))));
  await assertNear(
    plain,
    times.flatMap((t) => [...angles(t, 1).map(Math.sin), ...angles(t, 1).map(Math.cos)]),
    1e-4,
  );
  const flipped = timestepEmbedding(tensor(times, [3]), 8, { flipSinToCos: true, freqShift: 0 });
  await assertNear(
    flipped,
    times.flatMap((t) => [...angles(t, 0).map(Math.cos), ...angles(t, 0).map(Math.sin)]),
    1e-4,
  );
});

eachDevice("embedding: rows of the table", async () => {
  const w = new Weights(new Map([["weight", tensor([1, 2, 3, 4, 5, 6], [3, 2])]]));
  const y = embedding(w, tensor([2, 0, 0, 1], [2, 2], "i32"));
  assertEquals(y.shape, [2, 2, 2]);
  await assertNear(y, [5, 6, 1, 2, 1, 2, 3, 4]);
});

eachDevice("attention: a mask that leaves one key returns its value", async () => {
  const [q, k, v] = [random(1, 3, 4), random(1, 2, 4), random(1, 2, 4)];
  const mask = tensor([0, -1e9, 0, -1e9, -1e9, 0], [3, 2]);
  const [first, second] = [v.slice(1, 0, 1), v.slice(1, 1, 2)];
  const rows = await Promise.all([first, first, second].map((t) => t.data()));
  await assertNear(multiHeadAttention(q, k, v, 2, mask), rows.flatMap((row) => [...row]));
});

Deno.test("initialise: distributions as declared, the same for the same seed and name", async () => {
  const parameters = [
    ...linearParameters("a", 100, 50),
    ...linearParameters("b", 100, 50, { bias: false, weightInit: normal(0.02) }),
    ...normParameters("n", 4),
  ];
  const first = initialise(parameters, 7);
  assertEquals([...first.keys()], ["a.weight", "a.bias", "b.weight", "n.weight", "n.bias"]);
  const values = async (name: string, from = first) => [...await from.get(name)!.data()];
  const uniform = await values("a.weight");
  assert(uniform.every((u) => Math.abs(u) <= 0.1) && uniform.some((u) => u > 0.099));
  assert((await values("a.bias")).every((u) => Math.abs(u) <= 0.1));
  const gauss = await values("b.weight");
  assertAlmostEquals(Math.sqrt(gauss.reduce((a, z) => a + z * z, 0) / gauss.length), 0.02, 1e-3);
  assertEquals([await values("n.weight"), await values("n.bias")], [[1, 1, 1, 1], [0, 0, 0, 0]]);
  const again = initialise(parameters.slice(0, 1), 7);
  assertEquals(await values("a.weight", again), uniform);
  assert((await values("a.weight", initialise(parameters, 8)))[0] !== uniform[0]);
});
