import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { clipTextConfig, type Json, unetConfig, vaeConfig } from "../../lib/diffusion/config.ts";
import { clipTextParameters } from "../../lib/diffusion/clip_text.ts";
import { generate, type Pipeline } from "../../lib/diffusion/pipeline.ts";
import {
  loadPipeline,
  loadTokenizers,
  openPipeline,
  type PipelineFiles,
  savePipeline,
} from "../../lib/diffusion/pipeline_files.ts";
import { readSingleFile } from "../../lib/diffusion/single_file.ts";
import { unetParameters } from "../../lib/diffusion/unet.ts";
import { vaeParameters } from "../../lib/diffusion/vae.ts";
import { fileShape } from "../../lib/nn/init.ts";
import { openSafetensors, writeSafetensors } from "../../lib/nn/safetensors.ts";
import type { StoredWeights } from "../../lib/nn/weights.ts";
import { getDevice, setDevice } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";
import {
  checksums,
  type GoldenCheckpoint,
  goldenJson,
  headerOf,
  writeCheckpoint,
} from "./checkpoint_files.ts";
import { goldenCases, goldenPath } from "./golden.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const checkpoints = new Map(
  goldenCases("single-file").map(({ name, golden }) => [
    name,
    goldenJson<GoldenCheckpoint>(golden),
  ]),
);
const golden = (name: string) => checkpoints.get(name)!;

/** The parts by diffusers' names of their folders. */
function partsOf({ unet, vae, textEncoders }: PipelineFiles) {
  return Object.entries({
    unet,
    vae,
    ...Object.fromEntries(
      textEncoders.map((
        encoder,
        i,
      ) => [i === 0 ? "text_encoder" : `text_encoder_${i + 1}`, encoder]),
    ),
  });
}

const shapesOf = ({ tensors }: StoredWeights) =>
  Object.fromEntries([...tensors].map(([name, { shape }]) => [name, shape]));

/** Settings of transformers that play no part in computing. */
const notRead = ["bos_token_id", "pad_token_id"];

for (const [name, { config, file, parts }] of checkpoints) {
  Deno.test(`single file: every tensor of ${name} has its place and its shape`, () => {
    const files = readSingleFile(`${name}.safetensors`, headerOf(file));
    const found = partsOf(files);
    assertEquals(found.map(([part]) => part).sort(), Object.keys(parts).sort());
    for (const [part, { config: derived, stored }] of found) {
      for (const [key, value] of Object.entries(config[part]!)) {
        if (notRead.includes(key)) continue;
        const given = (derived as unknown as Json)[key];
        // One number for all blocks may also be written as a list.
        const expected = Array.isArray(given) && !Array.isArray(value)
          ? given.map(() => value)
          : value;
        assertEquals(given, expected, `${part}: ${key}`);
      }
      const shapes = Object.entries(parts[part]!).map(([key, [shape]]) => [key, shape]);
      assertEquals(shapesOf(stored), Object.fromEntries(shapes));
    }
    // Every tensor is read once, and what is left over is what the published files carry besides.
    const read = new Set(
      found.flatMap(([, { stored }]) => stored.tensors.values().map(({ name }) => name).toArray()),
    );
    assertEquals(new Set([...read, ...files.unread]), new Set(Object.keys(file)));
    assert(files.unread.length > 0 && !files.unread.some((name) => read.has(name)));
  });

  Deno.test(`parameters: those of ${name} are diffusers' and transformers'`, () => {
    const lists = {
      unet: () => unetParameters(unetConfig(config.unet!)),
      vae: () => vaeParameters(vaeConfig(config.vae!)),
      text_encoder: () => clipTextParameters(clipTextConfig(config.text_encoder!)),
      text_encoder_2: () =>
        clipTextParameters(clipTextConfig({ ...config.text_encoder_2!, with_projection: true })),
    };
    for (const [part, tensors] of Object.entries(parts)) {
      const parameters = lists[part as keyof typeof lists]();
      assertEquals(
        Object.fromEntries(parameters.map(({ name, shape }) => [name, fileShape(shape)])),
        Object.fromEntries(Object.entries(tensors).map(([key, [shape]]) => [key, shape])),
        part,
      );
    }
  });
}

/** Writes a small checkpoint in a folder of its own, with CLIP's vocabulary beside it. */
async function single(name: string, change: GoldenCheckpoint["file"] = {}): Promise<string> {
  const place = await Deno.makeTempDir({ dir: folder });
  const file = Object.entries({ ...golden(name).file, ...change }).filter(([, entry]) => entry);
  await writeCheckpoint(`${place}/model.safetensors`, Object.fromEntries(file));
  await Deno.symlink(goldenPath("clip/tokenizer"), `${place}/tokenizer`);
  return `${place}/model.safetensors`;
}

const prompts = ["a photo of a cat", "a small red circle"];
const options = { seed: 3, steps: 2, guidanceScale: 3, height: 16, width: 16 };

async function checkSums(pipeline: Pipeline, parts: Record<string, Record<string, number>>) {
  const weights = { unet: pipeline.unet.weights, vae: pipeline.vae.weights };
  const encoders = pipeline.textEncoders.map(({ weights }, i) =>
    [i === 0 ? "text_encoder" : `text_encoder_${i + 1}`, weights] as const
  );
  const all = [...Object.entries(weights), ...encoders];
  assertEquals(all.length, Object.keys(parts).length);
  for (const [part, weights] of all) assertEquals(await checksums(weights), parts[part], part);
}

for (const name of ["sd15-small", "sdxl-small"]) {
  eachDevice(`single file: ${name} holds the tensors that diffusers reads from it`, async () => {
    const live = getDevice().liveBytes;
    const path = await single(name);
    const seen: number[] = [];
    let all = 0;
    const pipeline = await loadPipeline(path, {
      onProgress: (done, total) => {
        seen.push(done);
        all = total;
      },
    });
    assertEquals(seen, seen.toSorted((a, b) => a - b));
    assertEquals(seen.at(-1), all);
    // All of the file but its header and the tensors of no part.
    const { entries } = await openSafetensors(path);
    const { unread } = await openPipeline(path);
    const bytes = [...entries].filter(([name]) => !unread.includes(name))
      .reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
    assertEquals(all, bytes);
    const sums = Object.entries(golden(name).parts).map(([part, tensors]) => [
      part,
      Object.fromEntries(Object.entries(tensors).map(([key, [, sum]]) => [key, sum!])),
    ]);
    await checkSums(pipeline, Object.fromEntries(sums));

    const images = await generate(pipeline, prompts, options);
    assert(new Set(images.data).size > 3, "the images are flat");
    await savePipeline(`${folder}/${name}`, pipeline);
    pipeline.dispose();
    const copy = await loadPipeline(`${folder}/${name}`);
    assertEquals(await generate(copy, prompts, options), images);
    copy.dispose();
    assertEquals(getDevice().liveBytes, live);
  });
}

Deno.test("single file: a missing, unknown or wrong tensor is named as the file has it", () => {
  const read = (name: string, change: Record<string, unknown>) => () => {
    const file = Object.entries({ ...golden(name).file, ...change }).filter(([, entry]) => entry);
    readSingleFile("m.safetensors", headerOf(Object.fromEntries(file) as GoldenCheckpoint["file"]));
  };
  const fails = (name: string, change: Record<string, unknown>, words: string) =>
    assertThrows(read(name, change), Error, words);
  const unet = "model.diffusion_model";
  const second = "conditioner.embedders.1.model";

  for (
    const missing of [
      `${unet}.middle_block.1.norm.weight`,
      `${unet}.out.2.weight`,
      `${unet}.input_blocks.0.0.weight`,
      "first_stage_model.decoder.up.1.upsample.conv.bias",
      "first_stage_model.encoder.mid.attn_1.q.weight",
      "cond_stage_model.transformer.text_model.final_layer_norm.bias",
      "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    ]
  ) fails("sd15-small", { [missing]: undefined }, `no tensor "${missing}" in m.safetensors`);
  for (
    const missing of [
      `${unet}.label_emb.0.2.bias`,
      `${second}.text_projection`,
      `${second}.transformer.resblocks.1.attn.in_proj_bias`,
      `${second}.ln_final.weight`,
    ]
  ) fails("sdxl-small", { [missing]: undefined }, `no tensor "${missing}" in m.safetensors`);

  fails(
    "sd15-small",
    { [`${unet}.adapter.weight`]: ["F16", [1]], "extra.bias": ["F16", [1]] },
    `m.safetensors: tensor "${unet}.adapter.weight" (and 1 more) belongs to no part of a Stable ` +
      "Diffusion 1.5 checkpoint",
  );
  // Blocks that the shapes before them do not announce.
  fails(
    "sd15-small",
    { [`${unet}.input_blocks.9.0.in_layers.0.weight`]: ["F16", [64]] },
    "no part",
  );

  const wrong = (name: string, tensor: string, shape: number[], expected: string) =>
    fails(
      name,
      { [tensor]: ["F16", shape] },
      `tensor "${tensor}" in m.safetensors has the shape [${
        shape.join(", ")
      }]; the configuration ` +
        `gives [${expected}]`,
    );
  wrong("sd15-small", `${unet}.middle_block.0.in_layers.2.weight`, [64, 64, 1, 1], "64, 64, 3, 3");
  wrong("sd15-small", "first_stage_model.decoder.mid.attn_1.q.weight", [64, 64, 3, 3], "64, 64");
  wrong("sdxl-small", `${second}.transformer.resblocks.0.attn.in_proj_bias`, [100], "128");
  fails(
    "sdxl-small",
    { [`${second}.transformer.resblocks.0.attn.in_proj_weight`]: ["F16", [300, 128]] },
    "has the shape [100, 128]; the configuration gives [128, 128]",
  );
  fails(
    "sd15-small",
    { [`${unet}.out.2.bias`]: ["I32", [4]] },
    `tensor "${unet}.out.2.bias" in m.safetensors holds I32`,
  );
  fails(
    "sd15-small",
    { [`${unet}.input_blocks.0.0.weight`]: ["F16", [32]] },
    "expected 2 dimensions",
  );
  // A text model that has no whole number of heads of 64 channels.
  const tokens = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
  fails("sd15-small", { [tokens]: ["F16", [700, 48]] }, '"num_attention_heads" is 0.75');
});

Deno.test("single file: what is not Stable Diffusion 1.5 or XL is told by name", () => {
  const refused: [string, string][] = [
    ["cond_stage_model.model.ln_final.bias", "a Stable Diffusion 2 checkpoint"],
    ["conditioner.embedders.0.model.ln_final.bias", "SDXL's refiner"],
    ["v_pred", "of a model that predicts v"],
    ["edm_mean", "a Playground checkpoint"],
    ["control_model.time_embed.0.weight", "a ControlNet"],
    ["model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "SD3 or FLUX"],
    ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "give it as --lora"],
    ["unet.mid_block.attentions.0.proj_in.lora_A.weight", "give it as --lora"],
    ["down_blocks.0.resnets.0.conv1.weight", "give the folder that holds model_index.json"],
    ["weight", "neither a Stable Diffusion 1.5 nor an XL checkpoint"],
  ];
  for (const [name, words] of refused) {
    const header = headerOf({ [name]: ["F16", [1]] });
    const error = assertThrows(() => readSingleFile("m.safetensors", header), Error, words);
    assert(error.message.startsWith("m.safetensors is ") && error.message.includes(`"${name}"`));
  }
  const empty = () => readSingleFile("m.safetensors", new Map());
  assertThrows(empty, Error, "neither a Stable Diffusion 1.5 nor an XL checkpoint");
});

Deno.test("openPipeline: other kinds of files are refused by name", async () => {
  const inpainting = await single("sd15-small", {
    "model.diffusion_model.input_blocks.0.0.weight": ["F16", [32, 9, 3, 3]],
  });
  await assertRejects(
    () => openPipeline(inpainting),
    Error,
    `${inpainting}: the U-Net takes 9 channels, the VAE's latents have 4: models for inpainting`,
  );
  await assertRejects(() => openPipeline("model.ckpt"), Error, "model.ckpt is a pickle");
  const text = `${folder}/notes.txt`;
  Deno.writeTextFileSync(text, "no model, but a text of some length");
  await assertRejects(() => openPipeline(text), Error, `${text} is not a safetensors file`);
  // An end that is missing is found without reading the tensors before it.
  const cut = await single("sd15-small");
  await Deno.truncate(cut, (await Deno.stat(cut)).size - 1);
  await assertRejects(() => loadPipeline(cut), Error, `${cut} is truncated: tensor "`);
});

Deno.test("loadTokenizers: a single file's vocabulary lies beside it", async () => {
  const path = await single("sdxl-small");
  const place = path.slice(0, path.lastIndexOf("/"));
  const files = await openPipeline(path);
  const [first, second] = await loadTokenizers(files);
  const ids = [...first!.encode("a cat")];
  const end = first!.files.vocab["<|endoftext|>"]!;
  assertEquals(first!.files.vocab["!"], 0);
  // SDXL's second encoder has another padding.
  const length = ids.indexOf(end) + 1;
  assertEquals([...second!.encode("a cat")], [
    ...ids.slice(0, length),
    ...ids.slice(length).fill(0),
  ]);
  assertEquals(new Set(ids.slice(length)), new Set([end]));

  // CLIP's two files are enough.
  Deno.removeSync(`${place}/tokenizer`);
  Deno.mkdirSync(`${place}/tokenizer`);
  for (const file of ["vocab.json", "merges.txt"]) {
    Deno.copyFileSync(goldenPath(`clip/tokenizer/${file}`), `${place}/tokenizer/${file}`);
  }
  assertEquals((await loadTokenizers(files)).map((t) => [...t.encode("a cat")]), [
    ids,
    [...second!.encode("a cat")],
  ]);

  // A second folder is used where there is one.
  Deno.symlinkSync(goldenPath("clip/tokenizer"), `${place}/tokenizer_2`);
  assertEquals([...(await loadTokenizers(files))[1]!.encode("a cat")], ids);
  Deno.removeSync(`${place}/tokenizer_2`);

  Deno.removeSync(`${place}/tokenizer/merges.txt`);
  await assertRejects(
    () => loadPipeline(path),
    Error,
    `no such file: ${place}/tokenizer/merges.txt`,
  );
  Deno.removeSync(`${place}/tokenizer`, { recursive: true });
  await assertRejects(
    () => loadPipeline(path),
    Error,
    `${path} needs CLIP's vocabulary, which single files do not hold: put vocab.json and ` +
      `merges.txt, or tokenizer.json, in the folder ${place}/tokenizer; every`,
  );
});

Deno.test("loadTokenizers: a vocabulary beyond the text encoder's is refused", async () => {
  const tokens = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
  const path = await single("sd15-small", { [tokens]: ["F16", [512, 64]] });
  await assertRejects(
    () => loadPipeline(path),
    Error,
    'ids from 0 to 511 ("vocab_size"): they are not of one model',
  );
});

/** A copy of the folder that diffusers saved, with its tokenizer, changed at will. */
async function copyOfFolder(change: (path: string) => void | Promise<void> = () => {}) {
  const path = await Deno.makeTempDir({ dir: folder });
  const from = goldenPath("checkpoint/fp16-shards");
  Deno.copyFileSync(`${from}/model_index.json`, `${path}/model_index.json`);
  for (const part of ["unet", "vae", "text_encoder", "scheduler"]) {
    Deno.mkdirSync(`${path}/${part}`);
    for (const { name } of Deno.readDirSync(`${from}/${part}`)) {
      Deno.copyFileSync(`${from}/${part}/${name}`, `${path}/${part}/${name}`);
    }
  }
  Deno.symlinkSync(goldenPath("clip/tokenizer"), `${path}/tokenizer`);
  await change(path);
  return path;
}

function editJson(file: string, change: Record<string, unknown>): void {
  const json = JSON.parse(Deno.readTextFileSync(file));
  Deno.writeTextFileSync(file, JSON.stringify({ ...json, ...change }));
}

eachDevice("folder: sharded fp16 variants as diffusers saves them are read", async () => {
  const path = await copyOfFolder((path) => {
    // What Stable Diffusion 1.5's folder has besides, and nothing here reads.
    for (const part of ["safety_checker", "feature_extractor", "image_encoder"]) {
      Deno.mkdirSync(`${path}/${part}`);
      Deno.writeTextFileSync(`${path}/${part}/config.json`, "not even JSON");
    }
    editJson(`${path}/model_index.json`, {
      safety_checker: ["stable_diffusion", "StableDiffusionSafetyChecker"],
      feature_extractor: ["transformers", "CLIPImageProcessor"],
      requires_safety_checker: true,
    });
  });
  const pipeline = await loadPipeline(path);
  assertEquals(pipeline.unet.weights.get("conv_in.weight").dtype, "f16");
  await checkSums(pipeline, goldenJson("checkpoint/fp16-shards.json.gz"));
  // A copy does not claim parts that it does not have.
  const { safety_checker, feature_extractor, requires_safety_checker } = pipeline.index;
  assertEquals([safety_checker, feature_extractor], [[null, null], [null, null]]);
  assertEquals(requires_safety_checker, false);
  pipeline.dispose();
});

Deno.test("loadPipeline: weights that the device cannot hold are not read", async () => {
  const path = await single("sd15-small");
  const device = getDevice();
  setDevice({ ...device, name: "cpu", liveBytes: 0, capacity: 3e6 });
  try {
    await assertRejects(
      () => loadPipeline(path),
      RangeError,
      `the weights of ${path} take 8.1 MB, but the cpu device holds at most 3.0 MB`,
    );
  } finally {
    setDevice(device);
  }
});

Deno.test("folder: text encoders may carry a table of positions", async () => {
  const path = await copyOfFolder(async (path) => {
    const part = `${path}/text_encoder`;
    const { weight_map } = JSON.parse(
      Deno.readTextFileSync(`${part}/model.safetensors.index.fp16.json`),
    );
    await writeSafetensors(
      `${part}/positions.safetensors`,
      new Map([["text_model.embeddings.position_ids", {
        dtype: "I64" as const,
        shape: [1, 2],
        data: BigInt64Array.of(0n, 1n),
      }]]),
    );
    editJson(`${part}/model.safetensors.index.fp16.json`, {
      weight_map: {
        ...weight_map,
        "text_model.embeddings.position_ids": "positions.safetensors",
      },
    });
  });
  const { textEncoders } = await openPipeline(path);
  assert(!textEncoders[0]!.stored.tensors.has("text_model.embeddings.position_ids"));
});

Deno.test("folder: what is wrong is named with its file", async () => {
  const unet = "unet/diffusion_pytorch_model";
  const shard = `${unet}.fp16-00002-of-00003.safetensors`;
  const fails = async (change: (path: string) => void, words: (path: string) => string) => {
    const path = await copyOfFolder(change);
    await assertRejects(() => loadPipeline(path), Error, words(path));
  };
  const index = (change: Record<string, unknown>) => (path: string) =>
    editJson(`${path}/model_index.json`, change);

  for (const content of ["null", "[]", "{", ""]) {
    await fails(
      (path) => Deno.writeTextFileSync(`${path}/model_index.json`, content),
      (path) => `${path}/model_index.json is not `,
    );
  }
  await fails(
    index({ _class_name: ["x"] }),
    (p) => `${p}/model_index.json: "_class_name" is ["x"]`,
  );
  await fails(
    index({ text_encoder: [null, null] }),
    (p) => `${p}/model_index.json: "text_encoder" is [null,null]`,
  );
  await fails(
    index({ tokenizer: ["transformers", "T5Tokenizer"] }),
    (p) =>
      `${p}/model_index.json: "tokenizer" is ["transformers","T5Tokenizer"]; expected the class`,
  );
  await fails((p) => Deno.removeSync(`${p}/tokenizer`), (p) => `no such file: ${p}/tokenizer/`);
  await fails(
    (p) => Deno.truncateSync(`${p}/${shard}`, 15000),
    (p) => `${p}/${shard} is truncated: tensor "`,
  );
  await fails((p) => Deno.removeSync(`${p}/${shard}`), (p) => `no such file: ${p}/${shard}`);
  await fails(
    (p) => editJson(`${p}/unet/config.json`, { block_out_channels: [4, 16] }),
    (p) => `in ${p}/unet has the shape [`,
  );
  await fails(
    (p) => editJson(`${p}/unet/config.json`, { layers_per_block: 2 }),
    () => 'no tensor "down_blocks.0.resnets.1.norm1.weight"',
  );
  await fails(
    (p) =>
      editJson(`${p}/unet/config.json`, {
        down_block_types: ["DownBlock2D", "DownBlock2D"],
        up_block_types: ["UpBlock2D", "UpBlock2D"],
      }),
    (p) => `in ${p}/unet is not one of this model's`,
  );
  await fails(
    (p) => editJson(`${p}/text_encoder/config.json`, { hidden_size: "8" }),
    (p) => `${p}/text_encoder/config.json: "hidden_size" is "8"; expected a whole number`,
  );
  await fails(
    (p) => Deno.writeTextFileSync(`${p}/vae/config.json`, "null"),
    (p) => `${p}/vae/config.json is not a JSON object`,
  );
});

Deno.test("folder: parts of different models are refused", async () => {
  const path = await copyOfFolder(async (path) => {
    Deno.removeSync(`${path}/text_encoder`, { recursive: true });
    await Deno.symlink(goldenPath("clip/text-gelu-end"), `${path}/text_encoder`);
  });
  await assertRejects(
    () => openPipeline(path),
    Error,
    `${path}: the U-Net attends to prompts of width 8 ("cross_attention_dim"), the text encoders ` +
      "give 32: they are not of one model",
  );
});
