/**
 * Compiled steps: replays equal the eager computation, state changes in place, and no memory is lost.
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../lib/tensor/backend.ts";
import {
  concat,
  full,
  generator,
  grad,
  jit,
  leavesOf,
  mapTree,
  realize,
  setDebug,
  type Tensor,
  tensor,
  type Tree,
  zeros,
} from "../../lib/tensor/mod.ts";
import { evaluate } from "../../lib/tensor/reference.ts";
import { expectClose, makeInput } from "./cases.ts";
import { eachDevice } from "./devices.ts";
import { randomGraph } from "./random_graph.ts";

const random = (seed: number, ...shape: number[]) =>
  makeInput({ shape, dtype: "f32", low: -1, high: 1 }, 20_000 + seed).tensor;

const list = async (t: Tensor) => [...await t.data()];

/** Disposes of every tensor of a tree. */
function drop(...trees: Tree[]): void {
  for (const t of trees.flatMap(leavesOf)) t.dispose();
}

type Step<S extends Tree, A extends Tree, R extends Tree> = (
  state: S,
  args: A,
) => { state: S; result: R };

/**
 * Runs a step compiled and as plain graphs in double precision, and compares results and state after
 * each of three calls. Nothing may be left on the device.
 */
async function expectReplay<S extends Tree, A extends Tree, R extends Tree>(
  backend: Backend,
  fn: Step<S, A, R>,
  state: () => S,
  args: (call: number) => A,
  tolerance = 1e-5,
): Promise<void> {
  const before = backend.liveBytes;
  const step = jit(fn);
  const compiled = state();
  await realize(...leavesOf(compiled));
  let plain = state();
  for (let call = 0; call < 3; call++) {
    const given = args(call);
    const result = await step(compiled, given);
    const out = fn(plain, args(call));
    for (
      const [name, found, expected] of [
        ["result", result as Tree, out.result as Tree],
        ["state", compiled as Tree, out.state as Tree],
      ] as const
    ) {
      const values = leavesOf(expected).map((t) => evaluate(t));
      for (const [i, t] of leavesOf(found).entries()) {
        expectClose(`call ${call}, ${name} ${i}`, await t.data(), values[i]!, tolerance);
      }
    }
    // The next call starts from numbers, so that graphs don't grow.
    const values = leavesOf(out.state).map((t) => Float32Array.from(evaluate(t)));
    plain = mapTree(plain, (t, i) => tensor(values[i]!, t.shape));
    drop(result, given);
  }
  step.dispose();
  drop(compiled);
  assertEquals(backend.liveBytes, before, "bytes are left on the device");
}

eachDevice("a training step replays as it would run eagerly", async (backend) => {
  await expectReplay(
    backend,
    (state: { w: Tensor; m: Tensor }, { x, y }: { x: Tensor; y: Tensor }) => {
      const loss = x.matmul(state.w).tanh().sub(y).square().mean();
      const [g] = grad(loss, [state.w]);
      const m = state.m.mul(0.9).add(g!);
      return {
        state: { w: state.w.sub(m.mul(0.1)), m },
        result: { loss, norm: g!.square().sum() },
      };
    },
    () => ({ w: random(1, 6, 3), m: zeros([6, 3]) }),
    (call) => ({ x: random(10 + call, 5, 6), y: random(20 + call, 5, 3) }),
  );
});

eachDevice("steps without state replay random graphs", async (backend) => {
  for (let seed = 900; seed < (backend.name === "cpu" ? 930 : 903); seed++) {
    const before = backend.liveBytes;
    const { inputs, outputs } = randomGraph(seed, 25);
    const expected = outputs.map((y) => evaluate(y));
    // Everything is closed over: one schedule, two runs.
    const step = jit((_: Tree, __: Tree) => ({ state: {}, result: outputs }));
    for (let call = 0; call < 2; call++) {
      const results = await step({}, {});
      for (const [i, y] of leavesOf(results).entries()) {
        expectClose(`graph ${seed}, output ${i}`, await y.data(), expected[i]!, 1e-4);
      }
      drop(results);
    }
    step.dispose();
    drop(inputs);
    assertEquals(backend.liveBytes, before);
  }
});

eachDevice("state is updated in place where every element only needs itself", async () => {
  const step = jit((s: { a: Tensor; b: Tensor }, { x }: { x: Tensor }) => ({
    state: { a: s.a.add(x), b: s.b.mul(s.a) },
    result: {},
  }));
  const state = { a: tensor([1, 2, 3], [3]), b: tensor([1, 1, 1], [3]) };
  await realize(state.a, state.b);
  const buffers = [state.a.storage!.buffer, state.b.storage!.buffer];
  for (let call = 0; call < 3; call++) await step(state, { x: tensor([1, 0, 0], [3]) });
  assertEquals(await list(state.a), [4, 2, 3]);
  assertEquals(await list(state.b), [6, 8, 27]);
  assertEquals([state.a.storage!.buffer, state.b.storage!.buffer], buffers);
  // Only the state that others read after its change goes through a copy.
  assert(step.plan!.kernels <= 3, `${step.plan!.kernels} kernels`);
  step.dispose();
  drop(state);

  const alone = jit((s: Tensor, _: Tree) => ({ state: s.mul(2).add(1), result: {} }));
  const one = tensor([1, 2], [2]);
  await alone(one, {});
  assertEquals([alone.plan!.kernels, alone.plan!.arenaBytes <= 256], [1, true]);
  assertEquals(await list(one), [3, 5]);
  alone.dispose();
  drop(one);
});

eachDevice("state that moves is updated through a copy", async (backend) => {
  const steps: Record<string, Step<Tensor[], Tensor, Tensor[]>> = {
    swapped: ([a, b]) => ({ state: [b!, a!], result: [] }),
    rotated: ([a, b], x) => ({
      state: [concat([a!.slice(0, 1, 4), x], 0), b!.add(a!.sum())],
      result: [a!.mul(2)],
    }),
    turned: ([a, b]) => ({
      state: [a!.reshape([2, 2]).transpose(0, 1).reshape([4]), b!],
      result: [],
    }),
    mixed: ([a, b]) => ({ state: [a!.add(b!), a!.sub(b!)], result: [a!.add(b!), b!] }),
    "summed up": ([a, b]) => ({
      state: [a!.div(a!.sum().abs().add(1)), b!.sub(b!.mean())],
      result: [],
    }),
  };
  for (const [name, fn] of Object.entries(steps)) {
    try {
      await expectReplay(
        backend,
        fn,
        () => [random(31, 4), random(32, 4)],
        (call) => random(40 + call, 1),
      );
    } catch (error) {
      throw new Error(`${name}: ${(error as Error).message}`);
    }
  }
});

/** A step that mixes four tensors of state at random: elementwise, turned, summed, joined. */
function randomStep(seed: number): Step<Tensor[], Tensor, Tensor[]> {
  return (state, x) => {
    const random = generator({ seed, stream: 12, step: 0 });
    const pool = [...state, x];
    for (let i = 0; i < 8; i++) {
      const [a, b] = [random.choice(pool), random.choice(pool)];
      const make = random.choice([
        () => a.mul(0.5).add(b.tanh()),
        () => a.transpose(0, 1).sub(b).mul(0.5),
        () => a.sub(b.mean(0, true)),
        () => a.matmul(b).tanh(),
        () => concat([a.slice(0, 1, 4), b.slice(0, 0, 1)], 0),
        () => concat([a.slice(1, 0, 2).neg(), a.slice(1, 2, 4)], 1),
      ]);
      pool.push(make());
    }
    const next = state.map((old) => random.chance(0.2) ? old : random.choice(pool));
    return { state: next, result: [random.choice(pool), random.choice(pool)] };
  };
}

eachDevice("random steps keep old and new state apart", async (backend) => {
  for (let seed = 0; seed < (backend.name === "cpu" ? 150 : 6); seed++) {
    try {
      await expectReplay(
        backend,
        randomStep(seed),
        () => [0, 1, 2, 3].map((i) => random(300 + i, 4, 4)),
        (call) => random(310 + call, 4, 4),
        1e-4,
      );
    } catch (error) {
      throw new Error(`step ${seed}: ${(error as Error).message}`);
    }
  }
});

eachDevice("state may stay, be replaced, or be returned", async (backend) => {
  await expectReplay(
    backend,
    (s: { kept: Tensor; replaced: Tensor; constant: Tensor }, { x }: { x: Tensor }) => {
      const replaced = x.mul(3);
      return {
        state: { kept: s.kept, replaced, constant: full([3], 2) },
        result: {
          old: s.constant,
          kept: s.kept,
          fresh: replaced,
          again: replaced,
          argument: x,
          view: x.slice(0, 1, 2),
          number: full([], 5),
          nested: [[s.kept.add(x)], { deep: x.sum() }],
        },
      };
    },
    () => ({ kept: random(51, 3), replaced: random(52, 3), constant: random(53, 3) }),
    (call) => ({ x: random(60 + call, 3) }),
  );
});

eachDevice("narrow state is rounded as it is stored", async () => {
  const step = jit((s: { half: Tensor; byte: Tensor; count: Tensor }, { x }: { x: Tensor }) => ({
    state: {
      half: s.half.add(x).cast("f16"),
      byte: s.byte.cast("f32").add(x).cast("u8"),
      count: s.count.add(1),
    },
    result: s.half.mul(1),
  }));
  const state = {
    half: tensor(new Uint16Array(5), [5], "f16"),
    byte: tensor(new Uint8Array(5), [5]),
    count: tensor([41], [1], "i32"),
  };
  const x = tensor([0.1, 1, 2.7, 1e-5, 100.6], [5]);
  for (let call = 0; call < 2; call++) drop(await step(state, { x }));
  const half = [0.1, 1, 2.7, 1e-5, 100.6].map((v) =>
    Math.f16round(Math.f16round(v) + Math.fround(v))
  );
  assertEquals(await list(state.half), half);
  assertEquals(await list(state.byte), [0, 2, 4, 0, 200]);
  assertEquals(await list(state.count), [43]);
  step.dispose();
  drop(state, x);
});

eachDevice(
  "what a step closes over stays on the device until it is disposed of",
  async (backend) => {
    const weights = random(70, 6, 6);
    await realize(weights);
    const table = random(71, 6);
    const before = backend.liveBytes;
    const step = jit((_: Tree, { x }: { x: Tensor }) => ({
      state: {},
      result: x.matmul(weights).add(table),
    }));
    const x = random(72, 2, 6);
    const first = await step({}, { x });
    const held = backend.liveBytes;
    const second = await step({}, { x });
    assertEquals(await list(first), await list(second));
    drop(first, second);
    assert(held > before);
    for (let call = 0; call < 5; call++) drop(await step({}, { x }));
    const steady = backend.liveBytes;
    for (let call = 0; call < 5; call++) drop(await step({}, { x }));
    assertEquals(backend.liveBytes, steady, "a step leaks");
    step.dispose();
    step.dispose();
    assertEquals(backend.liveBytes, before);
    assertEquals(step.plan, undefined);
    // The weights are the caller's: they are still there, and a new recording finds them.
    const again = await step({}, { x });
    assertEquals((await again.data()).length, 12);
    step.dispose();
    drop(again, weights);
  },
);

eachDevice("intermediate values share memory", async () => {
  const w = Array.from({ length: 12 }, (_, i) => random(80 + i, 32, 32));
  await realize(...w);
  const step = jit((_: Tree, { x }: { x: Tensor }) => ({
    state: {},
    result: w.reduce((x, w) => x.matmul(w).tanh(), x).sum(),
  }));
  assertEquals(step.plan, undefined);
  drop(await step({}, { x: random(99, 64, 32) }));
  const { kernels, list, arenaBytes } = step.plan!;
  assertEquals([kernels, list.length], [13, 13]);
  const one = 64 * 32 * 4;
  // Two products are alive at a time; the rest is the device's scratch space.
  assert(arenaBytes >= 2 * one && arenaBytes < 5 * one, `${arenaBytes} bytes`);
  step.dispose();
  drop(w);
});

eachDevice("a step takes host tensors and lazy ones", async (backend) => {
  const before = backend.liveBytes;
  const step = jit((_: Tree, { x, y }: { x: Tensor; y: Tensor }) => ({
    state: {},
    result: x.add(y),
  }));
  const x = tensor([1, 2], [2]);
  const lazy = tensor([3, 4], [2]).mul(2);
  const a = await step({}, { x, y: lazy });
  const b = await step({}, { x: lazy, y: x });
  assertEquals([await list(a), await list(b)], [[7, 10], [7, 10]]);
  step.dispose();
  drop(a, b, lazy);
  assertEquals(backend.liveBytes, before);
});

eachDevice("a step refuses other shapes, types and structures", async () => {
  const step = jit((s: Tensor, x: Tensor) => ({ state: s.add(x.sum()), result: x.mul(2) }));
  const state = tensor([0], [1]);
  drop(await step(state, tensor([1, 2], [2])));
  await assertRejects(
    () => step(state, tensor([1, 2, 3], [3])),
    RangeError,
    "tensor 1 was recorded as f32 [2], got f32 [3]",
  );
  await assertRejects(() => step(state, tensor([1, 2], [2], "i32")), RangeError, "got i32 [2]");
  assertEquals(await list(state), [3]);
  step.dispose();
  drop(state);

  const growing = jit((s: Tensor, _: Tree) => ({ state: concat([s, s], 0), result: {} }));
  await assertRejects(
    () => growing(tensor([0], [1]), {}),
    RangeError,
    "state tensor 0 was f32 [1]",
  );
  const losing = jit((s: Tensor[], _: Tree) => ({ state: s.slice(1), result: {} }));
  await assertRejects(() => losing([tensor([0], [1])], {}), RangeError, "the state has 1 tensors");

  let stolen: Tensor | undefined;
  const thief = jit((s: Tensor, _: Tree) => {
    stolen = s;
    return { state: s, result: {} };
  });
  const mine = tensor([1], [1]);
  await thief(mine, {});
  const user = jit((_: Tree, __: Tree) => ({ state: {}, result: stolen!.add(1) }));
  await assertRejects(() => user({}, {}), Error, "belongs to another step");
  thief.dispose();
  drop(mine);
});

eachDevice("a step runs in debug mode as well", async (backend) => {
  setDebug(true);
  try {
    await expectReplay(
      backend,
      (s: Tensor, x: Tensor) => ({ state: s.mul(0.5).add(x), result: s.exp().sum() }),
      () => random(110, 4, 3),
      (call) => random(111 + call, 3),
    );
  } finally {
    setDebug(false);
  }
});

Deno.test("trees keep their form and the order of their leaves", () => {
  const [a, b, c] = [zeros([1]), zeros([2]), zeros([3])];
  const tree = { z: a, a: [b, { k: c }] };
  assertEquals(leavesOf(tree).map((t) => t.shape), [[2], [3], [1]]);
  const doubled = mapTree(tree, (t, i) => full([i], t.size));
  assertEquals(leavesOf(doubled).map((t) => t.shape), [[0], [1], [2]]);
  assertEquals(doubled.a.length, 2);
});

eachDevice("memory: says what a step takes before it takes it", async (backend) => {
  const weight = random(1, 40, 30);
  const step = jit((state: { sum: Tensor }, { x }: { x: Tensor }) => {
    const y = x.matmul(weight).exp();
    return { state: { sum: state.sum.add(y.sum()) }, result: { y, mean: y.mean(0) } };
  });
  const state = { sum: zeros([]) };
  const args = { x: random(2, 20, 40) };
  const before = backend.liveBytes;
  const memory = step.memory(state, args);
  assertEquals(backend.liveBytes, before);
  assertEquals(memory.inputs, 4 * (1 + 20 * 40));
  assert(memory.closed >= 4 * 40 * 30 && memory.closed < 4 * 40 * 30 + 64);
  assertEquals(memory.results, 4 * (20 * 30 + 30));
  const result = await step(state, args);
  assertEquals(memory.arena, step.plan!.arenaBytes);
  drop(state, args, result, weight);
  step.dispose();
});
