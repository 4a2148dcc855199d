/** A plan for people: formulas, tables, and the memory figure. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { kernelFormula, kernelTable, kindTable, memoryFigure } from "../../lib/notebook/plan.ts";
import { jit, type Plan, type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";

/** The plan of a product with an epilogue, a map and a reduction. */
async function planOf(body: (x: Tensor, y: Tensor) => Tensor): Promise<Plan> {
  const step = jit((state: Record<string, Tensor>, { x, y }: { x: Tensor; y: Tensor }) => ({
    state,
    result: { z: body(x, y) },
  }));
  const x = tensor(new Float32Array(6).fill(2), [2, 3]), y = tensor(new Float32Array(12), [3, 4]);
  const { z } = await step({}, { x, y });
  z!.dispose();
  const plan = step.plan!;
  step.dispose();
  return plan;
}

eachDevice("a plan's kernels as formulas and tables", async () => {
  const plan = await planOf((x, y) => x.mul(3).add(1).sqrt().matmul(y).mul(0.5).maximum(0));
  const formulas = plan.list.map(kernelFormula);
  assertEquals(formulas.length, 2);
  assertStringIncludes(formulas[0]!, "sqrt(");
  assertStringIncludes(formulas[1]!, "(a·b * 0.5)");
  const table = kernelTable(plan);
  assertEquals(table.rows.map((row) => row[2]), [6, 8]);
  const kinds = kindTable(plan);
  assertEquals(kinds.rows.map((row) => row[0]), ["map", "matmul"]);
  assertAlmostEquals(kinds.rows[1]![3] as number, 2 * 2 * 3 * 4 / 1e9);
});

eachDevice("what an expression shares is not written out without end", async () => {
  const plan = await planOf((x) => {
    let y = x;
    for (let i = 0; i < 30; i++) y = y.mul(y).add(y);
    return y;
  });
  assert(plan.list.every((kernel) => kernelFormula(kernel).length < 2000));
});

eachDevice("the memory of a plan is drawn with a bar for each kernel", async () => {
  const plan = await planOf((x, y) => x.mul(3).matmul(y).exp().sum());
  const figure = memoryFigure(plan, "Memory");
  const bars = figure.data.filter(({ type }) => type === "bar") as { x: number[]; y: number[] }[];
  assertEquals(bars.flatMap(({ x }) => x).length, plan.kernels);
  assert(bars.every(({ y }) => y.every((mib) => mib > 0)));
  assertStringIncludes(await figureSvg(figure), "memory of the plan");
});
