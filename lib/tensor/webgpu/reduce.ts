/**
 * Reductions: a team of lanes per output. Every lane walks its own share in a fixed order and the
 * team combines its partial results as a tree, so results do not depend on timing.
 *
 * Short reductions get a lane per output, long ones up to a workgroup per output. Where neighbouring
 * outputs are neighbours in memory (a reduction over rows), neighbouring threads take neighbouring
 * outputs; otherwise they take neighbouring elements of one output. A long reduction with few
 * outputs is first cut into parts, whose results a second reduction combines.
 *
 * @module
 */
import type { Access, Epilogue, ReduceKernel } from "../kernel.ts";
import { emit, literal } from "./expression.ts";
import { block, convert, type Dispatch, Shader, THREADS } from "./shader.ts";
import { contiguousStrides, sizeOf, stridesOf, Walk } from "./walk.ts";

/** Independent partial results per lane: they hide the latency of loads. */
const UNROLL = 4;
/** Threads that keep a large GPU busy. */
const BUSY_THREADS = 32768;

/** Reserves temporary memory for the kernel that is being generated; gives its slot. */
export type Scratch = (bytes: number) => number;

/** Generates a reduction, in two steps where a single one would leave most of the device idle. */
export function reduceDispatches(kernel: ReduceKernel, scratch: Scratch): Dispatch[] {
  const kept = kernel.shape.slice(0, kernel.shape.length - kernel.reduced);
  const outputs = sizeOf(kept);
  const length = sizeOf(kernel.shape.slice(kept.length));
  const parts = Math.min(Math.floor(BUSY_THREADS / (outputs * THREADS)), Math.floor(length / 4096));
  if (parts < 2) return [generate(kernel, 1)];
  const slot = scratch(outputs * parts * 4);
  const { type } = kernel.expr;
  const partial: Access = {
    slot,
    dtype: type,
    strides: contiguousStrides([...kept, parts]),
    offset: 0,
  };
  const { epilogue: _, ...first } = kernel;
  return [
    generate({ ...first, output: partial }, parts),
    generate({
      ...kernel,
      shape: [...kept, parts],
      reduced: 1,
      inputs: [partial],
      expr: { kind: "load", type, input: 0 },
    }, 1),
  ];
}

/** One shader; with several `parts`, the output holds a result per output and part. */
function generate(kernel: ReduceKernel, parts: number): Dispatch {
  const { inputs, output, expr, epilogue } = kernel;
  const rank = kernel.shape.length - kernel.reduced;
  const kept = kernel.shape.slice(0, rank);
  const outputs = sizeOf(kept) * parts;
  const length = sizeOf(kernel.shape.slice(rank));
  const share = Math.ceil(length / parts);

  const extra = epilogue?.inputs ?? [];
  const outer = new Walk(kept, [
    ...stridesOf(inputs, 0, rank),
    ...stridesOf([output], 0, rank),
    ...stridesOf(extra, 0, rank),
  ]);
  const inner = new Walk(kernel.shape.slice(rank), stridesOf(inputs, rank));

  const across = inputs.length > 0 && parts === 1 &&
    inputs.some((_, i) => outer.innermost(i) === 1) &&
    inputs.every((_, i) => inner.innermost(i) !== 1);
  const team = teamSize(outputs, share, across ? THREADS / 8 : THREADS);
  const teams = THREADS / team;

  const shader = new Shader(output);
  const { type } = expr;
  const identity = kernel.combine === "sum"
    ? literal(type, 0)
    : type === "f32"
    ? literal("f32", -Infinity)
    : "i32(-2147483648)";
  const combine = (a: string, b: string) =>
    kernel.combine === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`;

  const { lines, result } = emit(expr, {
    load: (input) => {
      const address = inner.address(input, "c", 0);
      return shader.load(
        inputs[input]!,
        address === "0u" ? `base${input}` : `base${input} + ${address}`,
      );
    },
    take: (input, index) =>
      shader.load(inputs[input]!, `u32(${inputs[input]!.offset}i + ${index})`),
  });
  const body = block([
    `let member = ${across ? `lane / ${teams}u` : `lane % ${team}u`};`,
    `let o = group * ${teams}u + ${across ? `lane % ${teams}u` : `lane / ${team}u`};`,
    `let live = o < ${outputs}u;`,
    ...(parts > 1
      ? [
        `let kept = o / ${parts}u;`,
        `let start = (o % ${parts}u) * ${share}u;`,
        `let end = min(start + ${share}u, ${length}u);`,
      ]
      : ["let kept = o;"]),
    ...outer.coordinates("kept", "k"),
    ...inputs.map((access, i) => `let base${i} = ${outer.address(i, "k", access.offset)};`),
  ]);
  const from = parts > 1 ? "start + member" : "member";
  const to = parts > 1 ? "end" : `${length}u`;
  const unroll = Math.min(UNROLL, Math.max(1, Math.ceil(share / team)));
  const whole = parts === 1 && length % (team * unroll) === 0;
  const accumulators = Array.from({ length: unroll }, (_, u) => `acc${u}`);
  const loop = accumulators.map((acc, u) => {
    const statements = block([
      `let r = r0 + ${u * team}u;`,
      ...(whole ? [] : [`if (r < ${to}) {`]),
      ...inner.coordinates("r", "c"),
      ...lines,
      `${acc} = ${combine(acc, result)};`,
      ...(whole ? [] : ["}"]),
    ], "      ");
    return `    {\n${statements}    }\n`;
  }).join("");
  const gather = accumulators.length === 4
    ? combine(`(${combine("acc0", "acc1")})`, `(${combine("acc2", "acc3")})`)
    : accumulators.reduce((a, b) => kernel.combine === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`);

  const main: string[] = [
    body.trimEnd(),
    ...accumulators.map((acc) => `var ${acc} = ${identity};`),
    "if (live) {",
    `  for (var r0 = ${from}; r0 < ${to}; r0 += ${team * unroll}u) {`,
    loop + "  }",
    "}",
    `var acc = ${gather};`,
  ];
  if (team > 1) {
    const place = across ? `member * ${teams}u + lane % ${teams}u` : "lane";
    const step = across ? teams : 1;
    main.push(`let place = ${place};`, "partial[place] = acc;", "workgroupBarrier();");
    for (let half = team / 2; half >= 1; half /= 2) {
      main.push(
        `if (member < ${half}u) { partial[place] = ${
          combine("partial[place]", `partial[place + ${half * step}u]`)
        }; }`,
        "workgroupBarrier();",
      );
    }
    main.push("acc = partial[place];");
  }
  main.push(`if (live && member == 0u) {`);
  if (parts > 1) {
    main.push("  " + shader.store("o", "acc", type));
  } else {
    const address = outer.address(inputs.length, "k", output.offset);
    main.push(
      ...finishOutput(
        shader,
        type,
        address,
        epilogue,
        (i) => outer.address(inputs.length + 1 + i, "k", extra[i]!.offset),
      ).map((line) => `  ${line}`),
    );
  }
  main.push("}");
  return shader.finish(
    kernel.name,
    Math.ceil(outputs / teams),
    THREADS,
    main,
    team > 1 ? `var<workgroup> partial: array<${type}, ${THREADS}>;\n` : "",
  );
}

/**
 * Statements that take the result named `acc` through the epilogue and store it.
 *
 * @param address Address of the output's element.
 * @param inputAddress Address of the element of an epilogue's input.
 */
export function finishOutput(
  shader: Shader,
  type: "f32" | "i32",
  address: string,
  epilogue: Epilogue | undefined,
  inputAddress: (input: number) => string,
): string[] {
  if (epilogue === undefined) return [shader.store(address, "acc", type)];
  const { lines, result } = emit(epilogue.expr, {
    load: (input) => shader.load(epilogue.inputs[input]!, inputAddress(input)),
    take: (input, index) =>
      shader.load(epilogue.inputs[input]!, `u32(${epilogue.inputs[input]!.offset}i + ${index})`),
    acc: convert("acc", type, "f32"),
  });
  return [...lines, shader.store(address, result, epilogue.expr.type)];
}

/** Lanes per output: a power of two, enough to occupy the device and no more than there is work. */
function teamSize(outputs: number, length: number, most: number): number {
  let team = 1;
  while (
    team < most && team * UNROLL < length && (team < 32 || outputs * team < BUSY_THREADS * 4)
  ) {
    team *= 2;
  }
  return team;
}
