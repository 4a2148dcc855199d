/**
 * Scalar expressions as WebAssembly SIMD: four elements at a time, every node computed once.
 *
 * @module
 */
import type { BinaryOp, DType, Expr, UnaryOp } from "../kernel.ts";
import { type Code, hasRelaxedSimd, type Local, V128 } from "./wasm.ts";

/** How an expression reaches what lies outside it; each call leaves one vector on the stack. */
export interface Reader {
  load(input: number): void;
  /** Element `index` (a local of four i32) of an input. */
  take(input: number, index: Local): void;
  acc(): void;
}

/** Leaves the value of an expression on the stack. */
export function emitExpr(code: Code, root: Expr, reader: Reader): void {
  const uses = new Map<Expr, number>();
  const count = (e: Expr) => {
    const n = (uses.get(e) ?? 0) + 1;
    uses.set(e, n);
    if (n === 1) childrenOf(e).forEach(count);
  };
  count(root);
  const locals = new Map<Expr, Local>();
  const emit = (e: Expr): void => {
    const known = locals.get(e);
    if (known !== undefined) {
      code.get(known);
      return;
    }
    emitOne(code, e, reader, emit, (x) => uses.get(x)! > 1);
    if (uses.get(e)! > 1 && e.kind !== "const") {
      const local = code.local(V128);
      locals.set(e, local);
      code.tee(local);
    }
  };
  emit(root);
}

/**
 * An expression spelled as a list of steps, every distinct value once: equal lists compute the same.
 * (Spelled as a tree, an expression that shares its parts grows exponentially.)
 */
export function spell(root: Expr): string[] {
  const names = new Map<Expr, number>();
  const numbers = new Map<string, number>();
  const visit = (e: Expr): number => {
    const known = names.get(e);
    if (known !== undefined) return known;
    const parts = childrenOf(e).map(visit);
    const detail = e.kind === "const"
      ? Object.is(e.value, -0) ? "-0" : e.value
      : e.kind === "load" || e.kind === "take"
      ? e.input
      : e.kind === "unary" || e.kind === "binary"
      ? e.op
      : "";
    const text = [e.kind, e.type, detail, ...parts].join(" ");
    const name = numbers.get(text) ?? numbers.size;
    numbers.set(text, name);
    names.set(e, name);
    return name;
  };
  visit(root);
  return [...numbers.keys()];
}

/** The nodes that a node is computed from. */
function childrenOf(e: Expr): readonly Expr[] {
  switch (e.kind) {
    case "const":
    case "load":
    case "acc":
      return [];
    case "take":
      return [e.index];
    case "unary":
    case "cast":
      return [e.a];
    case "binary":
      return [e.a, e.b];
    case "where":
      return [e.test, e.a, e.b];
  }
}

function emitOne(
  code: Code,
  e: Expr,
  reader: Reader,
  emit: (e: Expr) => void,
  isShared: (e: Expr) => boolean,
): void {
  switch (e.kind) {
    case "const":
      if (e.type === "f32") code.f32x4(e.value);
      else code.i32x4(e.value);
      return;
    case "load":
      reader.load(e.input);
      return;
    case "acc":
      reader.acc();
      return;
    case "take": {
      const index = code.local(V128);
      emit(e.index);
      code.set(index);
      reader.take(e.input, index);
      return;
    }
    case "unary":
      emit(e.a);
      if (e.type === "i32") emitIntegerUnary(code, e.op);
      else UNARY[e.op](code);
      return;
    case "binary":
      emitBinary(code, e, emit, isShared);
      return;
    case "where":
      emit(e.a);
      emit(e.b);
      emit(e.test);
      // "Not zero": as a float, so that -0 counts as zero.
      if (e.test.type === "f32") code.f32x4(0).op("f32x4.ne");
      else code.i32x4(0).op("i32x4.ne");
      code.op("v128.bitselect");
      return;
    case "cast":
      emit(e.a);
      code.op(e.type === "f32" ? "f32x4.convert_i32x4_s" : "i32x4.trunc_sat_f32x4_s");
      return;
  }
}

function emitBinary(
  code: Code,
  e: Expr & { kind: "binary" },
  emit: (e: Expr) => void,
  isShared: (e: Expr) => boolean,
): void {
  // a * b + c in one rounding where the machine has it, unless the product is wanted by itself too.
  if (
    hasRelaxedSimd && e.type === "f32" && e.op === "add" && e.a.kind === "binary" &&
    e.a.op === "mul" && !isShared(e.a)
  ) {
    emit(e.a.a);
    emit(e.a.b);
    emit(e.b);
    code.op("f32x4.relaxed_madd");
    return;
  }
  emit(e.a);
  emit(e.b);
  if (e.type === "i32") emitIntegerBinary(code, e.op);
  else emitFloatBinary(code, e.op);
}

function emitFloatBinary(code: Code, op: BinaryOp): void {
  if (op === "lt" || op === "eq") code.op(`f32x4.${op}`).f32x4(1).op("v128.and");
  else code.op(`f32x4.${op}`);
}

function emitIntegerBinary(code: Code, op: BinaryOp): void {
  switch (op) {
    case "add":
    case "sub":
    case "mul":
      code.op(`i32x4.${op}`);
      return;
    case "max":
    case "min":
      code.op(`i32x4.${op}_s`);
      return;
    case "lt":
      code.op("i32x4.lt_s").i32x4(1).op("v128.and");
      return;
    case "eq":
      code.op("i32x4.eq").i32x4(1).op("v128.and");
      return;
    case "div":
      throw new TypeError("div: integers are not divided on the device; cast to f32 first");
  }
}

function emitIntegerUnary(code: Code, op: UnaryOp): void {
  if (op === "neg" || op === "abs") code.op(`i32x4.${op}`);
  else if (op !== "floor") throw new TypeError(`${op}: needs f32; cast the integers first`);
}

/** Multiplies the top of the stack by `x` and adds `c`: one step of Horner's rule. */
function horner(code: Code, x: Local, c: number): void {
  code.get(x);
  if (hasRelaxedSimd) code.f32x4(c).op("f32x4.relaxed_madd");
  else code.op("f32x4.mul").f32x4(c).op("f32x4.add");
}

/** The value of a polynomial, highest power first, at the local `x`. */
function polynomial(code: Code, x: Local, coefficients: readonly number[]): void {
  code.f32x4(coefficients[0]!);
  for (const c of coefficients.slice(1)) horner(code, x, c);
}

/** e^x by 2^n e^r, r in [-ln2/2, ln2/2]: Cephes' expf. `[x] -> [e^x]`. */
function emitExp(code: Code): void {
  const x = code.local(V128);
  const n = code.local(V128);
  const r = code.local(V128);
  const half = code.local(V128);
  // Beyond these the result is 0 or infinite anyway, and the exponent arithmetic stays in range.
  code.f32x4(-104).op("f32x4.pmax").f32x4(89).op("f32x4.pmin").tee(x);
  code.f32x4(1.4426950408889634).op("f32x4.mul").op("f32x4.nearest").set(n);
  code.get(x).get(n).f32x4(0.693359375).op("f32x4.mul").op("f32x4.sub");
  code.get(n).f32x4(-2.12194440e-4).op("f32x4.mul").op("f32x4.sub").set(r);
  polynomial(code, r, [
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
    1,
    1,
  ]);
  // 2^n in two factors, so that neither overflows where the result does not.
  code.get(n).op(hasRelaxedSimd ? "i32x4.relaxed_trunc_f32x4_s" : "i32x4.trunc_sat_f32x4_s").tee(n)
    .i32(1).op("i32x4.shr_s").tee(half);
  code.i32x4(127).op("i32x4.add").i32(23).op("i32x4.shl").op("f32x4.mul");
  code.get(n).get(half).op("i32x4.sub").i32x4(127).op("i32x4.add").i32(23).op("i32x4.shl");
  code.op("f32x4.mul");
}

/** ln x: Cephes' logf on the mantissa in [sqrt(1/2), sqrt(2)). `[x] -> [ln x]`. */
function emitLog(code: Code): void {
  const x = code.local(V128);
  const bits = code.local(V128);
  const e = code.local(V128);
  const m = code.local(V128);
  const z = code.local(V128);
  const y = code.local(V128);
  // Subnormal numbers have no exponent to read: scale them up first.
  const tiny = code.local(V128);
  code.tee(x).f32x4(1.17549435e-38).op("f32x4.lt").set(tiny);
  code.get(x).f32x4(8388608).op("f32x4.mul").get(x).get(tiny).op("v128.bitselect").set(bits);
  code.get(bits).i32(23).op("i32x4.shr_u").i32x4(126).op("i32x4.sub");
  code.get(tiny).i32x4(23).op("v128.and").op("i32x4.sub");
  code.op("f32x4.convert_i32x4_s").set(e);
  code.get(bits).i32x4(0x007fffff).op("v128.and").i32x4(0x3f000000).op("v128.or").tee(m);
  // m in [0.5, 1): double it below sqrt(1/2).
  code.f32x4(0.7071067811865476).op("f32x4.lt").set(z);
  code.get(e).get(z).f32x4(1).op("v128.and").op("f32x4.sub").set(e);
  code.get(m).get(z).get(m).op("v128.and").op("f32x4.add").f32x4(1).op("f32x4.sub").set(m);
  code.get(m).get(m).op("f32x4.mul").set(z);
  polynomial(code, m, [
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
  ]);
  code.get(m).op("f32x4.mul").get(z).op("f32x4.mul").set(y);
  code.get(y).get(e).f32x4(-2.12194440e-4).op("f32x4.mul").op("f32x4.add");
  code.get(z).f32x4(0.5).op("f32x4.mul").op("f32x4.sub");
  code.get(m).op("f32x4.add");
  code.get(e).f32x4(0.693359375).op("f32x4.mul").op("f32x4.add").set(y);
  // ln 0 = -inf, ln inf = inf, ln of a negative number or NaN = NaN.
  code.f32x4(-Infinity).get(y).get(x).f32x4(0).op("f32x4.eq").op("v128.bitselect").set(y);
  code.get(x).get(y).get(x).f32x4(Infinity).op("f32x4.eq").op("v128.bitselect").set(y);
  code.get(y).f32x4(NaN);
  code.get(x).f32x4(0).op("f32x4.lt").get(x).get(x).op("f32x4.ne").op("v128.or").op("v128.not");
  code.op("v128.bitselect");
}

/** tanh x: an odd polynomial near 0, 1 - 2 / (e^2x + 1) elsewhere. `[x] -> [tanh x]`. */
function emitTanh(code: Code): void {
  const x = code.local(V128);
  const a = code.local(V128);
  const z = code.local(V128);
  const near = code.local(V128);
  code.tee(x).op("f32x4.abs").set(a);
  code.get(x).get(x).op("f32x4.mul").set(z);
  polynomial(code, z, [
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
  ]);
  code.get(z).op("f32x4.mul").get(x).op("f32x4.mul").get(x).op("f32x4.add").set(near);
  code.get(near);
  code.f32x4(1).f32x4(2).get(a).get(a).op("f32x4.add");
  emitExp(code);
  code.f32x4(1).op("f32x4.add").op("f32x4.div").op("f32x4.sub");
  code.get(x).i32x4(-0x80000000).op("v128.and").op("v128.or");
  code.get(a).f32x4(0.625).op("f32x4.lt");
  code.op("v128.bitselect");
}

/** 1 / (1 + e^-x). `[x] -> [sigmoid x]`. */
function emitSigmoid(code: Code): void {
  const e = code.local(V128);
  code.op("f32x4.neg");
  emitExp(code);
  code.f32x4(1).op("f32x4.add").set(e);
  code.f32x4(1).get(e).op("f32x4.div");
}

/** erf x by a rational function on [-4, 4], where it reaches 1 in f32. `[x] -> [erf x]`. */
function emitErf(code: Code): void {
  const x = code.local(V128);
  const z = code.local(V128);
  code.f32x4(-4).op("f32x4.max").f32x4(4).op("f32x4.min").tee(x);
  code.get(x).op("f32x4.mul").set(z);
  polynomial(code, z, [
    -2.72614225801306e-10,
    2.77068142495902e-8,
    -2.10102402082508e-6,
    -5.69250639462346e-5,
    -7.34990630326855e-4,
    -2.95459980854025e-3,
    -1.60960333262415e-2,
  ]);
  code.get(x).op("f32x4.mul");
  polynomial(code, z, [
    -1.45660718464996e-5,
    -2.13374055278905e-4,
    -1.68282697438203e-3,
    -7.37332916720468e-3,
    -1.42647390514189e-2,
  ]);
  code.op("f32x4.div");
}

/** sin (or cos, a quarter turn on) by reduction to [-pi/4, pi/4]. `[x] -> [sin x]`. */
function emitSine(code: Code, quarter: 0 | 1): void {
  const x = code.local(V128);
  const n = code.local(V128);
  const k = code.local(V128);
  const z = code.local(V128);
  const s = code.local(V128);
  const c = code.local(V128);
  code.tee(x).f32x4(0.6366197723675814).op("f32x4.mul").op("f32x4.nearest").set(n);
  // pi/2 in three parts: the first two products are exact for |n| < 2^11 or so.
  code.get(x);
  for (const part of [1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8]) {
    code.get(n).f32x4(part).op("f32x4.mul").op("f32x4.sub");
  }
  code.tee(x).get(x).op("f32x4.mul").set(z);
  polynomial(code, z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]);
  code.get(z).op("f32x4.mul").get(x).op("f32x4.mul").get(x).op("f32x4.add").set(s);
  polynomial(code, z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]);
  code.get(z).op("f32x4.mul").get(z).op("f32x4.mul");
  code.get(z).f32x4(0.5).op("f32x4.mul").op("f32x4.sub").f32x4(1).op("f32x4.add").set(c);
  code.get(n).op("i32x4.trunc_sat_f32x4_s").i32x4(quarter).op("i32x4.add").set(k);
  // Odd quarter turns swap sine and cosine; the second half of the circle changes the sign.
  code.get(c).get(s).get(k).i32x4(1).op("v128.and").i32x4(1).op("i32x4.eq").op("v128.bitselect");
  code.get(k).i32x4(2).op("v128.and").i32(30).op("i32x4.shl").op("v128.xor");
}

const UNARY: Readonly<Record<UnaryOp, (code: Code) => void>> = {
  neg: (code) => code.op("f32x4.neg"),
  abs: (code) => code.op("f32x4.abs"),
  sqrt: (code) => code.op("f32x4.sqrt"),
  floor: (code) => code.op("f32x4.floor"),
  rsqrt: (code) => {
    const x = code.local(V128);
    code.op("f32x4.sqrt").set(x);
    code.f32x4(1).get(x).op("f32x4.div");
  },
  recip: (code) => {
    const x = code.local(V128);
    code.set(x);
    code.f32x4(1).get(x).op("f32x4.div");
  },
  exp: emitExp,
  log: emitLog,
  tanh: emitTanh,
  sigmoid: emitSigmoid,
  erf: emitErf,
  sin: (code) => emitSine(code, 0),
  cos: (code) => emitSine(code, 1),
};

/** f16 bits in four i32 lanes to f32: `[bits] -> [values]`. */
function emitFromF16(code: Code): void {
  const h = code.local(V128);
  const m = code.local(V128);
  code.tee(h).i32x4(0x7fff).op("v128.and").i32(13).op("i32x4.shl").tee(m);
  // 2^112 moves the exponent from f16's bias to f32's, subnormals included.
  code.f32x4(5.192296858534828e33).op("f32x4.mul");
  // Infinity and NaN keep the largest exponent.
  code.get(m).i32x4(0x0f7fffff).op("i32x4.gt_s").i32x4(0x7f800000).op("v128.and").op("v128.or");
  code.get(h).i32x4(0x8000).op("v128.and").i32(16).op("i32x4.shl").op("v128.or");
}

/** f32 to f16 bits in four i32 lanes, to nearest even: `[values] -> [bits]`. */
function emitToF16(code: Code): void {
  const x = code.local(V128);
  const a = code.local(V128);
  const normal = code.local(V128);
  code.tee(x).i32x4(0x7fffffff).op("v128.and").set(a);
  // Normal: add half a unit (less one, plus the last kept bit) and shift.
  code.get(a).i32x4(0xfff - ((127 - 15) << 23)).op("i32x4.add");
  code.get(a).i32(13).op("i32x4.shr_u").i32x4(1).op("v128.and").op("i32x4.add");
  code.i32(13).op("i32x4.shr_u").set(normal);
  // Subnormal: adding 0.5 lines the mantissa up with f16's; the sum rounds.
  code.get(a).f32x4(0.5).op("f32x4.add").i32x4(0x3f000000).op("i32x4.sub");
  code.get(normal).i32x4(0x38800000).get(a).op("i32x4.gt_s").op("v128.bitselect").set(normal);
  // From 65520 on infinity; NaN stays NaN.
  code.i32x4(0x7c00).get(normal).get(a).i32x4(0x477fefff).op("i32x4.gt_s").op("v128.bitselect");
  code.get(a).i32x4(0x7f800000).op("i32x4.gt_s").i32x4(0x200).op("v128.and").op("v128.or");
  code.get(x).i32(16).op("i32x4.shr_u").i32x4(0x8000).op("v128.and").op("v128.or");
}

const WIDTH: Readonly<Record<DType, number>> = { f32: 4, i32: 4, f16: 2, u8: 1 };

/**
 * Four neighbours (or, with `lanes` 1, one element) from memory, widened: `[address] -> [values]`.
 */
export function emitLoad(code: Code, dtype: DType, lanes: 1 | 4, offset: number): void {
  if (dtype === "f32" || dtype === "i32") {
    code.memory(lanes === 4 ? "v128.load" : "v128.load32_zero", offset);
    return;
  }
  if (lanes === 1) {
    code.memory(dtype === "f16" ? "i32.load16_u" : "i32.load8_u", offset).op("i32x4.splat");
  } else if (dtype === "f16") {
    code.memory("v128.load64_zero", offset).op("i32x4.extend_low_i16x8_u");
  } else {
    code.memory("v128.load32_zero", offset).op("i16x8.extend_low_i8x16_u");
    code.op("i32x4.extend_low_i16x8_u");
  }
  if (dtype === "f16") emitFromF16(code);
}

/** One element in all lanes: `[address] -> [values]`. */
export function emitSplat(code: Code, dtype: DType, offset: number): void {
  if (dtype === "f32" || dtype === "i32") code.memory("v128.load32_splat", offset);
  else emitLoad(code, dtype, 1, offset);
}

/** Elements `stride` apart: `address` is that of the first. */
export function emitGather(
  code: Code,
  dtype: DType,
  lanes: 1 | 4,
  address: () => void,
  stride: number,
  offset: number,
): void {
  if (lanes === 1) {
    address();
    emitLoad(code, dtype, 1, offset);
    return;
  }
  emitLanes(code, dtype, (lane) => {
    address();
    return offset + lane * stride * WIDTH[dtype];
  });
}

/** Four elements at addresses of their own; `at` leaves an address and returns an offset to add. */
export function emitLanes(code: Code, dtype: DType, at: (lane: number) => number): void {
  const v = code.local(V128);
  const wide = dtype === "f32" || dtype === "i32";
  for (let lane = 0; lane < 4; lane++) {
    if (lane === 0) {
      const offset = at(0);
      if (wide) code.memory("v128.load32_zero", offset);
      else code.memory(dtype === "f16" ? "i32.load16_u" : "i32.load8_u", offset).op("i32x4.splat");
    } else if (wide) {
      const offset = at(lane);
      code.get(v).loadLane32(lane, offset);
    } else {
      code.get(v);
      const offset = at(lane);
      code.memory(dtype === "f16" ? "i32.load16_u" : "i32.load8_u", offset).replaceI32(lane);
    }
    code.set(v);
  }
  code.get(v);
  if (dtype === "f16") emitFromF16(code);
}

/**
 * Stores the first `lanes` lanes of a vector: `value` is a local; elements are `stride` apart.
 */
export function emitStore(
  code: Code,
  dtype: DType,
  lanes: number,
  address: () => void,
  value: Local,
  stride: number,
  offset: number,
): void {
  const wide = dtype === "f32" || dtype === "i32";
  if (wide && lanes === 4 && stride === 1) {
    address();
    code.get(value).memory("v128.store", offset);
    return;
  }
  if (dtype === "f16") {
    code.get(value);
    emitToF16(code);
    code.set(value);
  }
  for (let lane = 0; lane < lanes; lane++) {
    address();
    const at = offset + lane * stride * WIDTH[dtype];
    if (wide) code.get(value).storeLane32(lane, at);
    else {code.get(value).extractI32(lane).memory(
        dtype === "f16" ? "i32.store16" : "i32.store8",
        at,
      );}
  }
}
