import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { scaleLatents, vaeEncode, vaeFactor } from "../../lib/diffusion/vae.ts";
import { encodePairs, momentEncoder, type NumberedImage } from "../../lib/preference/mod.ts";
import { tensor } from "../../lib/tensor/mod.ts";
import { relativeError } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";
import { smallPipeline } from "./small_pipeline.ts";

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
  const { pairs, kept } = await encodePairs(pipeline, {
    prompts,
    imageCount: 4,
    images: [image(3), image(0), image(1), image(2)],
    pairs: [{ winner: 3, loser: 0, prompt: 1 }, { winner: 0, loser: 2, prompt: 0 }],
    seed: 0,
    onProgress: (done, total) => progress.push(done, total),
  });
  assertEquals(progress, [3, 5, 5, 5]);
  assertEquals([pairs.length, kept], [2, [0, 1]]);
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

eachDevice(
  "encodePairs: pairs whose images do not come are left out, other sizes are errors",
  async () => {
    const pipeline = await smallPipeline();
    const source = {
      prompts: ["rain", "rain ".repeat(30)],
      imageCount: 3,
      pairs: [{ winner: 0, loser: 1, prompt: 0 }, { winner: 2, loser: 0, prompt: 1 }],
      seed: 0,
    };
    let last: number[] = [];
    const { pairs, kept } = await encodePairs(pipeline, {
      ...source,
      images: [image(0), image(2)],
      onProgress: (...done) => last = done,
    });
    assertEquals([pairs.length, kept, last], [1, [1], [4, 4]]);
    const whole = await encodePairs(pipeline, {
      ...source,
      images: [image(0), image(1), image(2)],
    });
    const [found, expected] = [await pairs.read([0]), await whole.pairs.read([1])];
    assertEquals(found.winner, expected.winner);
    assertEquals(found.context, expected.context);
    await assertRejects(
      () => encodePairs(pipeline, { ...source, images: [] }),
      Error,
      "none of the images that the pairs name is there",
    );
    await assertRejects(
      () => encodePairs(pipeline, { ...source, images: [image(0), { ...image(1), width: 32 }] }),
      RangeError,
      "image 1 is 32 x 16 pixels and others are 16 x 16",
    );
    pipeline.dispose();
  },
);

Deno.test("large pictures are encoded one at a time, odd ones not at all", async () => {
  const { vae } = await smallPipeline();
  const atOnce = (side: number) => momentEncoder(vae, [side, side]).atOnce;
  assertEquals([64, 128, 256, 512, 1024].map(atOnce), [16, 16, 4, 1, 1]);
  const factor = vaeFactor(vae.config);
  assertThrows(() => atOnce(factor + 1), RangeError, `needs multiples of ${factor}`);
});
