/**
 * Differentiation as a whole: recomputed blocks, stopped gradients, and what goes wrong by name.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import {
  checkpoint,
  concat,
  conv2d,
  grad,
  jit,
  realize,
  setDebug,
  stopGradient,
  type Tensor,
  tensor,
  type Tree,
} from "../../lib/tensor/mod.ts";
import { evaluate } from "../../lib/tensor/reference.ts";
import { expectClose, makeInput } from "./cases.ts";
import { eachDevice } from "./devices.ts";

const random = (seed: number, ...shape: number[]) =>
  makeInput({ shape, dtype: "f32", low: -1, high: 1 }, 40_000 + seed).tensor;

type Block = (x: Tensor, w: Tensor) => Tensor;

/** A block with weights, wide inside, that keeps the shape of its input. */
const block: Block = (x, w) => x.add(x.matmul(w).sin().matmul(w.transpose(0, 1)).tanh());

/** The loss of a stack of blocks, each recomputed on the way back if `recompute`. */
function stack(x: Tensor, weights: readonly Tensor[], recompute: boolean): Tensor {
  let y = x;
  for (const w of weights) {
    y = recompute ? checkpoint((y) => [block(y, w)], y)[0]! : block(y, w);
  }
  return y.square().mean();
}

Deno.test("recomputed blocks have the gradients of the blocks themselves", () => {
  const x = random(1, 4, 3);
  const weights = [random(2, 3, 5), random(3, 3, 5), random(4, 3, 5)];
  const plain = grad(stack(x, weights, false), [x, ...weights]);
  const again = grad(stack(x, weights, true), [x, ...weights]);
  plain.forEach((g, i) => {
    expectClose(`gradient ${i}`, evaluate(again[i]!), evaluate(g), 1e-12);
  });
});

Deno.test("recomputed blocks of several inputs and outputs, nested, and partly used", () => {
  const [x, y, w] = [random(5, 4, 3), random(6, 4, 3), random(7, 3, 3)];
  const inner = (a: Tensor, b: Tensor) => [a.matmul(w).mul(b.sigmoid()), b.exp(), a.sum(1)];
  const outer = (wrap: typeof checkpoint) => {
    const [p, q] = wrap(
      (a, b) => {
        const [s, t] = wrap(inner, a, b.mul(a)) as [Tensor, Tensor];
        return [s.add(t).tanh(), s.matmul(w), t];
      },
      x,
      y,
    ) as [Tensor, Tensor];
    return p.mul(q).add(p).sum();
  };
  const plain = grad(outer((fn, ...inputs) => fn(...inputs)), [x, y, w]);
  const again = grad(outer(checkpoint), [x, y, w]);
  plain.forEach((g, i) => {
    expectClose(`gradient ${i}`, evaluate(again[i]!), evaluate(g), 1e-12);
  });
});

eachDevice("recomputing deep blocks takes less memory", async () => {
  const weights = Array.from({ length: 10 }, (_, i) => random(20 + i, 8, 96));
  await realize(...weights);
  const x = random(31, 64, 8);
  const measure = async (recompute: boolean) => {
    const step = jit((_: Tree, { x }: { x: Tensor }) => {
      const loss = stack(x, weights, recompute);
      return { state: {}, result: [loss, ...grad(loss, weights)] };
    });
    const results = await step({}, { x }) as Tensor[];
    const values = await Promise.all(results.map((t) => t.data()));
    const { arenaBytes } = step.plan!;
    step.dispose();
    results.forEach((t) => t.dispose());
    return { arenaBytes, values };
  };
  const plain = await measure(false);
  const again = await measure(true);
  plain.values.forEach((v, i) => expectClose(`result ${i}`, again.values[i]!, v, 1e-4));
  assert(
    again.arenaBytes < 0.6 * plain.arenaBytes,
    `${again.arenaBytes} bytes with recomputation, ${plain.arenaBytes} without`,
  );
  weights.forEach((w) => w.dispose());
});

Deno.test("a stopped gradient does not flow, whatever else does", () => {
  const x = tensor([2, 3], [2]);
  const [dx] = grad(stopGradient(x).mul(x).sum(), [x]);
  assertEquals([...evaluate(dx!)], [2, 3]);
  const [none] = grad(stopGradient(x.square()).sum(), [x]);
  assertEquals([...evaluate(none!)], [0, 0]);
});

Deno.test("tensors that the loss does not depend on have gradients of zeros", () => {
  const [x, unused] = [tensor([2, 3], [2]), tensor([[1, 2], [3, 4]].flat(), [2, 2])];
  const integers = tensor([1, 2], [2], "i32");
  const [dx, none, whole] = grad(x.sum().add(integers.cast("f32").sum()), [x, unused, integers]);
  assertEquals([...evaluate(dx!)], [1, 1]);
  assertEquals(none!.shape, [2, 2]);
  assertEquals([...evaluate(none!)], [0, 0, 0, 0]);
  assertEquals([...evaluate(whole!)], [0, 0]);
});

Deno.test("gradients of intermediate values, of the loss, and of one tensor twice", () => {
  const x = tensor([2, 3], [2]);
  const y = x.square();
  const loss = y.mul(y).sum();
  const [dy, dx, one, same] = grad(loss, [y, x, loss, x]);
  assertEquals([...evaluate(dy!)], [8, 18]);
  assertEquals([...evaluate(dx!)], [32, 108]);
  assertEquals([...evaluate(one!)], [1]);
  assertEquals([...evaluate(same!)], [32, 108]);
});

Deno.test("gradients accumulate over every use and every view", () => {
  const x = tensor([1, 2, 3, 4], [2, 2]);
  const loss = x.slice(0, 0, 1).sum().add(x.transpose(0, 1).reshape([4]).slice(0, 1, 3).sum())
    .add(concat([x, x], 0).sum());
  assertEquals([...evaluate(grad(loss, [x])[0]!)], [3, 4, 3, 2]);
});

eachDevice("gradients with respect to what lies on the device, in f16 too", async () => {
  const w = tensor(new Uint16Array(Float16Array.of(0.5, -2, 1, 4).buffer), [2, 2], "f16");
  const x = tensor([1, 2], [1, 2]);
  await realize(w, x);
  const [dw, dx] = grad(x.matmul(w).square().sum(), [w, x]) as [Tensor, Tensor];
  assertEquals([dw.dtype, dw.shape], ["f32", [2, 2]]);
  // x w = [2.5, 6]
  assertEquals([...await dw.data()], [5, 12, 10, 24]);
  assertEquals([...await dx.data()], [-21.5, 53]);
  [w, x, dw, dx].forEach((t) => t.dispose());
});

Deno.test("a loss must be one number", () => {
  const x = tensor([1, 2], [2]);
  assertThrows(() => grad(x.mul(2), [x]), RangeError, "its shape is [2]");
});

eachDevice("debug mode names the operation that made the first NaN", async () => {
  setDebug(true);
  try {
    const x = tensor([4, -1, 0, 1], [2, 2]);
    const y = x.add(1).sub(1).sqrt().mul(2).sum();
    await assertRejects(() => realize(y), Error, "NaN: first made by sqrt[2x2], element 1");
    const zero = x.mul(0);
    await assertRejects(() => realize(zero.div(zero).add(1)), Error, "NaN: first made by div[2x2]");
    const image = tensor([1, 2, 3, 4], [1, 2, 2, 1]);
    const fine = conv2d(image, tensor([2], [1, 1, 1, 1])).log();
    assertEquals((await fine.data()).length, 4);
    fine.dispose();
  } finally {
    setDebug(false);
  }
});

eachDevice("a disposed tensor is told apart from a lazy one", async (backend) => {
  const before = backend.liveBytes;
  const x = tensor([1, 2], [2]);
  await realize(x);
  assert(backend.liveBytes > before);
  const y = x.add(1);
  x.dispose();
  x.dispose();
  assertEquals(backend.liveBytes, before);
  const message = "A disposed tensor of shape [2] was used";
  await assertRejects(() => x.data(), Error, message);
  await assertRejects(() => y.data(), Error, message);
  await assertRejects(() => realize(x), Error, message);
  const step = jit((_: Tree, { x }: { x: Tensor }) => ({ state: {}, result: x.neg() }));
  await assertRejects(() => step({}, { x }), Error, message);
  const lazy = tensor([1], [1]).exp();
  lazy.dispose();
  await assertRejects(() => lazy.data(), Error, "A disposed tensor of shape [1]");
  assertEquals(backend.liveBytes, before);
  {
    using scoped = tensor([1, 2, 3], [3]).mul(2);
    using total = scoped.sum();
    assertEquals(await total.item(), 12);
    await realize(scoped);
  }
  assertEquals(backend.liveBytes, before);
});

eachDevice("a value needs one element to be an item", async () => {
  await assertRejects(() => tensor([1, 2], [2]).item(), RangeError, "the shape is [2]");
  const one = tensor([3], [1, 1]).mul(2);
  assertEquals(await one.item(), 6);
  one.dispose();
});

eachDevice("a failed computation leaves nothing on the device", async (backend) => {
  const before = backend.liveBytes;
  const gone = tensor([1, 2], [2]);
  const y = tensor([3, 4], [2]).add(1).add(gone);
  gone.dispose();
  assertThrows(() => gone.add(1), Error, "disposed");
  await assertRejects(() => realize(y), Error, "disposed");
  setDebug(true);
  try {
    await assertRejects(() => realize(tensor([-1], [1]).sqrt().add(1).exp()), Error, "NaN");
  } finally {
    setDebug(false);
  }
  assertEquals(backend.liveBytes, before);
});

eachDevice(
  "a tensor that is asked for twice at once is computed and kept once",
  async (backend) => {
    const before = backend.liveBytes;
    const y = tensor([1, 2], [2]).add(1);
    const [a, b] = await Promise.all([y.data(), y.data()]);
    assertEquals([...a], [...b]);
    y.dispose();
    assertEquals(backend.liveBytes, before);
  },
);
