import { assert, assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import {
  generator,
  philox4x32,
  randomIntegers,
  randomNormal,
  randomUniform,
  stream,
} from "../../lib/tensor/random.ts";

Deno.test("philox4x32 gives Random123's known answers", () => {
  const cases: [number[], number[], number[]][] = [
    [[0, 0, 0, 0], [0, 0], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]],
    [Array(4).fill(0xffffffff), [0xffffffff, 0xffffffff], [
      0x408f276d,
      0x41c83b0e,
      0xa20bc7c6,
      0x6d5451fd,
    ]],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], [
      0xd16cfe09,
      0x94fdcceb,
      0x5001e420,
      0x24126ea1,
    ]],
  ];
  for (const [counter, key, expected] of cases) {
    const out = new Uint32Array(4);
    philox4x32(counter, key, out);
    assertEquals([...out], expected);
  }
});

Deno.test("random numbers depend on every part of the key and on nothing else", () => {
  const key = { seed: 7, stream: stream("test"), step: 3 };
  const values = randomNormal(key, [4, 5]);
  assertEquals(values.length, 20);
  assertEquals(randomNormal(key, [20]), values);
  assertEquals(randomNormal(key, [7]), values.slice(0, 7));
  for (
    const other of [
      { ...key, seed: 8 },
      { ...key, seed: 7 + 2 ** 32 },
      { ...key, stream: 1 },
      { ...key, step: 4 },
      { ...key, step: 3 + 2 ** 32 },
    ]
  ) {
    assert(randomNormal(other, [1])[0] !== values[0]);
  }
  assertThrows(() => randomNormal({ ...key, seed: -1 }, [1]), RangeError, "seed");
});

Deno.test("moments of the distributions", () => {
  const n = 100_000;
  const moments = (values: ArrayLike<number>) => {
    const list = Array.from(values);
    const mean = list.reduce((a, b) => a + b, 0) / n;
    return { mean, variance: list.reduce((a, b) => a + (b - mean) ** 2, 0) / n };
  };
  const normal = moments(randomNormal({ seed: 1, stream: 0, step: 0 }, [n]));
  assertAlmostEquals(normal.mean, 0, 0.015);
  assertAlmostEquals(normal.variance, 1, 0.02);
  const uniform = moments(randomUniform({ seed: 1, stream: 0, step: 0 }, [n]));
  assertAlmostEquals(uniform.mean, 0.5, 0.005);
  assertAlmostEquals(uniform.variance, 1 / 12, 0.002);
  const random = generator({ seed: 1, stream: 2, step: 0 });
  const logistic = moments(Float64Array.from({ length: n }, () => random.logistic()));
  assertAlmostEquals(logistic.mean, 0, 0.03);
  assertAlmostEquals(logistic.variance, Math.PI ** 2 / 3, 0.08);
});

Deno.test("integers, choices and shuffles stay in range", () => {
  const integers = randomIntegers({ seed: 2, stream: 0, step: 0 }, [5000], 1, 1000);
  assertEquals([Math.min(...integers), Math.max(...integers)], [1, 999]);
  const random = generator({ seed: 3, stream: 0, step: 0 });
  const items = [..."abcdefgh"];
  const shuffled = random.shuffle(items);
  assertEquals(shuffled.toSorted(), items);
  assert(shuffled.join("") !== items.join(""));
  assertThrows(() => random.choice([]), RangeError, "empty");
});
