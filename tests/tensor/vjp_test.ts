/**
 * Every gradient against differences of the reference in double precision, and on every device
 * against the reference's gradient.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { BINARY_VJP, UNARY_VJP } from "../../lib/tensor/vjp.ts";
import { grad, realize, type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { evaluate } from "../../lib/tensor/reference.ts";
import type { Source } from "../../lib/tensor/tensor.ts";
import { type Case, CASES, expectClose, makeCase, makeInput } from "./cases.ts";
import { eachDevice } from "./devices.ts";

/** Differences are taken over +-STEP: wrong by STEP^2 of the third derivative. */
const STEP = 1e-4;
/** Elements of an operand that are moved; large operands are sampled. */
const SAMPLES = 9;

/** A number that every element of the case's value adds to with a weight of its own. */
function weigh(y: Tensor, seed: number): Tensor {
  const { tensor: weights } = makeInput(
    { shape: y.shape, dtype: "f32", low: -1, high: 1 },
    9000 + seed,
  );
  return y.mul(weights).sum();
}

const isFloat = (x: Tensor) => x.dtype === "f32" || x.dtype === "f16";

/** Compares a gradient with central differences of the number it belongs to. */
function expectGradient(name: string, loss: Tensor, x: Tensor, dx: Tensor): void {
  const found = evaluate(dx);
  assertEquals(found.length, x.size, name);
  const at = evaluate(x);
  const stride = Math.max(1, Math.floor(x.size / SAMPLES));
  for (let i = 0; i < x.size; i += stride) {
    const moved = (by: number) => {
      const values = at.slice();
      values[i]! += by;
      return evaluate(loss, new Map([[x, values]]))[0]!;
    };
    const difference = (moved(STEP) - moved(-STEP)) / (2 * STEP);
    expectClose(`${name}, element ${i}`, [found[i]!], [difference], 3e-6);
  }
}

const smoothCases = (op: Source["op"]): (readonly [Case, number])[] =>
  CASES[op].map((example, i) => [example, i] as const).filter(([example]) => example.smooth);

for (const op of Object.keys(CASES) as Source["op"][]) {
  const cases = smoothCases(op);
  if (cases.length === 0) continue;

  Deno.test(`the gradient of ${op} matches differences`, () => {
    for (const [example, i] of cases) {
      const { inputs, output } = makeCase(example, i);
      const floats = inputs.filter(isFloat);
      const loss = weigh(output, i);
      grad(loss, floats).forEach((dx, k) => {
        expectGradient(`${op}: ${example.name}, operand ${k}`, loss, floats[k]!, dx);
      });
    }
  });

  eachDevice(`the gradient of ${op} matches the reference`, async () => {
    const made = cases.map(([example, i]) => {
      const { inputs, output } = makeCase(example, i);
      return { example, gradients: grad(weigh(output, i), inputs.filter(isFloat)) };
    });
    const expected = made.map(({ gradients }) => gradients.map((dx) => evaluate(dx)));
    await realize(...made.flatMap(({ gradients }) => gradients));
    for (const [i, { example, gradients }] of made.entries()) {
      for (const [k, dx] of gradients.entries()) {
        // A backward pass is about twice as long as the forward pass.
        const tolerance = 4 * example.tolerance;
        const name = `${op}: ${example.name}, operand ${k}`;
        expectClose(name, await dx.data(), expected[i]![k]!, tolerance);
      }
      // Operands of a sum share one gradient.
      gradients.forEach((dx) => dx.dispose());
    }
  });
}

Deno.test("gradients have gradients", () => {
  for (const op of Object.keys(CASES) as Source["op"][]) {
    for (const [example, i] of smoothCases(op)) {
      const { inputs, output } = makeCase(example, i);
      const floats = inputs.filter(isFloat);
      if (floats.reduce((n, x) => n + x.size, output.size) > 150) continue;
      const slope = weigh(grad(weigh(output.mul(output), i), floats)[0]!, i + 1);
      grad(slope, floats).forEach((dx, k) => {
        expectGradient(`${op}: ${example.name}, operand ${k}, twice`, slope, floats[k]!, dx);
      });
    }
  }
});

Deno.test("every scalar function that carries a gradient has a smooth case", () => {
  const names = [...CASES.unary, ...CASES.binary].filter((c) => c.smooth).map((c) => c.name);
  const flat = ["floor", "lt", "eq"];
  for (const fn of [...Object.keys(UNARY_VJP), ...Object.keys(BINARY_VJP)]) {
    assert(flat.includes(fn) || names.includes(fn), `${fn} has no smooth case`);
  }
});

Deno.test("ties of a maximum share its gradient", () => {
  const x = tensor([3, 1, 3, 2], [4]);
  assertEquals([...evaluate(grad(x.max(), [x])[0]!)], [0.5, 0, 0.5, 0]);
});

Deno.test("at a tie, maximum and minimum pass the gradient to the first operand", () => {
  const [a, b] = [tensor([1, 2], [2]), tensor([1, 3], [2])];
  const both = (y: Tensor) => grad(y.sum(), [a, b]).map((d) => [...evaluate(d)]);
  assertEquals(both(a.maximum(b)), [[1, 0], [0, 1]]);
  assertEquals(both(a.minimum(b)), [[1, 1], [0, 0]]);
});
