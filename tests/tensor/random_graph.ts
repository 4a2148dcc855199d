/**
 * Random graphs: a seed gives operands and a few outputs that use views, reductions, contractions and
 * elementwise work in every order, with values that stay small.
 *
 * @module
 */
import {
  checkpoint,
  concat,
  conv2d,
  full,
  gather,
  generator,
  stopGradient,
  type Tensor,
  tensor,
  where,
} from "../../lib/tensor/mod.ts";
import { makeInput } from "./cases.ts";

/** Operands, and values computed from them. */
export interface Graph {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
}

/** Larger values are not worth their time. */
const LARGEST = 1500;

/** A graph of about `length` operations. */
export function randomGraph(seed: number, length: number): Graph {
  const random = generator({ seed, stream: 11, step: 0 });
  const below = (n: number) => random.int(n);

  const shapes = [[4, 6], [6], [3, 4, 6], [1, 6], [4, 1], [2, 3, 4, 5], [24], [6, 5]];
  const inputs = shapes.map((shape, i) =>
    makeInput({ shape, dtype: "f32", low: -1, high: 1 }, 5000 + seed * 64 + i).tensor
  );
  const pool: Tensor[] = [...inputs];
  const pick = () => pool[Math.max(below(pool.length), below(pool.length))]!;
  const fits = (a: Tensor, b: Tensor) => {
    const rank = Math.max(a.rank, b.rank);
    return Array.from(
      { length: rank },
      (_, i) => [a.shape.at(-1 - i) ?? 1, b.shape.at(-1 - i) ?? 1],
    )
      .every(([m, n]) => m === n || m === 1 || n === 1);
  };
  const partner = (x: Tensor) => random.choice(pool.filter((y) => fits(x, y)));

  const moves: ((x: Tensor) => Tensor)[] = [
    (x) => x.reshape([x.size]),
    (x) => x.reshape(x.size % 6 === 0 ? [x.size / 6, 6] : [x.size, 1]),
    (x) => x.reshape(x.size % 4 === 0 ? [4, x.size / 4] : [1, x.size]),
    (x) => x.rank < 2 ? x : x.transpose(below(x.rank), below(x.rank)),
    (x) => x.permute(x.shape.map((_, i) => (i + 1) % x.rank)),
    (x) => x.unsqueeze(0).expand([1 + below(3), ...x.shape]),
    (x) => {
      const axis = below(x.rank);
      const start = below(x.shape[axis]!);
      return x.slice(axis, start, start + 1 + below(x.shape[axis]! - start));
    },
    (x) => x.pad(below(x.rank), below(2), 1 + below(2)),
  ];
  const maps: ((x: Tensor) => Tensor)[] = [
    (x) => x.tanh(),
    (x) => x.mul(x.sigmoid()),
    (x) => x.sin().add(0.5),
    (x) => x.abs().add(0.5).sqrt(),
    (x) => x.neg().tanh().exp(),
    (x) => x.add(partner(x)).mul(0.5),
    (x) => x.mul(partner(x)).tanh(),
    (x) => x.sub(partner(x)).mul(0.7),
    (x) => x.maximum(partner(x)),
    (x) => x.add(stopGradient(x).square().neg().exp()),
    (x) => where(inputs[3]!.lt(0).slice(1, 0, 1).reshape([1]), x, x.mul(0.25)),
    (x) => x.mul(full([1], 0.9)),
    (x) => checkpoint((x) => [x.sin().mul(x), x.cos()], x)[below(2)]!,
  ];
  const reductions: ((x: Tensor) => Tensor)[] = [
    (x) => x.mean(below(x.rank), random.chance(0.5)),
    (x) => x.mean(x.shape.flatMap((_, i) => random.chance(0.5) ? [i] : [])),
    (x) => x.max(below(x.rank), random.chance(0.5)),
    (x) => x.softmax(below(x.rank)),
    (x) => x.sub(x.mean(-1, true)).tanh(),
  ];
  const contractions: ((x: Tensor) => Tensor)[] = [
    (x) => x.rank < 2 ? x : x.matmul(x.transpose(-1, -2)).div(x.shape.at(-1)!),
    (x) => x.shape.at(-1) === 6 && x.rank > 1 ? x.matmul(inputs[7]!).mul(0.4) : x.sin(),
    (x) => {
      if (x.rank < 2) return x.unsqueeze(0).matmul(x.unsqueeze(1)).div(x.size).tanh();
      const [n] = x.shape.slice(-1) as [number];
      return x.matmul(full([n, 3], 0.3).add(x.mean())).div(n);
    },
    (x) => {
      const w = inputs[5]!.permute([2, 1, 0, 3]).slice(0, 0, 2).slice(1, 0, 2).mul(0.3);
      if (x.size % 4 !== 0) return x;
      return conv2d(x.reshape([1, x.size / 4, 2, 2]), w, { padding: [1, 0, 0, 1] });
    },
    (x) => {
      if (x.rank !== 2) return x;
      const rows = x.shape[0]!;
      return gather(x, tensor(Int32Array.of(0, rows - 1, rows >> 1, 0), [2, 2]));
    },
    (x) => x.rank < 1 ? x : concat([x, x.tanh(), x.mul(0.5)], below(x.rank)),
  ];

  const kinds = [moves, moves, maps, maps, maps, reductions, contractions];
  while (pool.length < inputs.length + length) {
    const x = pick();
    if (x.rank === 0) {
      pool.push(x.reshape([1]).add(1));
      continue;
    }
    const y = random.choice(random.choice(kinds))(x);
    if (y.size > 0 && y.size <= LARGEST && y !== x) pool.push(y);
  }
  const outputs = [pool.at(-1)!, pick(), pick(), pick()].filter((t) => !inputs.includes(t));
  return { inputs, outputs: [...new Set(outputs)] };
}
