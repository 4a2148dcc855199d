import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkParameters } from "../../lib/nn/init.ts";
import { loadWeights, Weights } from "../../lib/nn/weights.ts";
import {
  clipEmbeddings,
  clipParameters,
  clipSimilarity,
  initClip,
} from "../../lib/diffusion/clip.ts";
import {
  clipText,
  clipTextParameters,
  eosPositions,
  initClipText,
} from "../../lib/diffusion/clip_text.ts";
import { clipVision, clipVisionParameters } from "../../lib/diffusion/clip_vision.ts";
import {
  clipConfig,
  type ClipTextConfig,
  clipTextConfig,
  clipVisionConfig,
  readJson,
} from "../../lib/diffusion/config.ts";
import { realize, type Tensor, tensor, zeros } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";
import { assertClose, goldenCases, type GoldenFile, goldenPath, openGolden } from "./golden.ts";

async function textInputs(config: ClipTextConfig, file: GoldenFile) {
  const ids = await file.tensor("ids");
  const eos = eosPositions(config, await file.values("ids") as Int32Array, ids.shape[1]!);
  return { ids, eos: tensor(eos, [eos.length]) };
}

for (const { name, model, golden } of goldenCases("clip-text")) {
  eachDevice(`clip text: ${name} agrees with transformers`, async () => {
    const config = clipTextConfig(await readJson(goldenPath(`${model}/config.json`)));
    const weights = await loadWeights(goldenPath(model));
    checkParameters(weights, clipTextParameters(config));
    const file = await openGolden(golden);
    assertEquals(config.with_projection, file.has("text_embeds"));
    const found = clipText(weights, config, await textInputs(config, file));
    const expected: [string, Tensor][] = [
      ["last_hidden_state", found.hidden],
      ["pooler_output", found.pooled],
      ...found.hiddenStates.map((h, i): [string, Tensor] => [`hidden_states.${i}`, h]),
    ];
    if (found.projected) expected.push(["text_embeds", found.projected]);
    await realize(...expected.map(([, t]) => t));
    for (const [key, t] of expected) await assertClose(t, await file.values(key), key);
    for (const [, t] of expected) t.dispose();
    weights.dispose();
  });
}

for (const { name, model, golden } of goldenCases("clip-vision")) {
  eachDevice(`clip vision: ${name} agrees with transformers`, async () => {
    const config = clipVisionConfig(await readJson(goldenPath(`${model}/config.json`)));
    const weights = await loadWeights(goldenPath(model));
    checkParameters(weights, clipVisionParameters(config));
    const file = await openGolden(golden);
    const found = clipVision(weights, config, await file.tensor("pixels"));
    await realize(found.hidden, found.pooled, found.projected!);
    await assertClose(found.hidden, await file.values("last_hidden_state"), "hidden");
    await assertClose(found.pooled, await file.values("pooler_output"), "pooled");
    await assertClose(found.projected!, await file.values("image_embeds"), "projected");
    for (const t of [found.hidden, found.pooled, found.projected!]) t.dispose();
    weights.dispose();
  });
}

for (const { model, golden } of goldenCases("clip-model")) {
  eachDevice("clip: embeddings and similarity agree with transformers", async () => {
    const config = clipConfig(await readJson(goldenPath(`${model}/config.json`)));
    const weights = await loadWeights(goldenPath(model));
    checkParameters(weights, clipParameters(config));
    const file = await openGolden(golden);
    const inputs = await textInputs(config.text_config, file);
    const pixels = await file.tensor("pixels");
    const { text, image } = clipEmbeddings(weights, config, inputs, pixels);
    const logits = clipSimilarity(weights, config, inputs, pixels);
    await assertClose(text, await file.values("text_embeds"), "text");
    await assertClose(image, await file.values("image_embeds"), "image");
    await assertClose(logits, await file.values("logits_per_image"), "logits");
    for (const t of [text, image, logits]) t.dispose();
    weights.dispose();
  });
}

eachDevice("clip: random weights have the names and shapes that a checkpoint has", async () => {
  const config = clipConfig(await readJson(goldenPath("clip/model/config.json")));
  const loaded = await loadWeights(goldenPath("clip/model"));
  const names = initClip(config, 1);
  for (const [name, { shape }] of names) assertEquals(shape, loaded.get(name).shape, name);
  const extra = loaded.names().filter((name) => !names.has(name));
  assert(extra.every((name) => name.endsWith("position_ids")), `${extra}`);
  loaded.dispose();
});

Deno.test("clip text: a prompt beyond the positions, and images of another size, are refused", async () => {
  const text = clipTextConfig(await readJson(goldenPath("clip/text-gelu-end/config.json")));
  assertThrows(
    () =>
      clipText(new Weights(initClipText(text, 1)), text, {
        ids: zeros([1, 13], "i32"),
        eos: zeros([1], "i32"),
      }),
    RangeError,
    "13 tokens does not fit a text model of 12 positions",
  );
  const vision = clipVisionConfig(await readJson(goldenPath("clip/vision-gelu/config.json")));
  assertThrows(
    () => clipVision(new Weights(new Map()), vision, zeros([1, 32, 24, 3])),
    RangeError,
    "images of 24x24",
  );
});
