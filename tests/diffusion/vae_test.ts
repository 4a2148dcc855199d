import { assertAlmostEquals, assertEquals, assertThrows } from "@std/assert";
import { checkParameters } from "../../lib/nn/init.ts";
import { loadWeights } from "../../lib/nn/weights.ts";
import { readJson, vaeConfig } from "../../lib/diffusion/config.ts";
import {
  initVae,
  scaleLatents,
  unscaleLatents,
  vaeDecode,
  vaeEncode,
  vaeParameters,
  vaeTensorName,
} from "../../lib/diffusion/vae.ts";
import { tensor } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, goldenCases, goldenPath, openGolden } from "./golden.ts";

for (const { name, model, golden } of goldenCases("vae")) {
  eachDevice(`vae: ${name} agrees with diffusers`, async () => {
    const config = vaeConfig(await readJson(goldenPath(`${model}/config.json`)));
    const weights = await loadWeights(goldenPath(model));
    checkParameters(weights, vaeParameters(config));
    const file = await openGolden(golden);
    const { mean, logvar } = vaeEncode(weights, config, await file.tensor("images"));
    await assertClose(mean, await file.values("mean"), "mean");
    await assertClose(logvar, await file.values("logvar"), "logvar");
    const decoded = vaeDecode(weights, config, await file.tensor("latents"));
    await assertClose(decoded, await file.values("decoded"), "decoded");
    for (const t of [mean, logvar, decoded]) t.dispose();
    weights.dispose();
  });
}

eachDevice("vae: scaling and unscaling are inverse", async () => {
  const config = vaeConfig(await readJson(goldenPath("vae/plain/config.json")));
  using scaled = scaleLatents(config, tensor([0.1, 1.1], [2]));
  using back = unscaleLatents(config, scaled);
  const [zero, one] = await scaled.data();
  assertAlmostEquals(zero!, 0, 1e-6);
  assertAlmostEquals(one!, 1.5, 1e-6);
  assertAlmostEquals((await back.data())[1]!, 1.1, 1e-6);
});

eachDevice("vae: random weights have the names and shapes that a checkpoint has", async () => {
  for (const folder of ["vae/sd", "vae/plain"]) {
    const config = vaeConfig(await readJson(goldenPath(`${folder}/config.json`)));
    const shapes = (tensors: ReadonlyMap<string, { readonly shape: readonly number[] }>) =>
      Object.fromEntries([...tensors].map(([name, { shape }]) => [name, [...shape]]).sort());
    const loaded = await loadWeights(goldenPath(folder));
    assertEquals(shapes(initVae(config, 1)), shapes(loaded.tensors));
    loaded.dispose();
  }
});

Deno.test("vae: the early names of the attention are understood", () => {
  assertEquals(
    vaeTensorName("decoder.mid_block.attentions.0.proj_attn.bias"),
    "decoder.mid_block.attentions.0.to_out.0.bias",
  );
  assertEquals(
    vaeTensorName("encoder.mid_block.attentions.0.query.weight"),
    "encoder.mid_block.attentions.0.to_q.weight",
  );
  assertEquals(vaeTensorName("encoder.conv_in.bias"), "encoder.conv_in.bias");
});

Deno.test("vaeConfig: names an unknown block type and a missing key", async () => {
  const json = await readJson(goldenPath("vae/sd/config.json"));
  assertThrows(
    () => vaeConfig({ ...json, up_block_types: ["AttnUpDecoderBlock2D"] }, "vae/config.json"),
    Error,
    'vae/config.json: "up_block_types" has the unknown block type "AttnUpDecoderBlock2D"',
  );
  assertThrows(
    () => vaeConfig({ ...json, latent_channels: undefined }, "vae/config.json"),
    Error,
    'vae/config.json has no key "latent_channels"',
  );
});
