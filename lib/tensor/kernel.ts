/**
 * The kernel language: what the scheduler hands to a backend.
 *
 * A kernel is data. It names the slots it reads and writes, says how it walks them, and carries the
 * scalar expression to compute at every coordinate. Each backend prints the same expression: the
 * `cpu` backend as WebAssembly SIMD, the `webgpu` backend as WGSL.
 *
 * @module
 */

/** How elements are stored. Arithmetic is always in f32 (floats) or i32 (integers). */
export type DType = "f32" | "f16" | "i32" | "u8";

/** The number of bytes of one element. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, i32: 4, u8: 1 };

/**
 * How a kernel walks a slot: the element at coordinate `c` is `offset + sum(c[i] * strides[i])`,
 * all counted in elements. A stride of 0 broadcasts.
 */
export interface Access {
  readonly slot: number;
  readonly dtype: DType;
  readonly strides: readonly number[];
  readonly offset: number;
}

/** Scalar functions of one argument. */
export type UnaryOp =
  | "neg"
  | "abs"
  | "exp"
  | "log"
  | "sqrt"
  | "rsqrt"
  | "recip"
  | "sin"
  | "cos"
  | "tanh"
  | "erf"
  | "sigmoid"
  | "floor";

/** Scalar functions of two arguments; `lt` and `eq` give 1 or 0 in the arguments' type. */
export type BinaryOp = "add" | "sub" | "mul" | "div" | "max" | "min" | "lt" | "eq";

/**
 * A scalar expression. Expressions form a DAG: a node that two others share is computed once.
 * The type of a value is `f32` or `i32`; loads widen (f16 to f32, u8 to i32).
 */
export type Expr =
  | { readonly kind: "const"; readonly type: "f32" | "i32"; readonly value: number }
  /** `inputs[input]` at the kernel's coordinate. */
  | { readonly kind: "load"; readonly type: "f32" | "i32"; readonly input: number }
  /** Element `offset + index` of `inputs[input]`, whatever the coordinate; `index` is i32. */
  | {
    readonly kind: "take";
    readonly type: "f32" | "i32";
    readonly input: number;
    readonly index: Expr;
  }
  /** The contraction's or reduction's own result; only in an epilogue. */
  | { readonly kind: "acc"; readonly type: "f32" }
  | { readonly kind: "unary"; readonly type: "f32" | "i32"; readonly op: UnaryOp; readonly a: Expr }
  | {
    readonly kind: "binary";
    readonly type: "f32" | "i32";
    readonly op: BinaryOp;
    readonly a: Expr;
    readonly b: Expr;
  }
  /** `a` where `test` is not zero, else `b`. */
  | {
    readonly kind: "where";
    readonly type: "f32" | "i32";
    readonly test: Expr;
    readonly a: Expr;
    readonly b: Expr;
  }
  /** f32 to i32 truncates towards zero; i32 to f32 rounds to nearest. */
  | { readonly kind: "cast"; readonly type: "f32" | "i32"; readonly a: Expr };

/**
 * What happens to a contraction's or reduction's result before it is stored: `expr` over the result
 * (`acc`) and further inputs, walked over the coordinates of the output.
 */
export interface Epilogue {
  readonly inputs: readonly Access[];
  readonly expr: Expr;
}

/** `output[c] = expr(c)` for every coordinate of `shape`. */
export interface MapKernel {
  readonly kind: "map";
  readonly name: string;
  readonly shape: readonly number[];
  readonly inputs: readonly Access[];
  readonly output: Access;
  readonly expr: Expr;
}

/**
 * Combines `expr` over the last `reduced` axes of `shape`; the inputs walk all axes, the output and
 * the epilogue only the leading, kept ones.
 */
export interface ReduceKernel {
  readonly kind: "reduce";
  readonly name: string;
  readonly shape: readonly number[];
  readonly reduced: number;
  readonly combine: "sum" | "max";
  readonly inputs: readonly Access[];
  readonly expr: Expr;
  readonly output: Access;
  readonly epilogue?: Epilogue;
}

/** `output[..batch, m, n] = epilogue(sum_k a[..batch, m, k] * b[..batch, k, n])`. */
export interface MatmulKernel {
  readonly kind: "matmul";
  readonly name: string;
  readonly batch: readonly number[];
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly a: Access;
  readonly b: Access;
  readonly output: Access;
  readonly epilogue?: Epilogue;
}

/** The sizes of a 2-D convolution: images [N, H, W, C], weights [kh, kw, in, out]. */
export interface ConvShape {
  readonly batch: number;
  readonly height: number;
  readonly width: number;
  readonly inChannels: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly outChannels: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly stride: number;
  /** Rows of zeros above and columns of zeros to the left; below and right follow from the sizes. */
  readonly padTop: number;
  readonly padLeft: number;
}

/**
 * The three convolutions; all operands are contiguous but may start at an offset.
 *
 * - `forward`: a = x [N,H,W,Ci], b = w [kh,kw,Ci,Co], output y [N,OH,OW,Co]
 * - `input`: a = dy [N,OH,OW,Co], b = w [kh,kw,Ci,Co], output dx [N,H,W,Ci]
 * - `weight`: a = x [N,H,W,Ci], b = dy [N,OH,OW,Co], output dw [kh,kw,Ci,Co]
 */
export interface ConvKernel {
  readonly kind: "conv2d";
  readonly name: string;
  readonly variant: "forward" | "input" | "weight";
  readonly conv: ConvShape;
  readonly a: Access;
  readonly b: Access;
  readonly output: Access;
  readonly epilogue?: Epilogue;
}

/**
 * `output = 0; for j in order: output[index[j] * width + c] += values[j, c]`, in fixed order.
 * `index` [count] i32 and `values` [count, width] f32 are contiguous; output is [size, width].
 */
export interface ScatterKernel {
  readonly kind: "scatter";
  readonly name: string;
  readonly size: number;
  readonly width: number;
  readonly count: number;
  readonly index: Access;
  readonly values: Access;
  readonly output: Access;
}

/** Anything a backend can run. */
export type Kernel = MapKernel | ReduceKernel | MatmulKernel | ConvKernel | ScatterKernel;

/**
 * A slot of a program. An `external` slot is bound to a buffer at every run; an `arena` slot belongs
 * to the program and is live from the kernel that first writes it to the one that last reads it, so
 * slots whose lives do not overlap may share memory.
 */
export type Slot =
  | { readonly kind: "external"; readonly bytes: number }
  | {
    readonly kind: "arena";
    readonly bytes: number;
    readonly first: number;
    readonly last: number;
  };

/** The slots that a kernel reads, in no particular order. */
export function reads(kernel: Kernel): Access[] {
  switch (kernel.kind) {
    case "map":
      return [...kernel.inputs];
    case "reduce":
      return [...kernel.inputs, ...kernel.epilogue?.inputs ?? []];
    case "matmul":
    case "conv2d":
      return [kernel.a, kernel.b, ...kernel.epilogue?.inputs ?? []];
    case "scatter":
      return [kernel.index, kernel.values];
  }
}

/** Operations of products and convolutions; everything else is left out, as PyTorch's counter does. */
export function contractionFlops(kernel: Kernel): number {
  if (kernel.kind === "matmul") {
    const { batch, m, n, k } = kernel;
    return 2 * batch.reduce((a, b) => a * b, 1) * m * n * k;
  }
  if (kernel.kind === "conv2d") {
    const { conv: c } = kernel;
    const pixels = c.batch * c.outHeight * c.outWidth;
    return 2 * pixels * c.outChannels * c.inChannels * c.kernelHeight * c.kernelWidth;
  }
  return 0;
}

/** The same kernel over other slots. */
export function mapSlots(kernel: Kernel, to: (slot: number) => number): Kernel {
  const access = (a: Access): Access => ({ ...a, slot: to(a.slot) });
  const epilogue = (e: Epilogue | undefined) =>
    e ? { epilogue: { ...e, inputs: e.inputs.map(access) } } : {};
  const output = access(kernel.output);
  switch (kernel.kind) {
    case "map":
      return { ...kernel, inputs: kernel.inputs.map(access), output };
    case "reduce":
      return {
        ...kernel,
        inputs: kernel.inputs.map(access),
        output,
        ...epilogue(kernel.epilogue),
      };
    case "matmul":
    case "conv2d":
      return {
        ...kernel,
        a: access(kernel.a),
        b: access(kernel.b),
        output,
        ...epilogue(kernel.epilogue),
      };
    case "scatter":
      return { ...kernel, index: access(kernel.index), values: access(kernel.values), output };
  }
}
