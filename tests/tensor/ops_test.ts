/**
 * Every operation on every device against its plain meaning.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { UnaryOp } from "../../lib/tensor/kernel.ts";
import {
  conv2d,
  full,
  realize,
  scatterAdd,
  type Shape,
  Tensor,
  tensor,
  where,
} from "../../lib/tensor/mod.ts";
import { BINARY, evaluate, UNARY } from "../../lib/tensor/reference.ts";
import type { Source } from "../../lib/tensor/tensor.ts";
import { BINARY_CALL, CASES, expectClose, makeCase, UNARY_CALL } from "./cases.ts";
import { eachDevice } from "./devices.ts";

for (const op of Object.keys(CASES) as Source["op"][]) {
  if (CASES[op].length === 0) continue;
  eachDevice(`${op} matches its reference`, async () => {
    // All at once: devices wait once, and buffers of many sizes live side by side.
    const made = CASES[op].map((example, i) => ({ ...makeCase(example, i), example }));
    const expected = made.map(({ output }) => evaluate(output));
    await realize(...made.map(({ output }) => output));
    for (const [i, { output, inputs, example }] of made.entries()) {
      expectClose(`${op}: ${example.name}`, await output.data(), expected[i]!, example.tolerance);
      [...inputs, output].forEach((t) => t.dispose());
    }
  });
}

/** Arguments at which functions overflow, vanish or change their method. */
const SPECIAL = [
  [0, -0, 1, -1, 0.5, -0.5, 2, -2, 0.1, -0.1, 1e-3, -1e-3, 1e-7, -1e-7, 1e-20, -1e-20],
  [3, -3, 0.6, 0.65, -0.65, 0.92, 0.93, 4, -4, 6, -6, 9, -9, 10, -10, 17, -17, 20, 40, -40],
  [88, 88.7, 88.8, 89, 90, 100, 1e3, 1e10, 1e30, 3e38, -80, -87, -87.5, -100, -1e3, -1e30, -3e38],
  [0.7071, 0.70711, 1.41421, 1.41422, 1.18e-38, 1e38, Infinity, -Infinity, NaN],
].flat().map(Math.fround);

/** What `value` may be off by; a unit in the last place is 2^-23 = 1.2e-7 of a number. */
function allowed(fn: UnaryOp, x: number, value: number): number {
  const ulp = 2 ** -23;
  // Numbers that f32 holds with fewer bits may be flushed to zero, as GPUs do.
  const tiny = 2 ** -126;
  switch (fn) {
    case "exp":
    case "sigmoid":
      // WGSL allows exp 3 + 2|x| units: it is 2^(x log2 e), and the product is rounded.
      return ulp * (4 + 2 * Math.min(Math.abs(x), 90)) * Math.abs(value) + tiny;
    case "log":
      // WGSL: 3 units, or 2^-21 absolutely between 1/2 and 2.
      return ulp * 4 * Math.max(1, Math.abs(value));
    case "sin":
    case "cos":
      // Reduction by multiples of pi/2 in 48 bits: exact to 2^-24 of the turn for a few hundred turns.
      return ulp * 3;
    default:
      return ulp * 6 * Math.abs(value) + tiny;
  }
}

eachDevice("functions hold over their range, at infinities and at NaN", async () => {
  const angles = Float32Array.from({ length: 2001 }, (_, i) => (i - 1000) * 1.000123);
  for (const [fn, call] of Object.entries(UNARY_CALL) as [UnaryOp, (x: Tensor) => Tensor][]) {
    const turns = fn === "sin" || fn === "cos";
    // Beyond a few thousand radians no reduction in f32 has any digits left.
    const xs = turns ? angles : Float32Array.from(SPECIAL);
    const found = await call(tensor(xs, [xs.length])).data();
    xs.forEach((x, i) => {
      const exact = UNARY[fn](x);
      const [expected, value] = [Math.fround(exact), found[i]!];
      const subnormal = Math.abs(x) < 2 ** -126 && x !== 0;
      if (subnormal || (Number.isNaN(x) && fn === "floor")) return;
      const same = Object.is(expected, value) || expected === value ||
        (Number.isNaN(expected) && Number.isNaN(value));
      assert(
        same || Math.abs(value - exact) <= allowed(fn, x, exact),
        `${fn}(${x}) is ${value}, expected ${expected}`,
      );
    });
  }
});

eachDevice("comparisons, divisions and choices at the edges", async () => {
  const numbers = [0, -0, 1, -1, 3, Infinity, -Infinity, 1e30, -1e-30];
  const pairs = numbers.flatMap((a) => numbers.map((b) => [a, b] as const));
  const a = tensor(pairs.map(([a]) => a), [pairs.length]);
  const b = tensor(pairs.map(([, b]) => b), [pairs.length]);
  for (const [fn, call] of Object.entries(BINARY_CALL)) {
    const found = await call(a, b).data();
    pairs.forEach(([x, y], i) => {
      const exact = BINARY[fn as keyof typeof BINARY](Math.fround(x), Math.fround(y));
      const expected = Math.fround(exact);
      // WGSL leaves infinities open; where one comes out of arithmetic, any answer but a finite one is right.
      if (!Number.isFinite(expected)) {
        return assert(!Number.isFinite(found[i]!), `${fn}(${x}, ${y})`);
      }
      if (Number.isFinite(x) && Number.isFinite(y)) {
        expectClose(`${fn}(${x}, ${y})`, [found[i]!], [expected], 1e-6);
      }
    });
  }
  const zeros = tensor([0, -0, 1, -1], [4]);
  assertEquals([...await where(zeros, 5, 6).data()], [6, 6, 5, 5]);
});

eachDevice("f16 rounds to nearest even, through subnormals and to infinity", async () => {
  const values = [65504, 65519, 65520, 1e9, -1e9, 6e-8, 2.9e-8, 3.1e-8, 6.1e-5, 6.0975e-5]
    .concat([1 + 2 ** -11, 1 + 3 * 2 ** -11, 0.1, 2 ** -24, 2 ** -25, 3 * 2 ** -25, 0, -0])
    .concat([Infinity, -Infinity, NaN, 2047.5, 2048.5, 2049.5, -1.0009765]);
  const x = tensor(values, [values.length]);
  const found = await x.cast("f16").data();
  assertEquals([...found], values.map((v) => Math.f16round(Math.fround(v))));
  // And widened again inside of a kernel, at even and odd places.
  const half = x.cast("f16");
  await realize(half);
  const back = await half.slice(0, 1, values.length).cast("f32").add(0).data();
  assertEquals([...back], values.slice(1).map((v) => Math.f16round(Math.fround(v)) + 0));
});

eachDevice("every bit pattern of f16 and u8 is read", async () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const wide = await tensor(bits, [65536], "f16").cast("f32").data();
  const half = new Float16Array(bits.buffer);
  for (let i = 0; i < 65536; i++) {
    assert(Object.is(wide[i], half[i]) || Number.isNaN(half[i]), `${i}: ${wide[i]}, ${half[i]}`);
  }
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  assertEquals([...await tensor(bytes, [256]).cast("f32").data()], [...bytes]);
});

eachDevice("integers and floats convert as documented", async () => {
  const x = tensor([1.9, -1.9, 0.5, -3e9, 3e9], [5]);
  const whole = [...await x.cast("i32").data()];
  assertEquals(whole.slice(0, 4), [1, -1, 0, -2147483648]);
  // WGSL stops at the largest float below 2^31.
  assert(whole[4] === 2 ** 31 - 1 || whole[4] === 2 ** 31 - 128, `${whole[4]}`);
  const n = tensor([16777217, -3, 7], [3], "i32");
  assertEquals([...await n.cast("f32").data()], [16777216, -3, 7]);
});

Deno.test("impossible operations are refused by name, with the shapes", () => {
  const of = (shape: Shape) => full(shape, 1);
  const integers = tensor([1, 2, 3], [3], "i32");
  const bytes = new Uint8Array(3);
  assertThrows(() => of([2, 3]).add(of([2])), RangeError, "add: shapes [2, 3] and [2]");
  assertThrows(() => of([3]).add(integers), TypeError, "add: operands are f32 and i32");
  assertThrows(() => integers.div(2), TypeError, "div: i32");
  assertThrows(() => integers.mul(0.5), TypeError, "mul: i32 and 0.5");
  assertThrows(() => integers.exp(), TypeError, "exp: needs floats, got i32");
  assertThrows(() => integers.reshape([1, 3]).matmul(of([3, 1])), TypeError, "matmul: needs f32");
  assertThrows(() => of([2, 3]).matmul(of([2, 3])), RangeError, "matmul: [2, 3] x [2, 3]");
  assertThrows(() => of([2, 3]).reshape([4, 2]), RangeError, "reshape: [2, 3]");
  assertThrows(() => of([2, 3]).reshape([4, -1]), RangeError, "reshape: [2, 3]");
  assertThrows(() => of([2, 3]).permute([0, 0]), RangeError, "permute: [0, 0]");
  assertThrows(() => of([2, 3]).expand([2, 4]), RangeError, "expand: [2, 3]");
  assertThrows(() => of([2, 3]).slice(1, 2, 2), RangeError, "slice: [2, 2)");
  assertThrows(() => of([2, 3]).sum(2), RangeError, "sum: axis 2");
  assertThrows(() => of([2, 3]).squeeze(0), RangeError, "squeeze: axis 0");
  assertThrows(() => of([2, 3]).split(1, 2), RangeError, "split: axis 1");
  assertThrows(() => conv2d(of([1, 2, 2, 3]), of([3, 3, 3, 1])), RangeError, "smaller");
  assertThrows(() => conv2d(of([1, 2, 2, 3]), of([1, 1, 2, 1])), RangeError, "do not fit");
  assertThrows(() => scatterAdd(3, integers, of([2, 2])), TypeError, "scatterAdd");
  assertThrows(() => tensor([1, 2], [3]), RangeError, "2 elements do not fill shape [3]");
  assertThrows(() => tensor(bytes, [3], "f32"), TypeError, "Uint8Array holds u8, not f32");
});
