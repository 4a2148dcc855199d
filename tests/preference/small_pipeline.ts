/**
 * A pipeline of small random networks in the golden files' configurations.
 *
 * @module
 */
import { clipTextParameters } from "../../lib/diffusion/clip_text.ts";
import { clipTextConfig, readJson, unetConfig, vaeConfig } from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { Pipeline } from "../../lib/diffusion/pipeline.ts";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { initUNet } from "../../lib/diffusion/unet.ts";
import { initialise } from "../../lib/nn/init.ts";
import { loadWeights, Weights } from "../../lib/nn/weights.ts";
import { goldenPath } from "../diffusion/golden.ts";

/** The pipeline; its VAE is the golden one unless another is given. */
export async function smallPipeline(vae?: Weights): Promise<Pipeline> {
  const unet = unetConfig(await readJson(goldenPath("unet/objectives/config.json")));
  const text = clipTextConfig({
    ...await readJson(goldenPath("clip/text-gelu-end/config.json")),
    max_position_embeddings: 24,
    vocab_size: 700,
    eos_token_id: 2,
  });
  return new Pipeline({
    unet: { config: unet, weights: new Weights(initUNet(unet, 1)) },
    vae: {
      config: vaeConfig(await readJson(goldenPath("vae/plain/config.json"))),
      weights: vae ?? await loadWeights(goldenPath("vae/plain")),
    },
    textEncoders: [{
      config: text,
      weights: new Weights(initialise(clipTextParameters(text), 1)),
      tokenizer: await ClipTokenizer.load(goldenPath("clip/tokenizer")),
    }],
    schedule: NoiseSchedule.fromConfig({}),
  });
}
