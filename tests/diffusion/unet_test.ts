import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkParameters } from "../../lib/nn/init.ts";
import { loadWeights, Weights } from "../../lib/nn/weights.ts";
import { type Json, readJson, unetConfig } from "../../lib/diffusion/config.ts";
import { initUNet, unet, unetDown, unetParameters } from "../../lib/diffusion/unet.ts";
import { planArena } from "../../lib/tensor/cpu/memory.ts";
import { grad, realize, tensor, zeros } from "../../lib/tensor/mod.ts";
import { schedule } from "../../lib/tensor/schedule.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, goldenCases, goldenPath, openGolden } from "./golden.ts";

for (const { name, model, golden, residuals } of goldenCases("unet")) {
  eachDevice(`unet: ${name} agrees with diffusers`, async () => {
    const config = unetConfig(await readJson(goldenPath(`${model}/config.json`)));
    const weights = await loadWeights(goldenPath(model));
    checkParameters(weights, unetParameters(config));
    const file = await openGolden(golden);
    const inputs = {
      sample: await file.tensor("sample"),
      timestep: await file.tensor("timestep"),
      context: await file.tensor("context"),
      added: file.has("time_ids")
        ? {
          textEmbeds: await file.tensor("text_embeds"),
          timeIds: await file.tensor("time_ids"),
        }
        : undefined,
    };
    const output = unet(weights, config, inputs);
    const features = unetDown(weights, config, inputs);
    await realize(output, ...features.levels, features.last, features.mid);

    await assertClose(output, await file.values("output"), "output");
    await assertClose(features.last, await file.values("last"), "last");
    await assertClose(features.mid, await file.values("mid"), "mid");
    assertEquals(features.levels.length, residuals);
    for (const [i, level] of features.levels.entries()) {
      await assertClose(level, await file.values(`residual.${i}`), `residual ${i}`);
    }
    const owned = new Set([output, ...features.levels, features.last, features.mid]);
    for (const t of owned) t.dispose();
    weights.dispose();
  });
}

Deno.test("unet: computing blocks again keeps less than half in memory", async () => {
  const config = unetConfig(await readJson(goldenPath("unet/sd15/config.json")));
  const weights = new Weights(initUNet(config, 1));
  const bytes = (recompute: boolean) => {
    const sample = zeros([1, 32, 32, config.in_channels]).add(tensor([1], [1]));
    const inputs = {
      sample,
      timestep: tensor([500], [1]),
      context: zeros([1, 8, config.cross_attention_dim as number]),
    };
    const loss = unet(weights, config, inputs, { recompute }).square().mean();
    const { slots } = schedule([loss, ...grad(loss, [sample])]);
    const arena = slots.filter((slot) => slot.kind === "arena");
    return planArena(arena).bytes;
  };
  assert(bytes(true) < 0.5 * bytes(false), `${bytes(true)} of ${bytes(false)} bytes`);
});

const nano: Json = await readJson(goldenPath("unet/nano/config.json"));

eachDevice("unet: random weights have the names and shapes that a checkpoint has", async () => {
  for (const folder of ["unet/sd15", "unet/sdxl", "unet/sd15-two-layers"]) {
    const config = unetConfig(await readJson(goldenPath(`${folder}/config.json`)));
    const shapes = (tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>) =>
      Object.fromEntries([...tensors].map(([name, { shape }]) => [name, [...shape]]).sort());
    const loaded = await loadWeights(goldenPath(folder));
    assertEquals(shapes(initUNet(config, 1)), shapes(loaded.tensors));
    loaded.dispose();
  }
});

Deno.test("unetConfig: fills in what old files leave out", () => {
  const { use_linear_projection: _, transformer_layers_per_block: __, ...old } = nano;
  const config = unetConfig(old);
  assertEquals(config.use_linear_projection, false);
  assertEquals(config.transformer_layers_per_block, 1);
});

Deno.test("unetConfig: names what it does not know", () => {
  const read = (change: Json) => () => unetConfig({ ...nano, ...change }, "unet/config.json");
  assertThrows(
    read({ down_block_types: ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"] }),
    Error,
    'unet/config.json: "down_block_types" has the unknown block type "AttnDownBlock2D"; known are ' +
      "DownBlock2D, CrossAttnDownBlock2D",
  );
  assertThrows(read({ mid_block_type: "UNetMidBlock2D" }), Error, '"UNetMidBlock2D"');
  assertThrows(read({ class_embed_type: "timestep" }), Error, '"class_embed_type" is "timestep"');
  assertThrows(read({ only_cross_attention: [false, true, false] }), Error, "only_cross_attention");
  assertThrows(read({ block_out_channels: [16, 32] }), Error, "3 blocks");
  assertThrows(read({ attention_head_dim: [1, 2] }), Error, "a list of 3 numbers");
  assertThrows(
    read({ in_channels: "4" }),
    Error,
    '"in_channels" is "4"; expected a whole number from 1 to',
  );
  assertThrows(
    read({ block_out_channels: undefined }),
    Error,
    'unet/config.json has no key "block_out_channels"',
  );
});

Deno.test("unet: SDXL without its additional conditions says what is missing", async () => {
  const config = unetConfig(await readJson(goldenPath("unet/sdxl/config.json")));
  const file = await openGolden("unet/sdxl/golden-sdxl.safetensors");
  const inputs = {
    sample: await file.tensor("sample"),
    timestep: await file.tensor("timestep"),
    context: await file.tensor("context"),
  };
  const weights = new Weights(initUNet(config, 1));
  assertThrows(() => unet(weights, config, inputs), Error, "added.timeIds");
});
