import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { mirrored } from "../../lib/data/preprocess.ts";
import { scaleLatents, vaeEncode } from "../../lib/diffusion/vae.ts";
import type { Pipeline } from "../../lib/diffusion/pipeline.ts";
import { Weights } from "../../lib/nn/weights.ts";
import { EncodingCache, type Flip, type HashedPicture } from "../../lib/preference/mod.ts";
import { type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { inFolder } from "../data/rows.ts";
import { relativeError } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";
import { smallPipeline } from "./small_pipeline.ts";

const SIZE = 16;
const PROMPTS = ["a photo of a cat", "rain"] as const;
const hashOf = (i: number) => `${i}`.padStart(64, "0");
const picture = (i: number): HashedPicture => ({
  ...{ hash: hashOf(i), source: `image ${i}`, width: SIZE, height: SIZE },
  data: Uint8Array.from({ length: SIZE * SIZE * 3 }, (_, j) => (j * (i + 3) * 7) % 256),
});
const pair = (winner: number, loser: number, prompt: string) => ({
  ...{
    winner: hashOf(winner),
    loser: hashOf(loser),
    prompt,
    timeIds: [SIZE, SIZE, 0, 0, SIZE, SIZE],
  },
});

const open = (
  pipeline: Pipeline,
  folder: string,
  options: { mirrored?: boolean; fit?: string } = {},
) =>
  EncodingCache.open(pipeline, {
    ...{ folder, size: [SIZE, SIZE], preprocessing: { fit: options.fit ?? "crop" } },
    mirrored: options.mirrored ?? false,
  });

/** Mean and standard deviation of a picture's scaled latents, as the VAE gives them. */
async function momentsOf({ vae }: Pipeline, { data }: { data: Uint8Array }) {
  const pixels = tensor(Float32Array.from(data, (byte) => byte / 127.5 - 1), [1, SIZE, SIZE, 3]);
  const { mean, logvar } = vaeEncode(vae.weights, vae.config, pixels);
  using scaled = scaleLatents(vae.config, mean);
  using deviation = logvar.mul(0.5).exp().mul(vae.config.scaling_factor);
  return { mean: await scaled.data(), deviation: await deviation.data() };
}

const meanOf = (values: ArrayLike<number>) =>
  Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;

eachDevice(
  "a cache gives draws from the VAE's distribution, anew at each visit",
  (backend) =>
    inFolder(async (folder) => {
      const pipeline = await smallPipeline();
      using cache = await open(pipeline, folder);
      await cache.addPictures([picture(0), picture(1), picture(2)]);
      await cache.addPrompts(PROMPTS);
      const pairs = cache.pairs([pair(1, 0, PROMPTS[0]), pair(0, 2, PROMPTS[1])], "none", 5);
      assertEquals(pairs.length, 2);

      const { mean, deviation } = await momentsOf(pipeline, picture(0));
      // What is drawn in units of the distribution, over many visits: a standard normal.
      const visits = Array.from({ length: 64 }, (_, i) => i);
      const { winner, loser } = await pairs.read(visits.map(() => 1), visits);
      const normal = Array.from(
        winner,
        (value, i) => (value - mean[i % mean.length]!) / deviation[i % mean.length]!,
      );
      const spread = Math.sqrt(meanOf(normal.map((value) => value * value)));
      assert(Math.abs(meanOf(normal)) < 4 / Math.sqrt(normal.length), `mean ${meanOf(normal)}`);
      assert(Math.abs(spread - 1) < 0.05, `spread ${spread}`);
      assert(relativeError(winner.slice(0, 64), loser.slice(0, 64)) > 0.01);

      const [some, again, default1] = [
        await pairs.read([0, 1], [7, 8]),
        await pairs.read([1, 0], [8, 7]),
        await pairs.read([1]),
      ];
      const length = mean.length;
      assertEquals(some.winner.slice(0, length), again.winner.slice(length));
      assertEquals(some.loser.slice(length), again.loser.slice(0, length));
      assertEquals(default1.winner, (await pairs.read([1], [1])).winner);
      assert(relativeError(some.winner.slice(length), default1.winner) > 0, "another visit");
      const seeded = cache.pairs([pair(1, 0, PROMPTS[0])], "none", 6);
      assert(relativeError((await seeded.read([0])).winner, (await pairs.read([0])).winner) > 0);

      const conditions = await pipeline.encodePrompts([...PROMPTS], [SIZE, SIZE]);
      const [tokens, width] = pairs.contextShape;
      assertEquals([tokens, width], conditions.context.shape.slice(1) as [number, number]);
      const { context } = await pairs.read([0, 1]);
      assert(relativeError(context, await conditions.context.data()) < 1e-3, backend.name);
      assertThrows(
        () => cache.pairs([pair(1, 9, "rain")], "none", 0),
        Error,
        `no picture ${hashOf(9)}`,
      );
      assertThrows(() => cache.pairs([pair(1, 0, "snow")], "none", 0), Error, 'no prompt "snow"');
      assertThrows(() => cache.pairs([], "shared", 0), Error, "without mirrored pictures");
      conditions.context.dispose();
      pipeline.dispose();
    }),
);

eachDevice(
  "images are mirrored one by one, or both of a pair together",
  () =>
    inFolder(async (folder) => {
      // A narrow distribution, so that a draw shows which orientation it is of.
      const wide = await smallPipeline();
      const pipeline = await changedVae(wide, (bias) => bias.fill(-9, bias.length / 2));
      using cache = await open(pipeline, folder, { mirrored: true });
      await cache.addPictures([picture(0), picture(1)]);
      await cache.addPrompts(PROMPTS);
      const orientations = async (i: number) => {
        const both = [picture(i), mirrored(picture(i))];
        return await Promise.all(
          both.map(async (image) => (await momentsOf(pipeline, image)).mean),
        );
      };
      const [winners, losers] = [await orientations(1), await orientations(0)];
      const nearest = (latent: Float32Array, [plain, turned]: ArrayLike<number>[]) =>
        relativeError(latent, plain!) < relativeError(latent, turned!) ? "plain" : "turned";
      const seen = async (flip: Flip) => {
        const pairs = cache.pairs([pair(1, 0, PROMPTS[0])], flip, 0);
        const counts: Record<string, number> = {};
        for (let visit = 0; visit < 80; visit++) {
          const { winner, loser } = await pairs.read([0], [visit]);
          const both = `${nearest(winner, winners)} ${nearest(loser, losers)}`;
          counts[both] = (counts[both] ?? 0) + 1;
        }
        return counts;
      };
      const independent = await seen("independent");
      assertEquals(Object.keys(independent).length, 4);
      assert(Object.values(independent).every((count) => count > 8), JSON.stringify(independent));
      const shared = await seen("shared");
      assertEquals(Object.keys(shared).sort(), ["plain plain", "turned turned"]);
      assert(Object.values(shared).every((count) => count > 25), JSON.stringify(shared));
      assertEquals(await seen("none"), { "plain plain": 80 });
      wide.dispose();
      pipeline.dispose();
    }),
);

eachDevice(
  "what is there is not encoded again; what would change it has a place of its own",
  () =>
    inFolder(async (folder) => {
      const pipeline = await smallPipeline();
      const sizes = () => sizesBelow(folder).filter(([name]) => name.endsWith("records.bin"));
      {
        using cache = await open(pipeline, folder);
        await cache.addPictures([picture(0)]);
        await cache.addPrompts(["rain"]);
      }
      const first = sizes();
      const progress: number[] = [];
      {
        using cache = await open(pipeline, folder);
        assertEquals([0, 1].map((i) => cache.hasPicture(hashOf(i))), [true, false]);
        await cache.addPictures([picture(0)]);
        await cache.addPrompts(["rain"], (done) => progress.push(done));
      }
      assertEquals(sizes(), first);
      assertEquals(progress, [1]);
      {
        using other = await open(pipeline, folder, { fit: "stretch" });
        assert(!other.hasPicture(hashOf(0)));
        await other.addPrompts(["rain"], (done) => progress.push(done));
        assertEquals(progress, [1, 1], "prompts do not depend on pictures");
      }
      const changed = await changedVae(pipeline, (bias) => bias[0]! += 0.5);
      {
        using other = await open(changed, folder);
        assert(!other.hasPicture(hashOf(0)));
      }
      {
        // Only the mirrored ones are missing.
        using both = await open(pipeline, folder, { mirrored: true });
        assert(!both.hasPicture(hashOf(0)));
        await both.addPictures([picture(0)]);
        assert(both.hasPicture(hashOf(0)));
      }
      for (const [name, size] of first) assertEquals(new Map(sizes()).get(name), size);
      pipeline.dispose();
      changed.dispose();
    }),
);

eachDevice("numbers that are not finite are not kept", () =>
  inFolder(async (folder) => {
    const pipeline = await smallPipeline();
    const broken = await changedVae(pipeline, (bias) => bias[0] = Infinity);
    using cache = await open(broken, folder);
    await assertRejects(
      () => cache.addPictures([picture(0)]),
      Error,
      "the VAE gives numbers that no half-precision number can hold for image 0",
    );
    assert(!cache.hasPicture(hashOf(0)));
    pipeline.dispose();
    broken.dispose();
  }));

/** The same pipeline with the bias of the VAE's last layer changed: of the mean, and of the logarithm of the variance. */
async function changedVae(
  { vae: { weights } }: Pipeline,
  change: (bias: Float32Array) => void,
): Promise<Pipeline> {
  const tensors = new Map<string, Tensor>();
  const last = weights.has("quant_conv.bias") ? "quant_conv.bias" : "encoder.conv_out.bias";
  for (const [name, t] of weights.tensors) {
    const values = Float32Array.from(await t.data() as Float32Array);
    if (name === last) change(values);
    tensors.set(name, tensor(values, t.shape));
  }
  return await smallPipeline(new Weights(tensors));
}

function sizesBelow(folder: string): [string, number][] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }): [string, number][] => {
    const path = `${folder}/${name}`;
    return isDirectory ? sizesBelow(path) : [[path, Deno.statSync(path).size]];
  }).sort(([a], [b]) => a < b ? -1 : 1);
}
