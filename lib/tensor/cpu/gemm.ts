/**
 * The matrix product behind every contraction: a register tile of 6 rows by 8 columns, walked over
 * rows that lie anywhere.
 *
 * - `strided`: row i, step k of A is at `i * rowBytes + k * stepBytes`.
 * - `rows` (convolution forward and input gradient): A's rows are pixels; for each tap of the kernel a
 *   table says where the pixel under it begins, or that it lies in the padding (-1).
 * - `columns` (convolution weight gradient): A's columns are pixels, found by the same table.
 *
 * B is packed into panels of 8 columns. A is read in place: channels last makes each pixel a
 * contiguous run, so nothing is gathered.
 *
 * @module
 */
import type { Access } from "../kernel.ts";
import { emitLanes, emitLoad } from "./expression.ts";
import type { Compiled } from "./map.ts";
import { emitRowPointers, loadBase } from "./map.ts";
import { assemble, Code, hasRelaxedSimd, I32, type Local, V128 } from "./wasm.ts";

/** Rows of a register tile. */
const ROWS = 6;
/** Columns of a panel of B. */
export const PANEL = 8;
/** Steps of the inner dimension after which partial sums go back to memory, so that B stays in cache. */
const SEGMENT = 768;
/** Bytes of B that one pass over the rows may use: half of a usual second-level cache. */
const CACHE = 256 * 1024;

/** How A is found. */
export type Rows =
  | { readonly mode: "strided"; readonly rowBytes: number; readonly stepBytes: number }
  | { readonly mode: "rows"; readonly taps: number; readonly channels: number }
  | {
    readonly mode: "columns";
    readonly taps: number;
    readonly images: number;
    readonly pixels: number;
    readonly imageBytes: number;
  };

/** One family of products `C[b] = A[b] B[b]`. */
export interface Gemm {
  readonly batch: readonly number[];
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly rows: Rows;
  /** Strides over the batch axes, in elements. */
  readonly a: Access;
  readonly b: Access;
  readonly c: Access;
}

/** A compiled product; its arguments are the addresses of A, packed B, C, the table, and zeros. */
export interface CompiledGemm extends Compiled {
  /** The first row of C, over all batches, that a unit computes. */
  readonly firstRow: (unit: number) => number;
}

/** Columns of panels. */
export const panelsOf = (n: number): number => Math.ceil(n / PANEL);

/** Compiles a product. */
export function compileGemm(gemm: Gemm): CompiledGemm {
  const { batch, m, n, k, rows } = gemm;
  const blocks = Math.ceil(m / ROWS);
  const batches = batch.reduce((a, b) => a * b, 1);
  const plain = ({ strides, offset }: Access) => [strides, offset];
  const key = JSON.stringify([
    "gemm",
    batch,
    m,
    n,
    k,
    rows,
    plain(gemm.a),
    plain(gemm.b),
    plain(gemm.c),
  ]);
  return {
    key,
    bytes: () => emitGemm(gemm, blocks),
    units: batches * blocks,
    cost: batches * m * Math.max(n, 4) * k * 2 / 25,
    firstRow: (unit) => {
      const r = unit % blocks;
      return Math.floor(unit / blocks) * m + r * Math.floor(m / blocks) + Math.min(r, m % blocks);
    },
  };
}

/** Segments of the inner dimension, in the units of the mode: steps, taps or pixels. */
function segmentsOf({ rows, k }: Gemm): { count: number; size: number; steps: number } {
  if (rows.mode === "strided") {
    const count = Math.ceil(k / SEGMENT);
    const size = Math.ceil(k / count);
    return { count, size, steps: size };
  }
  if (rows.mode === "rows") {
    const size = Math.min(rows.taps, Math.max(1, Math.floor(SEGMENT / rows.channels)));
    return { count: Math.ceil(rows.taps / size), size, steps: size * rows.channels };
  }
  const size = Math.min(rows.images, Math.max(1, Math.floor(SEGMENT / rows.pixels)));
  return { count: Math.ceil(rows.images / size), size, steps: size * rows.pixels };
}

function emitGemm(gemm: Gemm, blocks: number): Uint8Array<ArrayBuffer> {
  const { batch, m, n, k, rows } = gemm;
  const segments = segmentsOf(gemm);
  const panels = panelsOf(n);
  const tail = n % PANEL;
  // Rows are dealt out evenly, so that no block is left with one or two.
  const few = Math.floor(m / blocks);
  const spare = m % blocks;
  const heights = spare === 0 ? [few] : [few, few + 1];
  const functions: { params: number; code: Code }[] = [];
  const tileOf = new Map<string, number>();
  for (const height of heights) {
    for (
      const width of new Set([...panels > 1 || tail === 0 ? [PANEL] : [], ...tail ? [tail] : []])
    ) {
      tileOf.set(`${height}x${width}`, functions.length);
      functions.push({ params: TILE_PARAMS, code: emitTile(gemm, height, width) });
    }
  }

  const code = new Code(3);
  const [args, begin, end] = [0, 1, 2];
  const aBase = loadBase(code, args, 0);
  const bBase = loadBase(code, args, 1);
  const cBase = loadBase(code, args, 2);
  const table = loadBase(code, args, 3);
  const zeros = loadBase(code, args, 4);
  const unit = code.local(I32);
  const b = code.local(I32);
  const r = code.local(I32);
  const row0 = code.local(I32);
  const height = code.local(I32);
  const segment = code.local(I32);
  const from = code.local(I32);
  const count = code.local(I32);
  const aPtr = code.local(I32);
  const bPtr = code.local(I32);
  const cPtr = code.local(I32);
  const tPtr = code.local(I32);
  const panel = code.local(I32);
  const group = code.local(I32);
  const stop = code.local(I32);
  const perGroup = Math.max(1, Math.floor(CACHE / (segments.steps * PANEL * 4)));
  const total = rows.mode === "strided" ? k : rows.mode === "rows" ? rows.taps : rows.images;
  const stepsPer = segments.steps / segments.size;

  const callTiles = () => {
    const withHeight = (h: number) => {
      const call = (width: number) => {
        for (const p of [aPtr, tPtr, zeros, bPtr, cPtr, segment, from, count]) code.get(p);
        code.call(tileOf.get(`${h}x${width}`)!);
      };
      code.get(group).set(panel);
      code.for(panel, { local: stop }, 1, () => {
        if (!tail) call(PANEL);
        else if (panels === 1) call(tail);
        else code.get(panel).i32(panels - 1).op("i32.eq").if(() => call(tail), () => call(PANEL));
        code.bump(bPtr, k * PANEL * 4);
        code.bump(cPtr, PANEL * 4);
      });
    };
    if (heights.length === 1) withHeight(few);
    else {
      code.get(height).i32(few).op("i32.eq").if(() => withHeight(few), () => withHeight(few + 1));
    }
  };

  code.i32(0).set(segment);
  code.for(segment, segments.count, 1, () => {
    code.get(segment).i32(segments.size).op("i32.mul").set(from);
    code.i32(total).get(from).op("i32.sub").set(count);
    code.get(count).i32(segments.size).op("i32.gt_s").if(() => code.i32(segments.size).set(count));
    code.i32(0).set(group);
    code.for(group, panels, perGroup, () => {
      code.get(group).i32(perGroup).op("i32.add").set(stop);
      code.get(stop).i32(panels).op("i32.gt_s").if(() => code.i32(panels).set(stop));
      code.get(begin).set(unit);
      code.for(unit, { local: end }, 1, () => {
        code.get(unit).i32(blocks).op("i32.div_u").set(b);
        code.get(unit).i32(blocks).op("i32.rem_u").set(r);
        // The first `spare` blocks have a row more than the others.
        code.get(r).i32(spare).get(r).i32(spare).op("i32.lt_s").op("select").set(row0);
        code.get(row0).get(r).i32(few).op("i32.mul").op("i32.add").set(row0);
        code.i32(few).get(r).i32(spare).op("i32.lt_s").op("i32.add").set(height);
        emitRowPointers(
          code,
          [gemm.a, packedB(gemm), gemm.c],
          batch,
          [aBase, bBase, cBase],
          [aPtr, bPtr, cPtr],
          b,
        );
        // C: this row, the first panel of the group.
        code.get(cPtr).get(row0).i32(n * 4).op("i32.mul").op("i32.add");
        code.get(group).i32(PANEL * 4).op("i32.mul").op("i32.add").set(cPtr);
        // B: the group's first panel, from this segment's first step on.
        code.get(bPtr).get(group).i32(k * PANEL * 4).op("i32.mul").op("i32.add");
        code.get(from).i32(stepsPer * PANEL * 4).op("i32.mul").op("i32.add").set(bPtr);
        if (rows.mode === "strided") {
          code.get(aPtr).get(row0).i32(rows.rowBytes).op("i32.mul").op("i32.add");
          code.get(from).i32(rows.stepBytes).op("i32.mul").op("i32.add").set(aPtr);
        } else if (rows.mode === "rows") {
          code.get(table).get(from).i32(m).op("i32.mul").get(row0).op("i32.add");
          code.i32(2).op("i32.shl").op("i32.add").set(tPtr);
        } else {
          // The batch is the taps: each has a table of its own, and A is the same for all.
          code.get(aPtr).get(row0).i32(2).op("i32.shl").op("i32.add");
          code.get(from).i32(rows.imageBytes).op("i32.mul").op("i32.add").set(aPtr);
          code.get(table).get(b).i32(rows.pixels * 4).op("i32.mul").op("i32.add").set(tPtr);
        }
        callTiles();
      });
    });
  });
  functions.push({ params: 3, code });
  return assemble(functions);
}

/** Packed B's walk over the batch: a block of panels for each distinct B. */
function packedB({ batch, b, n, k }: Gemm): Access {
  const strides = new Array<number>(batch.length).fill(0);
  let step = panelsOf(n) * k * PANEL;
  for (let i = batch.length - 1; i >= 0; i--) {
    // Axes over which B repeats share one block.
    if (b.strides[i] === 0) continue;
    strides[i] = step;
    step *= batch[i]!;
  }
  return { slot: 0, dtype: "f32", strides, offset: 0 };
}

const TILE_PARAMS = 8;

/** Computes `height` rows by `width` columns over one segment. */
function emitTile(gemm: Gemm, height: number, width: number): Code {
  const { n, rows } = gemm;
  const code = new Code(TILE_PARAMS);
  const [a, table, zeros, b, c, accumulate, , count] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
  const vectors = Math.ceil(width / 4);
  const accs = Array.from(
    { length: height },
    () => Array.from({ length: vectors }, () => code.local(V128)),
  );
  const bs = Array.from({ length: vectors }, () => code.local(V128));
  const av = code.local(V128);
  const k = code.local(I32);

  code.get(accumulate).if(() => {
    accs.forEach((row, i) =>
      row.forEach((acc, v) => code.get(c).memory("v128.load", (i * n + 4 * v) * 4).set(acc))
    );
  });

  /** One step: `at(i)` leaves the address of row i's element and returns an offset to add to it. */
  const step = (bOffset: number, at: (i: number) => number) => {
    bs.forEach((local, v) => code.get(b).memory("v128.load", bOffset + 16 * v).set(local));
    accs.forEach((row, i) => {
      const offset = at(i);
      code.memory("v128.load32_splat", offset).set(av);
      row.forEach((acc, v) => {
        if (hasRelaxedSimd) {
          code.get(av).get(bs[v]!).get(acc).op("f32x4.relaxed_madd").set(acc);
        } else {
          code.get(acc).get(av).get(bs[v]!).op("f32x4.mul").op("f32x4.add").set(acc);
        }
      });
    });
  };
  /** `steps` steps, four at a time: `one(u)` is step u of a round, `advance(n)` moves on by n steps. */
  const unrolled = (
    steps: { local: Local } | number,
    one: (u: number) => void,
    advance: (n: number) => void,
  ) => {
    const round = (n: number) => {
      for (let u = 0; u < n; u++) one(u);
      advance(n);
    };
    code.i32(0).set(k);
    if (typeof steps === "number") {
      if (steps >= 4) code.for(k, steps - 3, 4, () => round(4));
      if (steps % 4) code.for(k, steps, 1, () => round(1));
    } else {
      const limit = code.local(I32);
      code.get(steps.local).i32(3).op("i32.sub").set(limit);
      code.for(k, { local: limit }, 4, () => round(4));
      code.for(k, steps, 1, () => round(1));
    }
  };
  /** `steps` steps along rows that are contiguous in k, through one pointer per row. */
  const along = (pointers: readonly Local[], steps: { local: Local } | number) =>
    unrolled(steps, (u) => {
      step(32 * u, (i) => {
        code.get(pointers[i]!);
        return 4 * u;
      });
    }, (n) => {
      code.bump(b, 32 * n);
      pointers.forEach((p) => code.bump(p, 4 * n));
    });

  if (rows.mode === "strided" && rows.rowBytes === 4) {
    // Transposed A: a step's elements are neighbours.
    unrolled({ local: count }, (u) => {
      step(32 * u, (i) => {
        code.get(a);
        return u * rows.stepBytes + 4 * i;
      });
    }, (n) => {
      code.bump(b, 32 * n);
      code.bump(a, n * rows.stepBytes);
    });
  } else if (rows.mode === "strided") {
    const pointers = accs.map((_, i) => {
      const p = code.local(I32);
      code.get(a).i32(i * rows.rowBytes).op("i32.add").set(p);
      return p;
    });
    if (rows.stepBytes === 4) along(pointers, { local: count });
    else {
      code.i32(0).set(k);
      code.for(k, { local: count }, 1, () => {
        step(0, (i) => {
          code.get(pointers[i]!);
          return 0;
        });
        code.bump(b, 32);
        pointers.forEach((p) => code.bump(p, rows.stepBytes));
      });
    }
  } else if (rows.mode === "rows") {
    const tap = code.local(I32);
    const offset = code.local(I32);
    const all = code.local(I32);
    const pointers = accs.map(() => code.local(I32));
    code.i32(0).set(tap);
    code.for(tap, { local: count }, 1, () => {
      code.i32(-1).set(all);
      pointers.forEach((p, i) => {
        code.get(table).memory("i32.load", 4 * i).set(offset);
        code.get(all).get(offset).op("i32.and").set(all);
        code.get(zeros).get(a).get(offset).op("i32.add");
        code.get(offset).i32(0).op("i32.lt_s").op("select").set(p);
      });
      // All rows in the padding: nothing to add.
      code.get(all).i32(-1).op("i32.eq").if(
        () => code.bump(b, 32 * rows.channels),
        () => along(pointers, rows.channels),
      );
      code.bump(table, gemm.m * 4);
    });
  } else {
    const image = code.local(I32);
    const offset = code.local(I32);
    const pointer = code.local(I32);
    code.i32(0).set(image);
    code.for(image, { local: count }, 1, () => {
      unrolled(rows.pixels, (u) => {
        code.get(table).memory("i32.load", 4 * u).set(offset);
        code.get(zeros).get(a).get(offset).op("i32.add");
        code.get(offset).i32(0).op("i32.lt_s").op("select").set(pointer);
        step(32 * u, (i) => {
          code.get(pointer);
          return 4 * i;
        });
      }, (n) => {
        code.bump(b, 32 * n);
        code.bump(table, 4 * n);
      });
      code.bump(table, -4 * rows.pixels);
      code.bump(a, rows.imageBytes);
    });
  }

  accs.forEach((row, i) =>
    row.forEach((acc, v) => {
      const valid = Math.min(4, width - 4 * v);
      const offset = (i * n + 4 * v) * 4;
      if (valid === 4) code.get(c).get(acc).memory("v128.store", offset);
      else for (let l = 0; l < valid; l++) code.get(c).get(acc).storeLane32(l, offset + 4 * l);
    })
  );
  return code;
}

/** How B is found: element (outer, inner, n) of its two-part inner dimension, in elements. */
export interface Packing {
  readonly batch: readonly number[];
  readonly n: number;
  readonly outer: number;
  readonly inner: number;
  readonly outerStride: number;
  readonly innerStride: number;
  readonly columnStride: number;
  /** Strides over the batch axes. */
  readonly b: Access;
}

/** Compiles the packing of B into panels: `[batch][panel][outer * inner][8]`, zeros beyond the last column. */
export function compilePack(packing: Packing): Compiled {
  const { batch, n, outer, inner, outerStride, innerStride, columnStride, b } = packing;
  const panels = panelsOf(n);
  const tail = n % PANEL;
  const batches = batch.reduce((x, y) => x * y, 1);
  const { strides, offset, dtype } = b;
  const shape = [batch, n, outer, inner, outerStride, innerStride, columnStride];
  const key = JSON.stringify(["pack", shape, strides, offset, dtype]);
  const width = dtype === "f16" ? 2 : 4;

  const bytes = () => {
    const code = new Code(3);
    const [args, begin, end] = [0, 1, 2];
    const source = loadBase(code, args, 0);
    const packed = loadBase(code, args, 1);
    const unit = code.local(I32);
    const base = code.local(I32);
    const panel = code.local(I32);
    const at = code.local(I32);
    const to = code.local(I32);
    const o = code.local(I32);
    const i = code.local(I32);
    const value = code.local(V128);
    const four = (first: number, valid: number) => {
      if (valid <= 0) code.f32x4(0);
      else if (columnStride === 1 && valid >= 4) {
        code.get(at);
        emitLoad(code, dtype, 4, first * width);
      } else {
        emitLanes(code, dtype, (lane) => {
          code.get(at);
          return (first + Math.min(lane, valid - 1)) * columnStride * width;
        });
        if (valid < 4) {
          code.lanes(-1, valid > 1 ? -1 : 0, valid > 2 ? -1 : 0, 0).op("v128.and");
        }
      }
      code.set(value);
      code.get(to).get(value).memory("v128.store", first * 4);
    };
    const copy = (valid: number) => {
      code.i32(0).set(o);
      code.for(o, outer, 1, () => {
        code.get(base).get(o).i32(outerStride * width).op("i32.mul").op("i32.add").set(at);
        code.i32(0).set(i);
        code.for(i, inner, 1, () => {
          four(0, Math.min(4, valid));
          four(4, Math.min(4, valid - 4));
          code.bump(at, innerStride * width);
          code.bump(to, PANEL * 4);
        });
      });
    };
    code.get(begin).set(unit);
    code.for(unit, { local: end }, 1, () => {
      code.get(unit).i32(panels).op("i32.div_u").set(o);
      emitRowPointers(code, [b], batch, [source], [base], o);
      code.get(unit).i32(panels).op("i32.rem_u").set(panel);
      code.get(base).get(panel).i32(PANEL * columnStride * width).op("i32.mul").op("i32.add");
      code.set(base);
      code.get(packed).get(unit).i32(outer * inner * PANEL * 4).op("i32.mul").op("i32.add").set(to);
      if (!tail) copy(PANEL);
      else if (panels === 1) copy(tail);
      else {
        code.get(panel).i32(panels - 1).op("i32.eq").if(() => copy(tail), () => copy(PANEL));
      }
    });
    return assemble([{ params: 3, code }]);
  };
  return { key, bytes, units: batches * panels, cost: batches * n * outer * inner * 0.6 };
}
