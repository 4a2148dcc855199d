/** The curves of trainings that run in a cell. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { figureSvg } from "../../lib/experiments/figure.ts";
import { curvesFigure } from "../../lib/notebook/training_curves.ts";
import type { StepMetrics } from "../../lib/preference/mod.ts";

const line = (step: number, accuracy?: number): StepMetrics => ({
  step,
  loss: 1 / step,
  winnerError: 1,
  gradientNorm: 1,
  learningRate: 1e-3,
  seconds: step,
  ...accuracy !== undefined && { accuracy },
});

Deno.test("each training has its loss, and its preferred winners if it compares", async () => {
  const figure = curvesFigure(
    "table1",
    new Map([["DPO", [line(1, 0.5), line(2, 0.75)]], ["SFT", [line(1), line(2)]]]),
  );
  const values = figure.data.map((trace) => (trace as { y: number[] }).y);
  assertEquals(values, [[1, 0.5], [0.5, 0.75], [1, 0.5]]);
  assertStringIncludes(await figureSvg(figure, 900, 380), "SFT");
});

Deno.test("trainings that do not compare have no second panel", async () => {
  const figure = curvesFigure("figure3", new Map([["SFT", [line(1), line(2)]]]));
  assertStringIncludes(await figureSvg(figure, 900, 380), "figure3");
});
