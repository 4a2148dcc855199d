/**
 * The experiments of the paper. Each is a grid of trainings and a function from their records to tables,
 * figures and claims.
 *
 * @module
 */
import { ablations } from "./ablations.ts";
import type { Experiment } from "./experiment.ts";
import { figure3 } from "./figure3.ts";
import { figure4 } from "./figure4.ts";
import { figure5 } from "./figure5.ts";
import { table1 } from "./table1.ts";
import { table2 } from "./table2.ts";

export * from "./claims.ts";
export * from "./experiment.ts";
export * from "./figure.ts";
export * from "./image_grid.ts";
export * from "./labels.ts";
export * from "./materials.ts";
export * from "./preference_sheet.ts";
export * from "./presets.ts";
export * from "./prompt_kinds.ts";
export * from "./report.ts";
export * from "./training_pairs.ts";
export * from "./workbench.ts";

/** The experiments in the order in which they build on each other's runs. */
export const experiments: readonly Experiment[] = [
  table1,
  figure4,
  figure5,
  figure3,
  table2,
  ablations,
];

/**
 * An experiment by name.
 *
 * @throws {RangeError} If there is none of that name.
 */
export function experimentNamed(name: string): Experiment {
  const found = experiments.find((experiment) => experiment.name === name);
  if (found) return found;
  const names = experiments.map((experiment) => experiment.name);
  throw new RangeError(`there is no experiment "${name}"; there are ${names.join(", ")}`);
}
