/**
 * How the tensors of a LoRA file are named. Of every layer there are two halves, `down` and `up`, and
 * perhaps its alpha; programs write them as
 *
 * | layout | half | layer |
 * |---|---|---|
 * | diffusers | `.lora_A.weight`, `.lora.down.weight` | `unet.` and the module's path |
 * | diffusers until 2023 | `_lora.down.weight` | the same with `.processor.` in it, `to_out` without its `.0` |
 * | peft | `.lora_A.weight` | `base_model.model.` and the path |
 * | kohya | `.lora_down.weight` | `lora_unet_` and the path, underscores for dots |
 *
 * with `.lora_B`, `.up` and `.lora_up` for the other half. A path is diffusers', or (kohya's SDXL) that
 * of the original program (latent diffusion, LDM), which numbers its blocks through all resolutions.
 * Underscores say less than dots, so a layer is looked up among those of the base model.
 *
 * @module
 */

import { ldmNames } from "./ldm_names.ts";

/** What a tensor of a LoRA file is. */
export interface LoraTensorName {
  readonly of: "unet" | "text encoder";
  /** The layer as the file names it, without the layout's prefix. */
  readonly layer: string;
  readonly role: "down" | "up" | "alpha";
  /** Whether the name is raw peft's, whose alpha and rank are in `adapter_config.json`. */
  readonly peft: boolean;
}

const HALF =
  /^(.+?)(?:\.lora_|_lora\.|\.lora\.|\.lora_linear_layer\.)(A|B|down|up)(?:\.[A-Za-z]\w*)?\.weight$/;
const ALPHA = /^(.+)\.alpha$/;
const TEXT = /^(?:lora_te\d*_|(?:unet\.)?text_encoders?(?:_\d)?\.)/;

/** What the layouts above have no place for, by a piece of the name. */
const REFUSED: readonly (readonly [RegExp, string])[] = [
  [/dora_scale|lora_magnitude_vector/, "a DoRA, which scales whole weights"],
  [/\.hada_/, "a LoHa"],
  [/\.lokr_/, "a LoKr"],
  [/\.lora_mid\./, "a LoCon with a core between its halves"],
  [/\.(?:oft|boft)_|\.oft_diag/, "an OFT"],
  [/\.[ab][12]\.weight$/, "a GLoRA"],
  [/\.on_input$|ia3/, "an IA3"],
  [/\.(?:diff|diff_b|set_weight|w_norm|b_norm)$/, "a file of whole weights"],
  [/lora_B(?:\.\w+)?\.bias$/, "a LoRA with biases"],
];

/**
 * Reads a tensor's name.
 *
 * @param name The name in the file.
 * @param path The file, for messages.
 * @throws {Error} For a name that is of no LoRA, or of a kind of adapter that is not a LoRA's.
 */
export function parseLoraName(name: string, path: string): LoraTensorName {
  for (const [mark, what] of REFUSED) {
    if (!mark.test(name)) continue;
    throw new Error(
      `${path} is ${what} (it has the tensor "${name}"); only plain LoRA is supported: ` +
        `have it extracted as a LoRA, or merged into the base model`,
    );
  }
  const [, stem, half] = HALF.exec(name) ?? [];
  const full = stem ?? ALPHA.exec(name)?.[1];
  if (full === undefined) {
    throw new Error(
      `${path}: tensor "${name}" is not of a LoRA: expected names such as ` +
        `unet.<module>.lora_A.weight, unet.<module>.lora.down.weight, ` +
        `base_model.model.<module>.lora_A.weight or lora_unet_<module>.lora_down.weight`,
    );
  }
  const role = half === undefined ? "alpha" : half === "A" || half === "down" ? "down" : "up";
  const of = TEXT.test(full) ? "text encoder" : "unet";
  const peft = full.startsWith("base_model.model.");
  const layer = full.replace(/^(?:unet\.)?(?:base_model\.model\.)?(?:lora_unet_)?/, "");
  return { of, layer, role, peft };
}

/**
 * Finds layers of a U-Net by the names that LoRA files give them.
 *
 * @param names The names of the U-Net's tensors.
 * @returns A function from a layer's name to its module path; `undefined` where there is no such layer.
 */
export function loraLayers(names: readonly string[]): (layer: string) => string | undefined {
  const modules = names.filter((name) => name.endsWith(".weight"))
    .map((name) => name.slice(0, -".weight".length));
  const plain = (path: string) => path.replaceAll(".", "_");
  const original = ldmNames(modules);
  const byName = new Map([
    ...modules.map((path): [string, string] => [plain(original(path)), path]),
    // Last, so that they count where a name is of both.
    ...modules.map((path): [string, string] => [plain(path), path]),
  ]);
  return (layer) => {
    const path = plain(layer.replace(".processor.", "."));
    return byName.get(path) ?? byName.get(`${path}_0`);
  };
}
