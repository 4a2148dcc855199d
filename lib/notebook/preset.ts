/**
 * How much a notebook computes. A person who opens it gets the default; who runs all notebooks says
 * it for all of them, by an environment variable.
 *
 * @module
 */
import { type PresetName, presetNames } from "../experiments/presets.ts";

/** The environment variable. */
export const presetVariable = "NCP_PRESET";

/**
 * The preset that was asked for.
 *
 * @param fallback The preset when none was.
 * @throws {TypeError} if the variable holds something else.
 */
export function notebookPreset(fallback: PresetName = "quick"): PresetName {
  const asked = Deno.env.get(presetVariable);
  if (!asked) return fallback;
  const found = presetNames.find((name) => name === asked);
  if (found) return found;
  throw new TypeError(`${presetVariable} is "${asked}", but must be ${presetNames.join(", ")}`);
}
