/**
 * How good the lineage is, by the oracle and on held-out prompts: what the data card reports.
 *
 * @module
 */
import { generate } from "../../diffusion/pipeline.ts";
import { vaeDecode, vaeEncode } from "../../diffusion/vae.ts";
import { jit, type Tensor, tensor } from "../../tensor/mod.ts";
import { parseCaption } from "../caption.ts";
import { judge } from "../oracle.ts";
import { promptSplits } from "../prompts.ts";
import { cleanExample, IMAGE_VALUES, toBytes } from "../world.ts";
import { type BaseName, openBase, PROMPTS } from "./preferences.ts";
import { openVae } from "./store.ts";

/** Means over images. */
export interface OracleMeans {
  readonly alignment: number;
  readonly appeal: number;
  readonly utility: number;
}

/** Means of the oracle's judgements of images that follow each other. */
export function oracleMeans(prompts: readonly string[], images: Uint8Array): OracleMeans {
  const sum = { alignment: 0, appeal: 0, utility: 0 };
  prompts.forEach((prompt, i) => {
    const bytes = images.subarray(i * IMAGE_VALUES, (i + 1) * IMAGE_VALUES);
    const { alignment, appeal, utility } = judge(bytes, parseCaption(prompt));
    sum.alignment += alignment;
    sum.appeal += appeal;
    sum.utility += utility;
  });
  const n = prompts.length;
  return { alignment: sum.alignment / n, appeal: sum.appeal / n, utility: sum.utility / n };
}

/** Clean pictures of held-out prompts before and after the autoencoder. */
export async function vaeQuality(
  output: string,
  seed: number,
): Promise<{ clean: OracleMeans; decoded: OracleMeans }> {
  const prompts = promptSplits(seed, PROMPTS).validation;
  const n = prompts.length;
  const pixels = new Float32Array(n * IMAGE_VALUES);
  prompts.forEach((prompt, i) =>
    cleanExample(
      parseCaption(prompt),
      seed,
      i,
      pixels.subarray(i * IMAGE_VALUES, (i + 1) * IMAGE_VALUES),
    )
  );
  const { weights, config } = await openVae(`${output}/vae`);
  const run = jit((state: Record<string, Tensor>, { x }: { x: Tensor }) => ({
    state,
    result: { y: vaeDecode(weights, config, vaeEncode(weights, config, x.mul(2).sub(1)).mean) },
  }));
  const { y } = await run({}, { x: tensor(pixels, [n, 64, 64, 3]) });
  const decoded = Uint8ClampedArray.from(await y.data() as Float32Array, (v) => v * 127.5 + 127.5);
  y.dispose();
  run.dispose();
  weights.dispose();
  return {
    clean: oracleMeans(prompts, toBytes(pixels)),
    decoded: oracleMeans(prompts, new Uint8Array(decoded.buffer)),
  };
}

/** Samples of a base model on the validation prompts: 12 DDIM steps, guidance 4. */
export async function baseQuality(
  output: string,
  model: BaseName,
  seed: number,
): Promise<OracleMeans> {
  const prompts = promptSplits(seed, PROMPTS).validation;
  const pipeline = await openBase(output, model);
  const images = await generate(pipeline, prompts, {
    seed,
    steps: 12,
    guidanceScale: 4,
    batchSize: 25,
  });
  pipeline.dispose();
  return oracleMeans(prompts, images.data);
}
