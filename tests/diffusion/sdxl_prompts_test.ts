import { assertEquals } from "@std/assert";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { negativeConditions, Pipeline } from "../../lib/diffusion/pipeline.ts";
import { loadTextEncoder, loadUNet, loadVae } from "../../lib/diffusion/pipeline_files.ts";
import type { Conditions } from "../../lib/diffusion/sample.ts";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, type GoldenCase, goldenCases, goldenPath, openGolden } from "./golden.ts";

type PromptCase = GoldenCase & { prompts: string[]; negatives: string[] };
const { model, golden, prompts, negatives } = goldenCases("sdxl-prompts")[0] as PromptCase;

async function sdxl(zeros: boolean): Promise<Pipeline> {
  const tokenizer = await ClipTokenizer.load(goldenPath("clip/tokenizer"));
  const { files } = tokenizer;
  const second = new ClipTokenizer({ ...files, config: { ...files.config, pad_token: "!" } });
  return new Pipeline({
    unet: await loadUNet(goldenPath("unet/sdxl")),
    vae: await loadVae(goldenPath("vae/plain")),
    textEncoders: [
      { ...await loadTextEncoder(goldenPath(`${model}/text_encoder`)), tokenizer },
      { ...await loadTextEncoder(goldenPath(`${model}/text_encoder_2`)), tokenizer: second },
    ],
    schedule: NoiseSchedule.fromConfig({ beta_start: 0.00085, beta_end: 0.012 }),
    index: { force_zeros_for_empty_prompt: zeros },
  });
}

eachDevice("sdxl prompts: conditions agree with diffusers' encode_prompt", async () => {
  const file = await openGolden(golden);
  const agrees = async (found: Conditions, suffix: string, row?: number) => {
    for (
      const [name, value] of [["context", found.context], [
        "text_embeds",
        found.added!.textEmbeds,
      ]] as const
    ) {
      const all = await file.values(`${name}${suffix}`) as Float32Array;
      const size = all.length / prompts.length;
      const expected = row === undefined ? all : all.subarray(row * size, (row + 1) * size);
      if (expected.every((x) => x === 0)) {
        assertEquals((await value.data() as Float32Array).every((x) => x === 0), true, name);
      } else await assertClose(value, expected, `${name}${suffix} ${row ?? ""}`);
      value.dispose();
    }
    assertEquals(
      [...await found.added!.timeIds.data()],
      [...await file.values("time_ids")].slice(0, found.added!.timeIds.shape[0]! * 6),
    );
    found.added!.timeIds.dispose();
  };
  const size = [48, 64] as const;
  for (const zeros of [true, false]) {
    const pipeline = await sdxl(zeros);
    await agrees(await pipeline.encodePrompts(prompts, size, "truncate"), "");
    await agrees(await negativeConditions(pipeline, 3, size, {}), `.none.zeros-${zeros}`);
    for (const [row, negativePrompt] of negatives.entries()) {
      const found = await negativeConditions(pipeline, 1, size, { negativePrompt });
      await agrees(found, `.given.zeros-${zeros}`, row);
    }
    pipeline.dispose();
  }
});
