/** The choice of hyperparameters from made-up trials. */
import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { choose, judgeTrial, searchGrid, type Trial } from "../../lib/experiments/search.ts";
import { methodNames } from "../../lib/preference/mod.ts";

Deno.test("a trial is judged by its wins over the base, both scorers alike", () => {
  const base = { pickscore: [1, 2, 3, 4], hps: [1, 1, 1, 1] };
  const tuned = { pickscore: [2, 2, 4, 3], hps: [2, 2, 2, 2] };
  const trial = judgeTrial("dpo", { lr: 1e-3, beta: 2000 }, tuned, base);
  assertAlmostEquals(trial.winRate, (62.5 + 100) / 2);
  assertEquals(trial.change, { pickscore: 0.25, hps: 1 });
});

Deno.test("the best trial of a method is chosen, of equals the gentler one", () => {
  const trial = (method: Trial["method"], lr: number, winRate: number): Trial => ({
    method,
    hyperparameters: { lr, beta: 1 },
    winRate,
    change: {},
  });
  const trials = [
    trial("dpo", 2e-3, 60),
    trial("dpo", 1e-3, 60),
    trial("dpo", 5e-4, 55),
    trial("ncp-dpo", 1e-3, 40),
    trial("ncp-dpo", 2e-3, 70),
  ];
  assertEquals(choose("dpo", trials).lr, 1e-3);
  assertEquals(choose("ncp-dpo", trials).lr, 2e-3);
  assertThrows(() => choose("cpo", trials), Error, "no trial of cpo");
});

Deno.test("every method gets as many trials, all different, the defaults among them", () => {
  for (const method of methodNames) {
    const grid = searchGrid(method);
    assertEquals(new Set(grid.map((trial) => JSON.stringify(trial))).size, 5);
  }
});
