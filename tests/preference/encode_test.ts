import { assert, assertEquals, assertRejects } from "@std/assert";
import { clipTextParameters } from "../../lib/diffusion/clip_text.ts";
import { clipTextConfig, readJson, unetConfig, vaeConfig } from "../../lib/diffusion/config.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { Pipeline } from "../../lib/diffusion/pipeline.ts";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { initUNet } from "../../lib/diffusion/unet.ts";
import { scaleLatents, vaeEncode, vaeFactor } from "../../lib/diffusion/vae.ts";
import { initialise } from "../../lib/nn/init.ts";
import { loadWeights, Weights } from "../../lib/nn/weights.ts";
import { encodePairs, type NumberedImage } from "../../lib/preference/mod.ts";
import { tensor } from "../../lib/tensor/mod.ts";
import { goldenPath, relativeError } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

async function smallPipeline(): Promise<Pipeline> {
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
      weights: await loadWeights(goldenPath("vae/plain")),
    },
    textEncoders: [{
      config: text,
      weights: new Weights(initialise(clipTextParameters(text), 1)),
      tokenizer: await ClipTokenizer.load(goldenPath("clip/tokenizer")),
    }],
    schedule: NoiseSchedule.fromConfig({}),
  });
}

const SIZE = 16;
const image = (number: number): NumberedImage => ({
  number,
  width: SIZE,
  height: SIZE,
  data: Uint8Array.from({ length: SIZE * SIZE * 3 }, (_, i) => (i * (number + 3) * 7) % 256),
});

eachDevice("encodePairs: pairs hold the VAE's latents and the text encoder's states", async () => {
  const pipeline = await smallPipeline();
  const prompts = ["a photo of a cat", "rain"];
  const progress: number[] = [];
  const pairs = await encodePairs(pipeline, {
    prompts,
    imageCount: 4,
    images: [image(3), image(0), image(1), image(2)],
    pairs: [{ winner: 3, loser: 0, prompt: 1 }, { winner: 0, loser: 2, prompt: 0 }],
    seed: 0,
    onProgress: (done, total) => progress.push(done, total),
  });
  assertEquals(progress, [3, 5, 5, 5]);
  assertEquals(pairs.length, 2);
  const side = SIZE / vaeFactor(pipeline.vae.config);
  const latent = pipeline.vae.config.latent_channels;
  assertEquals([...pairs.latentShape], [side, side, latent]);

  const { winner, loser, context } = await pairs.read([1, 0]);
  const pixels = Float32Array.from(image(0).data, (byte) => byte / 127.5 - 1);
  const { mean } = vaeEncode(
    pipeline.vae.weights,
    pipeline.vae.config,
    tensor(pixels, [1, SIZE, SIZE, 3]),
  );
  using expected = scaleLatents(pipeline.vae.config, mean);
  const values = await expected.data();
  // Image 0 wins the second pair and loses the first: one latent, once drawn.
  assertEquals(winner.subarray(0, values.length), loser.subarray(values.length));
  const error = relativeError(winner.subarray(0, values.length), values);
  assert(error > 0 && error < 10, `the latent is not near its distribution's mean: ${error}`);

  const conditions = await pipeline.encodePrompts(["a photo of a cat"], [SIZE, SIZE]);
  const states = await conditions.context.data();
  assert(relativeError(context.subarray(0, states.length), states) < 1e-5);
  conditions.context.dispose();
  pipeline.dispose();
});

eachDevice("encodePairs: images that are missing or of another size are errors", async () => {
  const pipeline = await smallPipeline();
  const source = {
    prompts: ["rain"],
    imageCount: 2,
    pairs: [{ winner: 0, loser: 1, prompt: 0 }],
    seed: 0,
  };
  await assertRejects(
    () => encodePairs(pipeline, { ...source, images: [image(0)] }),
    Error,
    "a pair names image 1, which is not among the images given",
  );
  await assertRejects(
    () => encodePairs(pipeline, { ...source, images: [image(0), { ...image(1), width: 32 }] }),
    RangeError,
    "image 1 is 32 x 16 pixels and others are 16 x 16",
  );
  pipeline.dispose();
});
