/**
 * One tiled matrix product for everything that contracts: `out[z, row, column] = sum_k a * b`.
 *
 * A workgroup computes a tile of the output. Per step it brings a strip of both operands into
 * workgroup memory, k-major so that a thread picks four rows or columns as one vector, and every
 * thread adds the outer products of its vectors to accumulators that are named values: all loops but
 * the one over k are unrolled here, as drivers must guard loops and indexed arrays.
 *
 * What the operands are is told by {@link Operand}: strided matrices for a matmul, gathered patches
 * for a convolution. A product with few tiles and a long k is cut along k into parts, which a
 * reduction then adds in fixed order.
 *
 * @module
 */
import type { Access, Epilogue } from "../kernel.ts";
import { finishOutput, reduceDispatches, type Scratch } from "./reduce.ts";
import { block, type Dispatch, Shader } from "./shader.ts";
import { contiguousStrides, stridesOf, Walk } from "./walk.ts";

/** How to read one operand. `row` is the index that is not contracted. */
export interface Operand {
  /** The index along which neighbours lie side by side in memory. */
  readonly contiguous: "row" | "k";
  /** Declares, under names that end in `tag`, what reading needs to know of u32 `row`. */
  row(row: string, tag: string): readonly string[];
  /** Declares, under names that end in `tag`, what reading needs to know of u32 `k`. */
  column(k: string, tag: string): readonly string[];
  /** The f32 element at a declared row and a declared k. */
  element(shader: Shader, row: string, column: string): string;
  /** Functions that `element` calls. */
  functions?(shader: Shader): string;
}

/** A batch of products with its output. */
export interface Gemm {
  readonly name: string;
  readonly batch: readonly number[];
  readonly rows: number;
  readonly columns: number;
  readonly k: number;
  /** The operands, given the names of their u32 batch offsets. */
  readonly a: Operand;
  readonly b: Operand;
  /** Strides over the batch of a and b. */
  readonly aBatch: readonly number[];
  readonly bBatch: readonly number[];
  /** Sizes of the output's axes: batch, then axes whose product is rows, then columns. */
  readonly shape: readonly number[];
  readonly output: Access;
  readonly epilogue?: Epilogue;
}

/** Rows and columns of a workgroup's tile, its depth, and of a thread's share of it. */
interface Tile {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  readonly perThread: number;
}

const LARGE: Tile = { rows: 128, columns: 128, depth: 8, perThread: 8 };
const MEDIUM: Tile = { rows: 64, columns: 64, depth: 16, perThread: 4 };
const SMALL: Tile = { rows: 32, columns: 32, depth: 16, perThread: 4 };
const TALL: Tile = { rows: 64, columns: 16, depth: 16, perThread: 4 };
const WIDE: Tile = { rows: 16, columns: 64, depth: 16, perThread: 4 };

/** Workgroups that keep a large GPU busy. */
const BUSY_GROUPS = 128;

/** Generates a product, in two steps where it is cut along k. */
export function gemmDispatches(gemm: Gemm, scratch: Scratch): Dispatch[] {
  const batches = gemm.batch.reduce((a, b) => a * b, 1);
  const tile = chooseTile(gemm.rows, gemm.columns, batches);
  const tiles = batches * Math.ceil(gemm.rows / tile.rows) *
    Math.ceil(gemm.columns / tile.columns);
  const parts = Math.min(
    Math.ceil(BUSY_GROUPS / tiles),
    Math.floor(gemm.k / 256),
    64,
  );
  if (parts < 2 || tiles > BUSY_GROUPS / 2) return [generate(gemm, tile, Math.max(1, gemm.k))];
  const chunk = Math.ceil(gemm.k / parts / tile.depth) * tile.depth;
  const count = Math.ceil(gemm.k / chunk);
  const size = batches * gemm.rows * gemm.columns;
  const slot = scratch(size * count * 4);
  const partial: Access = {
    slot,
    dtype: "f32",
    strides: contiguousStrides(gemm.shape),
    offset: 0,
  };
  const { epilogue, ...product } = gemm;
  return [
    generate({ ...product, output: partial }, tile, chunk),
    ...reduceDispatches({
      kind: "reduce",
      name: gemm.name,
      shape: [...gemm.shape, count],
      reduced: 1,
      combine: "sum",
      inputs: [{ ...partial, strides: [...partial.strides, size] }],
      expr: { kind: "load", type: "f32", input: 0 },
      output: gemm.output,
      ...(epilogue === undefined ? {} : { epilogue }),
    }, scratch),
  ];
}

function chooseTile(rows: number, columns: number, batches: number): Tile {
  if (columns <= 16 && rows > 16) return TALL;
  if (rows <= 16 && columns > 16) return WIDE;
  const tiles = (tile: Tile) =>
    batches * Math.ceil(rows / tile.rows) * Math.ceil(columns / tile.columns);
  if (rows <= 32 || columns <= 32 || tiles(MEDIUM) < BUSY_GROUPS / 4) return SMALL;
  const fits = rows % 128 === 0 || rows > 1024;
  const fitsColumns = columns % 128 === 0 || columns > 1024;
  return fits && fitsColumns && tiles(LARGE) >= 2 * BUSY_GROUPS ? LARGE : MEDIUM;
}

/** One shader; with `chunk` below k, the output holds one product per chunk, one after another. */
function generate(gemm: Gemm, tile: Tile, chunk: number): Dispatch {
  const { rows, columns, k, output, epilogue } = gemm;
  const across = tile.columns / tile.perThread;
  const threads = (tile.rows / tile.perThread) * across;
  const groups = tile.perThread / 4;
  const parts = Math.max(1, Math.ceil(k / chunk));
  const rowTiles = Math.ceil(rows / tile.rows);
  const columnTiles = Math.ceil(columns / tile.columns);
  const batches = gemm.batch.reduce((a, b) => a * b, 1);
  const shader = new Shader(output);

  const batch = new Walk(gemm.batch, [gemm.aBatch, gemm.bBatch]);
  const main: string[] = [
    `let columnTile = group % ${columnTiles}u * ${tile.columns}u;`,
    `let rowTile = group / ${columnTiles}u % ${rowTiles}u * ${tile.rows}u;`,
    parts > 1 ? `let part = group / ${columnTiles * rowTiles}u % ${parts}u;` : "const part = 0u;",
    `let z = group / ${columnTiles * rowTiles * parts}u;`,
    ...batch.coordinates("z", "z"),
    `let a_batch = ${batch.address(0, "z", 0)};`,
    `let b_batch = ${batch.address(1, "z", 0)};`,
    `let down = lane / ${across}u * 4u;`,
    `let over = lane % ${across}u * 4u;`,
  ];

  const a = stage(shader, gemm.a, "a", rows, tile.rows, "rowTile", tile.depth, threads, k);
  const b = stage(shader, gemm.b, "b", columns, tile.columns, "columnTile", tile.depth, threads, k);
  main.push(...a.prelude, ...b.prelude);
  for (let i = 0; i < tile.perThread; i++) {
    for (let j = 0; j < groups; j++) main.push(`var acc${i}_${j} = vec4<f32>();`);
  }

  const [start, end] = parts > 1
    ? [`part * ${chunk}u`, `min(part * ${chunk}u + ${chunk}u, ${k}u)`]
    : ["0u", `${k}u`];
  main.push(
    `let end = ${end};`,
    `for (var k0 = ${start}; k0 < end; k0 += ${tile.depth}u) {`,
    ...a.load,
    ...b.load,
    "  workgroupBarrier();",
  );
  for (let step = 0; step < tile.depth; step++) {
    main.push("  {");
    for (let g = 0; g < groups; g++) {
      main.push(
        `    let a${g} = a_tile[${step * a.pitch + g * a.pitch2}u + lane / ${across}u];`,
        `    let b${g} = b_tile[${step * b.pitch + g * b.pitch2}u + lane % ${across}u];`,
      );
    }
    for (let i = 0; i < tile.perThread; i++) {
      for (let j = 0; j < groups; j++) {
        main.push(`    acc${i}_${j} += a${i >> 2}.${"xyzw"[i & 3]} * b${j};`);
      }
    }
    main.push("  }");
  }
  main.push("  workgroupBarrier();", "}");

  for (let i = 0; i < tile.perThread; i++) {
    const row = `rowTile + down + ${(i >> 2) * (tile.rows / groups) + (i & 3)}u`;
    for (let j = 0; j < groups; j++) {
      const column = `columnTile + over + ${j * (tile.columns / groups)}u`;
      main.push(`put(part, z, ${row}, ${column}, acc${i}_${j});`);
    }
  }

  const guards = [
    ...(rows % tile.rows === 0 ? [] : [`row >= ${rows}u`]),
    ...(columns % tile.columns === 0 ? [] : [`column >= ${columns}u`]),
  ];
  const extra = epilogue?.inputs ?? [];
  const walk = new Walk(gemm.shape, stridesOf([output, ...extra]));
  const finish = parts > 1
    ? [shader.store(`part * ${batches * rows * columns}u + i`, "acc", "f32")]
    : [
      ...walk.coordinates("i", "c"),
      ...finishOutput(
        shader,
        "f32",
        walk.address(0, "c", output.offset),
        epilogue,
        (i) => walk.address(i + 1, "c", extra[i]!.offset),
      ),
    ];
  const declarations = `var<workgroup> a_tile: array<vec4<f32>, ${a.pitch * tile.depth}>;
var<workgroup> b_tile: array<vec4<f32>, ${b.pitch * tile.depth}>;
${gemm.a.functions?.(shader) ?? ""}${gemm.b.functions?.(shader) ?? ""}\
fn put_one(part: u32, z: u32, row: u32, column: u32, acc: f32) {
${block(guards.length > 0 ? [`if (${guards.join(" || ")}) { return; }`] : [])}\
${block([`let i = (z * ${rows}u + row) * ${columns}u + column;`, ...finish])}}
fn put(part: u32, z: u32, row: u32, column: u32, acc: vec4<f32>) {
${
    block(
      ["x", "y", "z", "w"].map((lane, i) => `put_one(part, z, row, column + ${i}u, acc.${lane});`),
    )
  }}
`;
  return shader.finish(
    gemm.name,
    batches * parts * rowTiles * columnTiles,
    threads,
    main,
    declarations,
  );
}

/**
 * Statements that bring one operand's strip of a tile into workgroup memory. Neighbouring threads
 * follow the operand's contiguous index; a thread writes whole vectors of four rows, as writing
 * single components of a shared vector would be a race.
 */
function stage(
  shader: Shader,
  operand: Operand,
  name: string,
  rows: number,
  tileRows: number,
  origin: string,
  depth: number,
  threads: number,
  k: number,
) {
  const vectors = tileRows / 4;
  // One vector of padding spreads a column of the strip over the memory's banks.
  const pitch = vectors + 1;
  const prelude: string[] = [];
  const load: string[] = [];
  for (let q = 0; q < vectors * depth; q += threads) {
    const tag = `${name}${q}`;
    const index = q === 0 ? "lane" : `(lane + ${q}u)`;
    const [along, vector] = operand.contiguous === "k"
      ? [`${index} % ${depth}u`, `${index} / ${depth}u`]
      : [`${index} / ${vectors}u`, `${index} % ${vectors}u`];
    prelude.push(`let k_${tag} = ${along};`, `let v_${tag} = ${vector};`);
    for (let i = 0; i < 4; i++) {
      const row = `${origin} + v_${tag} * 4u + ${i}u`;
      prelude.push(
        `let row_${tag}_${i} = ${rows % tileRows === 0 ? row : `min(${row}, ${rows - 1}u)`};`,
        ...operand.row(`row_${tag}_${i}`, `${tag}_${i}`),
      );
    }
    const place = `${name}_tile[k_${tag} * ${pitch}u + v_${tag}]`;
    const elements = [0, 1, 2, 3].map((i) => operand.element(shader, `${tag}_${i}`, tag));
    const checked = k % depth !== 0;
    const excess = vectors * depth - q < threads;
    load.push(
      excess ? `  if (lane < ${vectors * depth - q}u) {` : "  {",
      `    let k_here = k0 + k_${tag};`,
      "    var v = vec4<f32>();",
      ...(checked ? [`    if (k_here < ${k}u) {`] : []),
      ...operand.column("k_here", tag).map((line) => `    ${line}`),
      `    v = vec4<f32>(${elements.join(", ")});`,
      ...(checked ? ["    }"] : []),
      `    ${place} = v;`,
      "  }",
    );
  }
  return { prelude, load, pitch, pitch2: vectors / (tileRows >= 128 ? 2 : 1) };
}

/** A strided matrix: element `offset + row * rowStride + k * kStride`. */
export function matrix(
  access: Access,
  batchOffset: string,
  rowStride: number,
  kStride: number,
): Operand {
  return {
    contiguous: rowStride === 1 && kStride !== 1 ? "row" : "k",
    row: (row, tag) => [
      `let at_${tag} = ${batchOffset} + ${access.offset}u + ${row} * ${rowStride}u;`,
    ],
    column: (k, tag) => [`let step_${tag} = ${k} * ${kStride}u;`],
    element: (shader, row, column) => shader.load(access, `at_${row} + step_${column}`),
  };
}
