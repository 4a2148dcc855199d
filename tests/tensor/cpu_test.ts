/**
 * The cpu device: threads that agree bit by bit, workers that come and go, memory that is handed out
 * once at a time.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import type { Backend } from "../../lib/tensor/backend.ts";
import { openCpu } from "../../lib/tensor/cpu/mod.ts";
import { Heap, type Life, planArena } from "../../lib/tensor/cpu/memory.ts";
import {
  attention,
  conv2d,
  generator,
  grad,
  jit,
  openDevice,
  realize,
  scatterAdd,
  setDevice,
  type Tensor,
  tensor,
  type Tree,
} from "../../lib/tensor/mod.ts";
import { makeInput } from "./cases.ts";

const random = (seed: number, ...shape: number[]) =>
  makeInput({ shape, dtype: "f32", low: -1, high: 1 }, 60_000 + seed).tensor;

/** Lets a device's workers come up: until then it runs on the main thread alone. */
const workersUp = () => new Promise((resolve) => setTimeout(resolve, 300));

/** Registers a test that ends with the devices that it opened. */
function deviceTest(name: string, fn: (open: (threads: number) => Backend) => Promise<void>): void {
  Deno.test({
    name,
    // A worker ends after the test that closes it.
    sanitizeOps: false,
    sanitizeResources: false,
    fn: async () => {
      const opened: Backend[] = [];
      try {
        await fn((threads) => {
          opened.push(openCpu({ threads }));
          return opened.at(-1)!;
        });
      } finally {
        opened.forEach((device) => device.close());
      }
    },
  });
}

/** A step with every kind of kernel, large enough to be shared among threads. */
function everything(x: Tensor, w: Tensor, v: Tensor): Tensor[] {
  const y = conv2d(x, w, { padding: 1 });
  const z = y.mul(y.sigmoid());
  const heads = z.reshape([2, 2, 256, 12]);
  const mixed = attention(heads, heads.mul(0.5), heads);
  const norm = mixed.sub(mixed.mean(-1, true)).square().mean([0, 1]);
  const long = x.reshape([-1, 8]).transpose(0, 1).matmul(v);
  const rows = tensor(Int32Array.from({ length: 512 }, (_, i) => i * 7 % 64), [512]);
  const table = scatterAdd(64, rows, z.reshape([512, 24]));
  const loss = norm.sum().add(long.square().mean()).add(table.tanh().sum());
  return [loss, y, norm, long, table, x.max([1, 2]), ...grad(loss, [x, w, v])];
}

/** The bits of every result, in each of some calls. */
async function bitsOf(device: Backend, calls: number): Promise<string[]> {
  setDevice(device);
  await workersUp();
  const inputs = [random(1, 2, 16, 16, 8), random(2, 3, 3, 8, 24), random(3, 512, 40)] as const;
  const step = jit((_: Tree, [x, w, v]: readonly Tensor[]) => ({
    state: {},
    result: everything(x!, w!, v!),
  }));
  const found: string[] = [];
  for (let call = 0; call < calls; call++) {
    const results = await step({}, inputs) as Tensor[];
    const data = await Promise.all(results.map((t) => t.data()));
    found.push(data.map((d) => [...new Int32Array(d.buffer)].join()).join("|"));
    results.forEach((t) => t.dispose());
  }
  step.dispose();
  return found;
}

deviceTest("one thread and several compute the same bits", async (open) => {
  const [one] = await bitsOf(open(1), 1);
  for (const threads of [2, 3]) {
    (await bitsOf(open(threads), 20)).forEach((bits, call) =>
      assert(bits === one, `call ${call} on ${threads} threads differs`)
    );
  }
});

deviceTest("addresses beyond 2 GiB compute the same bits", async (open) => {
  const [low] = await bitsOf(open(1), 1);
  const device = open(2);
  // Pages that nobody touches take no memory.
  const below = device.allocate(2 ** 31);
  const [high] = await bitsOf(device, 1);
  assert(high === low);
  device.free(below);
});

deviceTest("many programs take turns on the same workers", async (open) => {
  const device = open(2);
  setDevice(device);
  await workersUp();
  const before = device.liveBytes;
  const a = random(10, 128, 128);
  await realize(a);
  const held = device.liveBytes;
  const steps = [1, 2, 3, 4].map((n) =>
    jit((_: Tree, x: Tensor) => {
      let y = x;
      for (let i = 0; i < n; i++) y = y.matmul(x).mul(0.1);
      return { state: {}, result: y };
    })
  );
  const sums = new Map<number, number>();
  const order = generator({ seed: 3, stream: 1, step: 0 });
  for (let call = 0; call < 300; call++) {
    const i = order.int(steps.length);
    const y = await steps[i]!({}, a) as Tensor;
    const sum = Array.from(await y.data()).reduce((s, v) => s + v, 0);
    assertEquals(sums.get(i) ?? sum, sum, `call ${call}`);
    sums.set(i, sum);
    y.dispose();
    // Forgotten plans are announced again.
    if (call % 7 === 0) steps[i]!.dispose();
    if (call % 50 === 0) await new Promise((resolve) => setTimeout(resolve));
  }
  steps.forEach((step) => step.dispose());
  assertEquals(device.liveBytes, held);
  a.dispose();
  assertEquals(device.liveBytes, before);
});

deviceTest("memory grows under running workers", async (open) => {
  const device = open(2);
  setDevice(device);
  await workersUp();
  const x = random(20, 300, 300);
  const kept: Tensor[] = [x];
  const first = await x.matmul(x).data();
  for (let i = 0; i < 12; i++) {
    const y = x.add(0).reshape([1, 300, 300]).expand([10, 300, 300]).mul(1);
    await realize(y);
    kept.push(y);
    const again = x.matmul(x);
    kept.push(again);
    assertEquals(await again.data(), first);
  }
  assert(device.liveBytes > 12 * 10 * 300 * 300 * 4);
  kept.forEach((t) => t.dispose());
});

deviceTest("devices open and close, used or not", async (open) => {
  for (let i = 0; i < 4; i++) open(3).close();
  const device = open(2);
  assertEquals(device.name, "cpu");
  setDevice(device);
  // Before its workers are up, a device computes alone.
  const x = random(30, 200, 200);
  const early = await x.matmul(x).data();
  await workersUp();
  assertEquals(await x.matmul(x).data(), early);
  assertEquals(open(1).description.split(",")[0], "1 thread");
});

deviceTest("tensors of another device are refused", async (open) => {
  setDevice(open(1));
  const x = tensor([1, 2], [2]);
  await realize(x);
  setDevice(open(1));
  await assertRejects(() => x.add(1).data(), Error, "lies on another device (cpu)");
  x.dispose();
});

deviceTest("host copies check their bounds", async (open) => {
  const device = open(1);
  const buffer = device.allocate(8);
  device.write(buffer, new Uint8Array([1, 2, 3, 4]), 4);
  assertEquals([...await device.read(buffer, 4, 4)], [1, 2, 3, 4]);
  assertThrows(
    () => device.write(buffer, new Uint8Array(8), 4),
    RangeError,
    "exceed a buffer of 8",
  );
  device.free(buffer);
});

/** Runs a script beside this file and returns what it printed. */
async function script(name: string): Promise<string> {
  const path = new URL(name, import.meta.url).pathname;
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["run", "--no-check", "--allow-read", path],
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  assertEquals(code, 0, text(stderr));
  return text(stdout);
}

Deno.test("without relaxed SIMD every operation holds, and an open device lets the process end", async () => {
  assertEquals(await script("plain_simd.ts"), "all cases hold");
});

Deno.test("a device works on alone after one of its threads failed", async () => {
  assertEquals(await script("failed_thread.ts"), "2,2,2,2");
});

Deno.test("openDevice opens the cpu by name", async () => {
  const device = await openDevice("cpu", { threads: 1 });
  assertEquals(device.name, "cpu");
  device.close();
});

Deno.test("the heap hands out memory once, takes it back, and joins what is free", () => {
  const heap = new Heap();
  const next = generator({ seed: 1, stream: 2, step: 0 });
  const held = new Map<number, number>();
  let bytes = 0;
  for (let i = 0; i < 3000; i++) {
    if (held.size > 0 && next.chance(0.5)) {
      const at = next.choice([...held.keys()]);
      heap.free(at, held.get(at)!);
      bytes -= Math.max(64, Math.ceil(held.get(at)! / 64) * 64);
      held.delete(at);
    } else {
      const size = next.int(3000);
      const at = heap.allocate(size);
      assertEquals(at % 64, 0);
      assert(at > 0 && at + size <= heap.memory.buffer.byteLength);
      for (const [other, length] of held) {
        assert(at + size <= other || other + length <= at, `${at}+${size} and ${other}+${length}`);
      }
      held.set(at, size);
      bytes += Math.max(64, Math.ceil(size / 64) * 64);
    }
    assertEquals(heap.held, bytes);
  }
  for (const [at, size] of held) heap.free(at, size);
  assertEquals(heap.held, 0);
  // Everything is one block again: what fits in all of it fits now.
  const whole = heap.allocate(1_000_000);
  assertEquals(whole, 64);
});

Deno.test("a full heap says what it holds and what was asked", () => {
  const heap = new Heap();
  heap.allocate(1 << 20);
  assertThrows(
    () => heap.allocate(5 * 2 ** 30),
    RangeError,
    "holds 1.0 MB and can't give 5.37 GB more: its memory ends at 4.29 GB",
  );
  assertEquals(heap.held, 1 << 20);
});

Deno.test("the arena keeps values apart while both live, and shares the rest", () => {
  const next = generator({ seed: 2, stream: 3, step: 0 });
  for (let round = 0; round < 50; round++) {
    const lives = Array.from({ length: 40 }, (): Life => {
      const first = next.int(60);
      return { bytes: next.chance(0.1) ? 0 : next.int(5000), first, last: first + next.int(8) };
    });
    const { offsets, bytes } = planArena(lives);
    lives.forEach((a, i) => {
      assertEquals(offsets[i]! % 64, 0);
      assert(offsets[i]! + a.bytes <= bytes);
      lives.slice(0, i).forEach((b, j) => {
        const together = a.first <= b.last && b.first <= a.last && a.bytes > 0 && b.bytes > 0;
        const apart = offsets[i]! + a.bytes <= offsets[j]! || offsets[j]! + b.bytes <= offsets[i]!;
        assert(!together || apart, `round ${round}: ${i} and ${j}`);
      });
    });
    const peak = Math.max(
      ...Array.from(
        { length: 70 },
        (_, t) => lives.reduce((sum, l) => l.first <= t && t <= l.last ? sum + l.bytes : sum, 0),
      ),
    );
    const sum = lives.reduce((n, l) => n + l.bytes, 0);
    assert(bytes >= peak && bytes < 1.5 * peak + 64 * 40 && bytes < sum, `${bytes} of ${peak}`);
  }
  assertEquals(planArena([]).offsets, []);
});

Deno.test("a product of 200,000 rows has every row in its place", async () => {
  // Rows times blocks of rows exceed 32 bits here.
  const backend = openCpu({ threads: 1 });
  setDevice(backend);
  try {
    const rows = 200_000;
    using x = tensor(Float32Array.from({ length: rows }, (_, i) => i), [rows, 1]);
    using y = x.matmul(tensor([1, 2], [1, 2]));
    const values = await y.data();
    for (let i = 0; i < rows; i++) {
      if (values[2 * i] !== i || values[2 * i + 1] !== 2 * i) {
        throw new Error(`row ${i} is ${values[2 * i]}, ${values[2 * i + 1]}`);
      }
    }
  } finally {
    backend.close();
  }
});

deviceTest(
  "a long reduction agrees with f64, whatever its shape, and best where it can be cut",
  async (open) => {
    setDevice(open(2));
    await workersUp();
    const shapes: [shape: number[], axes: number[], bound?: number][] = [
      [[4_194_304], [0]],
      [[100_003], [0], 1e-5], // prime: it cannot be cut
      [[9, 5000, 3], [0, 1]],
      [[65_536, 6], [0]],
      [[2, 96, 7, 1500], [1, 2, 3]],
      [[3, 2, 4097], [0, 2]],
    ];
    for (const [shape, axes, bound = 1e-6] of shapes) {
      const size = shape.reduce((a, b) => a * b, 1);
      const values = Float32Array.from({ length: size }, (_, i) => Math.sin(i) ** 2);
      using x = tensor(values, shape);
      using sum = x.sum(axes).div(size);
      using most = x.mul(-3).max(axes);
      const kept = shape.map((n, i) => axes.includes(i) ? 1 : n);
      const sums = new Float64Array(kept.reduce((a, b) => a * b, 1));
      const maxima = new Float64Array(sums.length).fill(-Infinity);
      values.forEach((v, i) => {
        let at = 0, rest = i, step = 1;
        for (let axis = shape.length - 1; axis >= 0; axis--) {
          const n = kept[axis]!;
          at += (rest % shape[axis]! % n) * step;
          rest = Math.floor(rest / shape[axis]!);
          step *= n;
        }
        sums[at]! += v;
        maxima[at] = Math.max(maxima[at]!, Math.fround(-3 * v));
      });
      const found = await sum.data();
      sums.forEach((expected, i) => {
        const error = Math.abs(found[i]! * size / expected - 1);
        assert(error < bound, `${shape} over ${axes}: relative error ${error}`);
      });
      assertEquals([...await most.data()], [...maxima]);
    }
  },
);
