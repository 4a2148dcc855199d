/**
 * Scalar expressions as WGSL: one `let` per distinct value, so a value that is used twice, or that is
 * spelled twice, is computed once.
 *
 * @module
 */
import type { Expr, UnaryOp } from "../kernel.ts";

/** Where an expression's leaves come from: WGSL expressions of the value's own type. */
export interface Leaves {
  load(input: number): string;
  take(input: number, index: string): string;
  /** The f32 result that an epilogue continues from. */
  readonly acc?: string;
}

/** WGSL statements, the name or literal that holds their result, and the helpers they call. */
export interface Emitted {
  readonly lines: readonly string[];
  readonly result: string;
}

/** A WGSL literal; infinities and NaN have none and are made from their bits at run time. */
export function literal(type: "f32" | "i32", value: number): string {
  if (type === "i32") return `i32(${value | 0})`;
  const rounded = Math.fround(value);
  if (Number.isNaN(rounded)) return "bitcast<f32>(nan_bits)";
  if (rounded === Infinity) return "bitcast<f32>(inf_bits)";
  if (rounded === -Infinity) return "(-bitcast<f32>(inf_bits))";
  const text = `${Math.abs(rounded)}f`;
  return rounded < 0 || Object.is(rounded, -0) ? `(-${text})` : text;
}

/** Writes `expr` as WGSL. */
export function emit(expr: Expr, leaves: Leaves): Emitted {
  const lines: string[] = [];
  const byNode = new Map<Expr, string>();
  const byText = new Map<string, string>();

  const name = (text: string): string => {
    let known = byText.get(text);
    if (known === undefined) {
      known = `v${byText.size}`;
      byText.set(text, known);
      lines.push(`let ${known} = ${text};`);
    }
    return known;
  };
  const visit = (node: Expr): string => {
    let known = byNode.get(node);
    if (known === undefined) {
      known = node.kind === "const" ? literal(node.type, node.value) : name(spell(node));
      byNode.set(node, known);
    }
    return known;
  };
  const spell = (node: Exclude<Expr, { kind: "const" }>): string => {
    switch (node.kind) {
      case "load":
        return leaves.load(node.input);
      case "take":
        return leaves.take(node.input, visit(node.index));
      case "acc":
        if (leaves.acc === undefined) {
          throw new TypeError("An expression reads `acc` outside an epilogue; use `load`.");
        }
        return leaves.acc;
      case "unary":
        return unary(node.op, node.type, visit(node.a));
      case "binary": {
        const [a, b] = [visit(node.a), visit(node.b)];
        const [zero, one] = node.type === "f32" ? ["0.0f", "1.0f"] : ["0i", "1i"];
        switch (node.op) {
          case "add":
            return `${a} + ${b}`;
          case "sub":
            return `${a} - ${b}`;
          case "mul":
            return `${a} * ${b}`;
          case "div":
            return `${a} / ${b}`;
          case "max":
            return `max(${a}, ${b})`;
          case "min":
            return `min(${a}, ${b})`;
          case "lt":
            return `select(${zero}, ${one}, ${a} < ${b})`;
          case "eq":
            return `select(${zero}, ${one}, ${a} == ${b})`;
        }
        break;
      }
      case "where": {
        const [test, a, b] = [visit(node.test), visit(node.a), visit(node.b)];
        return `select(${b}, ${a}, ${test} != ${node.test.type === "f32" ? "0.0f" : "0i"})`;
      }
      case "cast": {
        const a = visit(node.a);
        return node.a.type === node.type ? a : `${node.type}(${a})`;
      }
    }
  };
  const result = visit(expr);
  return { lines, result };
}

function unary(op: UnaryOp, type: "f32" | "i32", a: string): string {
  switch (op) {
    case "neg":
      return `-${a}`;
    case "abs":
      return `abs(${a})`;
    case "floor":
      return type === "i32" ? a : `floor(${a})`;
  }
  if (type === "i32") {
    throw new TypeError(`The operation \`${op}\` needs an f32 value, found i32; cast it first.`);
  }
  switch (op) {
    case "exp":
      return `exp(${a})`;
    case "log":
      return `log(${a})`;
    case "sqrt":
      return `sqrt(${a})`;
    case "rsqrt":
      return `inverseSqrt(${a})`;
    case "recip":
      return `1.0f / ${a}`;
    case "sin":
      return `sin_f32(${a})`;
    case "cos":
      return `cos_f32(${a})`;
    case "tanh":
      return `tanh_f32(${a})`;
    case "erf":
      return `erf_f32(${a})`;
    case "sigmoid":
      return `sigmoid_f32(${a})`;
  }
}

/**
 * Functions that WGSL lacks or leaves too inexact: drivers may give `sin` no more than an absolute
 * 2^-11, and may overflow in `tanh`. Every one of them maps NaN to NaN.
 */
const HELPERS: Readonly<Record<string, { readonly text: string; readonly needs?: string }>> = {
  inf_bits: { text: "var<private> inf_bits: u32 = 0x7f800000u;" },
  nan_bits: { text: "var<private> nan_bits: u32 = 0x7fc00000u;" },
  sigmoid_f32: {
    text: `fn sigmoid_f32(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(e, 1.0f, x >= 0.0f) / (1.0f + e);
}`,
  },
  tanh_f32: {
    text: `fn tanh_f32(x: f32) -> f32 {
  let t = abs(x);
  if (t < 0.625f) {
    let s = x * x;
    let p = (((-5.70498872745e-3f * s + 2.06390887954e-2f) * s - 5.37397155531e-2f) * s +
      1.33314422036e-1f) * s - 3.33332819422e-1f;
    return p * s * x + x;
  }
  let y = 1.0f - 2.0f / (exp(2.0f * select(t, 10.0f, t > 10.0f)) + 1.0f);
  return select(y, -y, x < 0.0f);
}`,
  },
  erf_f32: {
    text: `fn erf_f32(x: f32) -> f32 {
  let t = select(abs(x), 10.0f, abs(x) > 10.0f);
  let s = t * t;
  if (t > 0.927734375f) {
    let u = fma(-3.88396438e-3f, t, 2.42546219e-2f);
    var r = fma(-1.72853470e-5f, t, 3.83197126e-4f);
    r = fma(r, s, u);
    r = fma(r, t, -1.06777877e-1f);
    r = fma(r, t, -6.34846687e-1f);
    r = fma(r, t, -1.28717512e-1f);
    r = fma(r, t, -t);
    r = 1.0f - exp(r);
    return select(r, -r, x < 0.0f);
  }
  var r = fma(-5.96761703e-4f, s, 4.99119423e-3f);
  r = fma(r, s, -2.67681349e-2f);
  r = fma(r, s, 1.12819925e-1f);
  r = fma(r, s, -3.76125336e-1f);
  r = fma(r, s, 1.28379166e-1f);
  return fma(r, x, x);
}`,
  },
  // Cody and Waite: pi/2 in three parts of which the first two multiply small integers exactly.
  sincos_f32: {
    text: `fn sincos_f32(x: f32, shift: i32) -> f32 {
  let n = round(x * 0.636619772367581f);
  let r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.549789954891882e-8f;
  let s = r * r;
  let sine = ((-1.9515295891e-4f * s + 8.3321608736e-3f) * s - 1.6666654611e-1f) * s * r + r;
  let cosine = ((2.443315711809948e-5f * s - 1.388731625493765e-3f) * s +
    4.166664568298827e-2f) * s * s - 0.5f * s + 1.0f;
  let quadrant = (i32(n) + shift) & 3;
  let y = select(sine, cosine, (quadrant & 1) == 1);
  return select(y, -y, quadrant >= 2);
}`,
  },
  sin_f32: {
    text: "fn sin_f32(x: f32) -> f32 { return sincos_f32(x, 0); }",
    needs: "sincos_f32",
  },
  cos_f32: {
    text: "fn cos_f32(x: f32) -> f32 { return sincos_f32(x, 1); }",
    needs: "sincos_f32",
  },
  // Round to nearest even by integers: `pack2x16float` may truncate.
  f16_bits: {
    text: `fn f16_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let a = bits & 0x7fffffffu;
  if (a > 0x7f800000u) { return sign | 0x7e00u; }
  if (a >= 0x477ff000u) { return sign | 0x7c00u; }
  if (a < 0x38800000u) { return sign | (bitcast<u32>(bitcast<f32>(a) + 0.5f) - 0x3f000000u); }
  return sign | ((a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u)) >> 13u);
}`,
  },
};

/** The definitions of the helpers that `code` calls. */
export function helpersOf(code: string): string {
  const found = new Set<string>();
  for (const [name, { needs }] of Object.entries(HELPERS)) {
    if (!code.includes(name)) continue;
    if (needs !== undefined) found.add(needs);
    found.add(name);
  }
  return [...found].map((name) => HELPERS[name]!.text + "\n").join("");
}
