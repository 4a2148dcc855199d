/**
 * The scheduler: fused kernels compute what the graph says, and there are as few as there should be.
 *
 * @module
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { reads } from "../../lib/tensor/kernel.ts";
import {
  attention,
  checkpoint,
  concat,
  conv2d,
  full,
  grad,
  realize,
  setDebug,
  type Shape,
  stopGradient,
  type Tensor,
  tensor,
} from "../../lib/tensor/mod.ts";
import { evaluate } from "../../lib/tensor/reference.ts";
import { schedule, type ScheduleOptions } from "../../lib/tensor/schedule.ts";
import { sizeOf } from "../../lib/tensor/shape.ts";
import { expectClose } from "./cases.ts";
import { eachDevice } from "./devices.ts";
import { randomGraph } from "./random_graph.ts";

/** Outputs of a random graph with the gradients of their sum. */
function randomOutputs(seed: number, length: number): Tensor[] {
  const { inputs, outputs } = randomGraph(seed, length);
  const loss = outputs.map((y) => y.sin().mean()).reduce((a, b) => a.add(b));
  return [...outputs, loss, ...grad(loss, inputs)];
}

async function expectReference(name: string, outputs: readonly Tensor[]): Promise<void> {
  const expected = outputs.map((y) => evaluate(y));
  await realize(...outputs);
  for (const [i, y] of outputs.entries()) {
    expectClose(`${name}, output ${i}`, await y.data(), expected[i]!, 1e-4);
  }
  outputs.forEach((y) => y.dispose());
}

eachDevice("random graphs and their gradients match the reference", async (backend) => {
  const [graphs, length] = backend.name === "cpu" ? [120, 40] : [5, 25];
  for (let seed = 0; seed < graphs; seed++) {
    await expectReference(`graph ${seed}`, randomOutputs(seed, length));
  }
});

eachDevice("random graphs run unfused, without a NaN in dead memory", async (backend) => {
  const [graphs, length] = backend.name === "cpu" ? [30, 40] : [1, 25];
  setDebug(true);
  try {
    for (let seed = 500; seed < 500 + graphs; seed++) {
      await expectReference(`graph ${seed}`, randomOutputs(seed, length));
    }
  } finally {
    setDebug(false);
  }
});

Deno.test("no kernel of a random graph reads more than a device can bind", () => {
  for (let seed = 0; seed < 40; seed++) {
    const outputs = randomOutputs(seed, 60);
    for (const maxInputs of [4, 6, 8]) {
      for (const kernel of schedule(outputs, { maxInputs }).kernels) {
        assert(reads(kernel).length <= maxInputs, `graph ${seed}: ${kernel.name}`);
      }
    }
  }
});

const leaf = (...shape: number[]) => tensor(new Float32Array(sizeOf(shape)), shape);
const silu = (x: Tensor) => x.mul(x.sigmoid());

/** Kinds of the kernels that compute the outputs; `+` marks an epilogue. */
function kinds(outputs: readonly Tensor[], options?: ScheduleOptions): string[] {
  return schedule(outputs, options).kernels.map((k) =>
    k.kind + ("epilogue" in k && k.epilogue ? "+" : "")
  );
}

Deno.test("elementwise work rides in the contraction that feeds it", () => {
  const image = leaf(2, 4, 6, 8);
  const y = conv2d(image, leaf(3, 3, 8, 5), { padding: 1 }).add(leaf(5));
  assertEquals(kinds([silu(y)]), ["conv2d+"]);
  assertEquals(kinds([silu(y).add(leaf(2, 4, 6, 5))]), ["conv2d+"]);
  assertEquals(kinds([y.add(leaf(2, 1, 1, 5)).mul(0.5)]), ["conv2d+"]);
  const z = leaf(2, 3, 8).matmul(leaf(4, 8).transpose(0, 1)).add(leaf(4));
  const gelu = z.mul(z.div(Math.SQRT2).erf().add(1)).mul(0.5);
  assertEquals(kinds([gelu]), ["matmul+"]);
  assertEquals(kinds([gelu], { fuse: false }).filter((k) => k === "matmul+"), []);
});

Deno.test("a value that is wanted by itself too is stored once", () => {
  const y = leaf(3, 8).matmul(leaf(8, 5)).add(leaf(5));
  assertEquals(kinds([y, silu(y)]), ["matmul+", "map"]);
  assertEquals(kinds([y.matmul(leaf(5, 2)), y.matmul(leaf(5, 3))]), [
    "matmul+",
    "matmul",
    "matmul",
  ]);
});

Deno.test("reductions take their operand and their end along", () => {
  const x = leaf(5, 8);
  assertEquals(kinds([x.sub(leaf(5, 8)).square().mean()]), ["reduce+"]);
  assertEquals(kinds([x.exp().sum(0).log().add(leaf(8))]), ["reduce+"]);
  // The exponential is dear, so it is stored rather than computed twice.
  assertEquals(kinds([x.softmax()]), ["reduce", "map", "reduce", "map"]);
  const centred = x.sub(x.mean(-1, true));
  const scale = centred.square().mean(-1, true).add(1e-5).rsqrt();
  assertEquals(
    kinds([centred.mul(scale).mul(leaf(8)).add(leaf(8))]),
    ["reduce+", "reduce+", "map"]
      .map((k, i) => i === 1 ? kinds([centred.mul(scale)])[1]! : k),
  );
});

Deno.test("attention takes five kernels", () => {
  const [q, k, v] = [leaf(1, 2, 5, 4), leaf(1, 2, 7, 4), leaf(1, 2, 7, 4)];
  const five = ["matmul+", "reduce", "map", "reduce", "matmul+"];
  assertEquals(kinds([attention(q, k, v)]), five);
  assertEquals(kinds([attention(q, k, v, { mask: leaf(5, 7) })]), five);
});

Deno.test("attention in parts holds the scores of a part at a time, forwards and backwards", () => {
  const [q, k, v] = [leaf(1, 2, 64, 4), leaf(1, 2, 64, 4), leaf(1, 2, 64, 4)];
  const largest = (most: number) => {
    const loss = attention(q, k, v, { most }).square().sum();
    const { slots } = schedule([loss, ...grad(loss, [q, k, v])]);
    return Math.max(...slots.map(({ bytes }) => bytes)) / 4;
  };
  assertEquals(largest(2 ** 20), 2 * 64 * 64);
  assertEquals(largest(2 * 8 * 64), 2 * 8 * 64);
});

Deno.test("chains of elementwise work and views are one kernel", () => {
  const x = leaf(5, 8);
  assertEquals(kinds([x.sin().add(1).mul(leaf(5, 8)).exp()]), ["map"]);
  assertEquals(kinds([x.transpose(0, 1).slice(0, 1, 4).expand([2, 3, 5]).add(1)]), ["map"]);
  assertEquals(kinds([stopGradient(x).neg()]), ["map"]);
  const [m, v, p, g] = [leaf(9), leaf(9), leaf(9), leaf(9)];
  const m2 = m.mul(0.9).add(g.mul(0.1));
  const v2 = v.mul(0.99).add(g.square().mul(0.01));
  assertEquals(kinds([m2, v2, p.sub(m2.div(v2.sqrt().add(1e-8)))]), ["map", "map", "map"]);
});

Deno.test("a checkpoint costs nothing on the way forward", () => {
  const w = leaf(8, 8);
  const block = (x: Tensor) => silu(x.matmul(w));
  const x = leaf(4, 8);
  const plain = kinds([block(x).matmul(w)]);
  assertEquals(kinds([checkpoint((x) => [block(x)], x)[0]!.matmul(w)]), plain);
});

Deno.test("a reduction and its epilogue share the limit on inputs", () => {
  const many = (...shape: number[]) => Array.from({ length: 8 }, () => leaf(...shape));
  const total = many(5, 7).reduce((a, b) => a.mul(b)).sum(1);
  const end = many(5).reduce((a, b) => a.mul(b), total);
  for (const maxInputs of [31, 14, 12, 10]) {
    for (const kernel of schedule([end], { maxInputs }).kernels) {
      assert(reads(kernel).length <= maxInputs, `${kernel.name} reads ${reads(kernel).length}`);
    }
  }
});

Deno.test("slots are live from their first kernel to their last", () => {
  const { kernels, slots } = schedule(randomOutputs(3, 60));
  slots.forEach((slot, i) => {
    if (slot.kind !== "arena") return;
    const users = kernels.flatMap((k, at) =>
      [...reads(k), k.output].some((a) => a.slot === i) ? [at] : []
    );
    assertEquals([slot.first, slot.last], [users[0], users.at(-1)]);
    assertEquals(kernels[slot.first]!.output.slot, i, "the first kernel must write the slot");
  });
});

Deno.test("kernels are named after what they compute", () => {
  const [kernel] = schedule([leaf(3, 8).matmul(leaf(8, 5))]).kernels;
  assertStringIncludes(kernel!.name, "matmul[3x5]");
});

eachDevice("outputs may be operands, views, constants, or one another", async () => {
  const x = tensor([1, 2, 3, 4, 5, 6], [2, 3]);
  const y = x.exp();
  await expectReference("outputs", [
    x.transpose(0, 1),
    y,
    y.reshape([6]),
    y.slice(1, 1, 2),
    y.transpose(0, 1).reshape([2, 3]),
    full([2, 2], 0.5),
    full([4], 2).reshape([2, 2]),
    full([2, 2], 1).sum(),
    stopGradient(x),
    stopGradient(y),
    concat([x, x], 0),
    y.sum(),
    y.sum().add(1),
  ]);
  const again = x.add(1);
  await realize(x, again, again, x);
  assertEquals([...await again.data()], [2, 3, 4, 5, 6, 7]);
  assertEquals([...await x.data()], [1, 2, 3, 4, 5, 6]);
  // A second graph over what the first one left on the device.
  const twice = again.mul(x).transpose(0, 1);
  assertEquals([...await twice.data()], [2, 20, 6, 30, 12, 42]);
  [x, again, twice].forEach((t) => t.dispose());
});

/** Chains that would overflow the call stack if anything walked them by recursion. */
const CHAINS: Readonly<Record<string, (x: Tensor, i: number) => Tensor>> = {
  sums: (x) => x.add(0.001),
  squares: (x) => x.mul(x),
  "values used twice": (x) => {
    const y = x.sin();
    return y.mul(y).add(y).mul(0.5);
  },
  products: (x) => x.matmul(x).mul(0.1),
  views: (x, i) => i % 9 ? x.transpose(0, 1) : x.transpose(0, 1).reshape([4, 4]).neg(),
  transposes: (x) => x.transpose(0, 1),
  "gradient stops": (x) => stopGradient(x),
  "one kernel each": (x) => x.sub(x.mean(-1, true)),
  checkpoints: (x) => checkpoint((x) => [x.tanh()], x)[0]!,
};

Deno.test("graphs thousands of nodes deep are scheduled and differentiated", () => {
  for (const [name, next] of Object.entries(CHAINS)) {
    const x = tensor(Float32Array.from({ length: 16 }, (_, i) => i / 16), [4, 4]);
    let y = x;
    for (let i = 0; i < 3000; i++) y = next(y, i);
    const { kernels } = schedule([y]);
    assert(kernels.length >= 1, name);
    schedule(grad(y.sum(), [x]));
  }
});

eachDevice("long chains are cut into kernels that compile", async () => {
  for (const name of ["sums", "values used twice", "views", "gradient stops"]) {
    const x = tensor(Float32Array.from({ length: 16 }, (_, i) => i / 16), [4, 4]);
    let y = x;
    for (let i = 0; i < 400; i++) y = CHAINS[name]!(y, i);
    assert(schedule([y]).kernels.length <= 25, name);
    await expectReference(name, [y]);
  }
});

Deno.test("a shared expression is spelled once, not once per use", () => {
  // As a tree, sixty squarings would have 2^60 leaves.
  let y: Tensor = leaf(4);
  for (let i = 0; i < 60; i++) y = y.mul(y);
  const [kernel] = schedule([y]).kernels;
  assert(kernel?.kind === "map" && kernel.expr.kind === "binary");
  assert(kernel.expr.a === kernel.expr.b);
});

Deno.test("shapes in the schedule are those of the graph", () => {
  const shape: Shape = [3, 5];
  const { slots, outputs } = schedule([leaf(...shape).exp()]);
  assertEquals(slots[outputs[0]!], { kind: "external", bytes: sizeOf(shape) * 4 });
});
