/**
 * What things are called and coloured in tables and figures, the same in all of them.
 *
 * @module
 */
import type { MethodName } from "../preference/mod.ts";
import type { Scorer } from "./evaluate.ts";

/** Names for reading. */
export const labels: Readonly<Record<MethodName | Scorer | "base", string>> = {
  base: "base",
  sft: "SFT",
  dpo: "DPO",
  cpo: "CPO",
  "ncp-sft": "NCP-SFT",
  "ncp-dpo": "NCP-DPO",
  "ncp-cpo": "NCP-CPO",
  "dpo-tw": "DPO-tw",
  pickscore: "PickScore",
  hps: "HPS",
};

/** Latent methods and their perceptual twins share a hue; the twin is the darker one. */
export const colours: Readonly<Record<MethodName | Scorer | "base", string>> = {
  base: "#7f7f7f",
  sft: "#98c379",
  "ncp-sft": "#2d7d32",
  dpo: "#7fb2e5",
  "ncp-dpo": "#1f5fa8",
  cpo: "#f5b07a",
  "ncp-cpo": "#c4501b",
  "dpo-tw": "#8e5bb5",
  pickscore: "#1f77b4",
  hps: "#d95f02",
};

/** A colour with an opacity, for bands around lines. */
export function faded(hex: string, opacity: number): string {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}
