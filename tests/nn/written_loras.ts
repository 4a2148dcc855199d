/**
 * LoRA files that this project writes of adapters that peft made. `tests/golden/written_loras.py`
 * loads them with the programs they are meant for; a test sees to it that the same bytes are written.
 *
 * @module
 */
import { loadLora, type LoraFormat, saveLora } from "../../lib/nn/lora_file.ts";
import { loadWeights } from "../../lib/nn/weights.ts";
import { goldenPath } from "../diffusion/golden.ts";

/** What is written: the adapter's file, its model, and the layouts. */
const WRITTEN: readonly {
  readonly adapter: string;
  readonly model: string;
  readonly formats: readonly LoraFormat[];
}[] = [
  { adapter: "sd15/diffusers", model: "sd15", formats: ["diffusers", "peft", "kohya"] },
  { adapter: "sd15-attention/diffusers", model: "sd15", formats: ["diffusers", "kohya"] },
  // diffusers ignores an attention layer's own alpha in kohya's layout.
  { adapter: "sd15-patterns/diffusers", model: "sd15", formats: ["diffusers", "peft"] },
  { adapter: "sdxl/kohya-ldm", model: "sdxl", formats: ["diffusers", "peft", "kohya"] },
];

/** One file that was written. */
export interface WrittenLora {
  readonly name: string;
  readonly model: string;
  readonly format: LoraFormat;
  /** The reference's inputs and output. */
  readonly golden: string;
  /** The file, and peft's configuration. */
  readonly files: readonly string[];
}

/** Writes all of them below a folder. */
export async function writeLoras(folder: string): Promise<WrittenLora[]> {
  const written: WrittenLora[] = [];
  for (const { adapter, model, formats } of WRITTEN) {
    const base = await loadWeights(goldenPath(`unet/${model}`));
    const lora = await loadLora(goldenPath(`lora-layouts/${adapter}.safetensors`), base);
    const [source] = adapter.split("/");
    for (const format of formats) {
      const to = `${folder}/${source}-${format}`;
      await Deno.mkdir(to, { recursive: true });
      const name = format === "peft" ? "adapter_model" : "pytorch_lora_weights";
      await saveLora(`${to}/${name}.safetensors`, lora, { format });
      written.push({
        name: `${source}-${format}`,
        model,
        format,
        golden: `lora-layouts/${source}/golden.safetensors`,
        files: [
          `${to}/${name}.safetensors`,
          ...format === "peft" ? [`${to}/adapter_config.json`] : [],
        ],
      });
    }
    lora.layers.forEach(({ down, up }) => [down, up].forEach((half) => half.dispose()));
    base.dispose();
  }
  return written;
}

if (import.meta.main) {
  console.log(JSON.stringify(await writeLoras(Deno.args[0]!)));
  Deno.exit();
}
