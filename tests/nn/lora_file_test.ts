import { createHash } from "node:crypto";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { type Json, readJson, unetConfig } from "../../lib/diffusion/config.ts";
import { unet, unetParameters } from "../../lib/diffusion/unet.ts";
import { createLora, loraTargets } from "../../lib/nn/lora.ts";
import { loadLora, type LoraFormat, saveLora } from "../../lib/nn/lora_file.ts";
import { loraLayers } from "../../lib/nn/lora_names.ts";
import {
  openSafetensors,
  type SafetensorsDType,
  writeSafetensors,
} from "../../lib/nn/safetensors.ts";
import { loadWeights, type LoraAdapter, Weights } from "../../lib/nn/weights.ts";
import { getDevice, zeros } from "../../lib/tensor/mod.ts";
import {
  assertClose,
  type GoldenCase,
  goldenCases,
  goldenPath,
  openGolden,
  relativeError,
} from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";
import { writeLoras } from "./written_loras.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

type LayoutCase = GoldenCase & { lora: string; text_encoder_layers: number };

/** The output of a small U-Net under an adapter, on the inputs of a golden file. */
async function outputOf(model: string, golden: string, base: Weights, lora: LoraAdapter) {
  const config = unetConfig(await readJson(goldenPath(`${model}/config.json`)));
  const file = await openGolden(golden);
  const added = file.has("text_embeds")
    ? { textEmbeds: await file.tensor("text_embeds"), timeIds: await file.tensor("time_ids") }
    : undefined;
  return unet(base.withLora(lora), config, {
    sample: await file.tensor("sample"),
    timestep: await file.tensor("timestep"),
    context: await file.tensor("context"),
    ...added && { added },
  });
}

function dispose(lora: LoraAdapter): void {
  lora.layers.forEach(({ down, up }) => [down, up].forEach((half) => half.dispose()));
}

for (const c of goldenCases("lora-layout") as LayoutCase[]) {
  eachDevice(`lora file: ${c.name} agrees with the original's output`, async () => {
    const live = getDevice().liveBytes;
    const base = await loadWeights(goldenPath(c.model));
    const lora = await loadLora(goldenPath(c.lora), base);
    assertEquals(lora.textEncoderLayers, c.text_encoder_layers);
    const output = await outputOf(c.model, c.golden, base, lora);
    await assertClose(output, await (await openGolden(c.golden)).values("output"), "output");
    output.dispose();
    dispose(lora);
    base.dispose();
    assertEquals(getDevice().liveBytes, live);
  });
}

eachDevice("lora file: what is written is what the originals read, to the byte", async () => {
  const cases = goldenCases("lora-written") as (GoldenCase & { sha256: string })[];
  const written = await writeLoras(folder);
  assertEquals(written.map(({ name }) => name), cases.map(({ name }) => name));
  for (const [i, { model, golden, files }] of written.entries()) {
    const hash = createHash("sha256");
    for (const file of files) hash.update(await Deno.readFile(file));
    assertEquals(hash.digest("hex"), cases[i]!.sha256, cases[i]!.name);
    // And it comes back as it was.
    const base = await loadWeights(goldenPath(`unet/${model}`));
    const lora = await loadLora(files[0]!, base);
    const output = await outputOf(`unet/${model}`, golden, base, lora);
    const expected = await (await openGolden(cases[i]!.golden)).values("output");
    const error = relativeError(await output.data(), expected);
    assert(error < 1e-3, `${cases[i]!.name}: relative error ${error}`);
    dispose(lora);
    base.dispose();
  }
});

type LoraCase = GoldenCase & { lora: string; rank: number; alpha: number };
for (const { name, model, lora: path, rank, alpha } of goldenCases("lora") as LoraCase[]) {
  eachDevice(`lora file: ${name} is saved as diffusers saved it`, async () => {
    const copy = `${folder}/${name}.safetensors`;
    const base = await loadWeights(goldenPath(model));
    const lora = await loadLora(goldenPath(path), base);
    await saveLora(copy, lora);
    const original = await openSafetensors(goldenPath(path));
    const saved = await openSafetensors(copy);
    // diffusers keeps peft's names for everything but attention; either form is read by it.
    const key = (n: string) => n.replace("lora.down", "lora_A").replace("lora.up", "lora_B");
    assertEquals(
      [...saved.entries.keys()].map(key).sort(),
      [...original.entries.keys()].map(key).sort(),
    );
    const byKey = new Map([...saved.entries.keys()].map((n) => [key(n), n]));
    for (const n of original.entries.keys()) {
      const twin = byKey.get(key(n))!;
      assertEquals(saved.entries.get(twin)!.shape, original.entries.get(n)!.shape);
      assertEquals(await saved.read(twin), await original.read(n), n);
    }
    const again = await loadLora(copy, base);
    assertEquals([lora.scale, again.scale], [alpha / rank, alpha / rank]);
    [lora, again].forEach(dispose);
    base.dispose();
  });
}

// Which keys other programs find in a file. The rules are those of ComfyUI (comfy/lora.py,
// model_lora_keys_unet; comfy/utils.py, unet_to_diffusers; comfy/weight_adapter/lora.py) and of
// A1111's web UI (extensions-builtin/Lora/networks.py, convert_diffusers_name_to_compvis).

const SD15: Json = {
  in_channels: 4,
  out_channels: 4,
  block_out_channels: [320, 640, 1280, 1280],
  down_block_types: [...Array(3).fill("CrossAttnDownBlock2D"), "DownBlock2D"],
  up_block_types: ["UpBlock2D", ...Array(3).fill("CrossAttnUpBlock2D")],
  layers_per_block: 2,
  cross_attention_dim: 768,
  attention_head_dim: 8,
};
const SDXL: Json = {
  in_channels: 4,
  out_channels: 4,
  block_out_channels: [320, 640, 1280],
  down_block_types: ["DownBlock2D", ...Array(2).fill("CrossAttnDownBlock2D")],
  up_block_types: [...Array(2).fill("CrossAttnUpBlock2D"), "UpBlock2D"],
  layers_per_block: 2,
  transformer_layers_per_block: [1, 2, 10],
  cross_attention_dim: 2048,
  attention_head_dim: [5, 10, 20],
  use_linear_projection: true,
  addition_embed_type: "text_time",
  addition_time_embed_dim: 256,
  projection_class_embeddings_input_dim: 2816,
};

/** Layers of a U-Net with two layers a block: diffusers' path and the original's. */
function layerPairs(depths: readonly number[]): [diffusers: string, original: string][] {
  const pairs: [string, string][] = [
    ["conv_in", "input_blocks.0.0"],
    ["conv_out", "out.2"],
    ["time_embedding.linear_1", "time_embed.0"],
    ["time_embedding.linear_2", "time_embed.2"],
  ];
  const resnet = (diffusers: string, original: string, shortcut: boolean) => {
    pairs.push(
      [`${diffusers}.conv1`, `${original}.in_layers.2`],
      [`${diffusers}.conv2`, `${original}.out_layers.3`],
      [`${diffusers}.time_emb_proj`, `${original}.emb_layers.1`],
    );
    if (shortcut) pairs.push([`${diffusers}.conv_shortcut`, `${original}.skip_connection`]);
  };
  const attention = (diffusers: string, original: string, depth: number) => {
    const layers = ["proj_in", "proj_out"];
    for (let d = 0; d < depth; d++) {
      for (const attn of ["attn1", "attn2"]) {
        for (const map of ["to_q", "to_k", "to_v", "to_out.0"]) {
          layers.push(`transformer_blocks.${d}.${attn}.${map}`);
        }
      }
      layers.push(`transformer_blocks.${d}.ff.net.0.proj`, `transformer_blocks.${d}.ff.net.2`);
    }
    for (const layer of layers) pairs.push([`${diffusers}.${layer}`, `${original}.${layer}`]);
  };
  const last = depths.length - 1;
  depths.forEach((depth, b) => {
    // SD1.5 and SDXL widen at the second and third level.
    const widens = b === 1 || b === 2;
    for (let i = 0; i < 2; i++) {
      const at = `input_blocks.${1 + 3 * b + i}`;
      resnet(`down_blocks.${b}.resnets.${i}`, `${at}.0`, widens && i === 0);
      if (depth > 0) attention(`down_blocks.${b}.attentions.${i}`, `${at}.1`, depth);
    }
    if (b < last) {
      pairs.push([`down_blocks.${b}.downsamplers.0.conv`, `input_blocks.${3 + 3 * b}.0.op`]);
    }
    const up = depths[last - b]!;
    for (let i = 0; i < 3; i++) {
      const at = `output_blocks.${3 * b + i}`;
      resnet(`up_blocks.${b}.resnets.${i}`, `${at}.0`, true);
      if (up > 0) attention(`up_blocks.${b}.attentions.${i}`, `${at}.1`, up);
    }
    if (b < last) {
      const at = `output_blocks.${3 * b + 2}.${up > 0 ? 2 : 1}.conv`;
      pairs.push([`up_blocks.${b}.upsamplers.0.conv`, at]);
    }
  });
  resnet("mid_block.resnets.0", "middle_block.0", false);
  resnet("mid_block.resnets.1", "middle_block.2", false);
  attention("mid_block.attentions.0", "middle_block.1", depths[last] || 1);
  return pairs;
}

const underscored = (path: string) => path.replaceAll(".", "_");

/** Whether ComfyUI finds a layer for a tensor of a LoRA file. */
function comfyui(pairs: [string, string][]): (name: string) => boolean {
  const stems = new Set(pairs.flatMap(([diffusers, original]) => {
    const processor = diffusers.replace(".to_", ".processor.to_").replace(/(\.to_out)\.0$/, "$1");
    return [
      `lora_unet_${underscored(original)}`,
      `lora_unet_${underscored(diffusers)}`,
      processor,
      `unet.${processor}`,
    ];
  }));
  const ends = /(\.alpha|[._]lora[._](up|down)\.weight|\.lora_[AB](\.default)?\.weight)$/;
  return (name) => ends.test(name) && stems.has(name.replace(ends, ""));
}

/** Whether A1111's web UI finds a layer for a tensor of a LoRA file. */
function a1111(pairs: [string, string][]): (name: string) => boolean {
  const modules = new Set(pairs.map(([, original]) => underscored(original)));
  const resnet: Record<string, string> = {
    conv1: "in_layers_2",
    conv2: "out_layers_3",
    time_emb_proj: "emb_layers_1",
    conv_shortcut: "skip_connection",
  };
  return (name) => {
    // What comes before the first dot names the layer.
    const [, stem, part] = /^lora_unet_([^.]+)\.(.+)$/.exec(name) ?? [];
    if (!stem || !["lora_up.weight", "lora_down.weight", "alpha"].includes(part!)) return false;
    const [, side, block, kind, layer, rest] =
      /^(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)$/.exec(stem) ?? [];
    const [, midKind, midLayer, midRest] =
      /^mid_block_(attentions|resnets)_(\d+)_(.+)$/.exec(stem) ?? [];
    if (side) {
      const n = 3 * Number(block) + Number(layer) + (side === "down" ? 1 : 0);
      const inside = kind === "attentions" ? `1_${rest}` : `0_${resnet[rest!] ?? rest}`;
      return modules.has(`${side === "down" ? "input" : "output"}_blocks_${n}_${inside}`);
    }
    if (midKind) {
      const inside = midKind === "attentions"
        ? `1_${midRest}`
        : `${2 * Number(midLayer)}_${resnet[midRest!] ?? midRest}`;
      return modules.has(`middle_block_${inside}`);
    }
    return modules.has(stem);
  };
}

for (
  const [name, json, depths] of [["SD1.5", SD15, [1, 1, 1, 0]], ["SDXL", SDXL, [0, 2, 10]]] as const
) {
  eachDevice(
    `lora file: ComfyUI and A1111 find every layer of ${name} in kohya's layout`,
    async () => {
      const parameters = unetParameters(unetConfig(json));
      const base = new Weights(new Map(parameters.map(({ name, shape }) => [name, zeros(shape)])));
      const pairs = layerPairs(depths);
      const [comfy, web] = [comfyui(pairs), a1111(pairs)];
      const keys = async (format: LoraFormat, targets: keyof typeof loraTargets) => {
        const path = `${folder}/full.safetensors`;
        const lora = createLora(base, { rank: 1, targets });
        await saveLora(path, lora, { format });
        const { entries } = await openSafetensors(path);
        assert(entries.size >= 2 * lora.layers.size);
        dispose(lora);
        return [...entries.keys()];
      };
      for (const targets of ["all", "attention"] as const) {
        const kohya = await keys("kohya", targets);
        assertEquals(kohya.filter((key) => !comfy(key)), []);
        assertEquals(kohya.filter((key) => !web(key)), []);
        // Diffusers' own layout they do not read, but for ComfyUI outside attention.
        const diffusers = await keys("diffusers", targets);
        assertEquals(diffusers.filter((key) => web(key)), []);
        assertEquals(
          diffusers.filter((key) => comfy(key)),
          diffusers.filter((key) => !/\.to_/.test(key)),
        );
      }
      // Every layer is found by either of its names.
      const layerOf = loraLayers(base.names());
      for (const [diffusers, original] of pairs) {
        assert(base.has(`${diffusers}.weight`), diffusers);
        for (const path of [diffusers, original]) {
          assertEquals([layerOf(path), layerOf(underscored(path))], [diffusers, diffusers]);
        }
      }
    },
  );
}

const model = new Weights(
  new Map([
    ["down_blocks.0.attentions.0.to_q.weight", zeros([6, 4])],
    ["down_blocks.0.attentions.0.to_out.0.weight", zeros([4, 6])],
    ["down_blocks.0.resnets.0.conv1.weight", zeros([3, 3, 4, 8])],
    ["down_blocks.0.resnets.0.norm1.weight", zeros([4])],
  ]),
  { source: "a tiny model" },
);

type Tensors = Record<string, readonly number[]>;

async function write(
  tensors: Tensors,
  metadata?: Record<string, string>,
  dtype: SafetensorsDType = "F32",
): Promise<string> {
  const path = `${folder}/bad.safetensors`;
  const bytes = dtype === "F32" ? 4 : 1;
  const entries = Object.entries(tensors).map(([name, shape]) =>
    [name, {
      dtype,
      shape,
      data: new Uint8Array(bytes * shape.reduce((a, b) => a * b, 1)),
    }] as const
  );
  await writeSafetensors(path, new Map(entries), metadata);
  return path;
}

const q = "unet.down_blocks.0.attentions.0.to_q";
const pair: Tensors = { [`${q}.lora_A.weight`]: [2, 4], [`${q}.lora_B.weight`]: [6, 2] };

Deno.test("lora file: a file that does not fit is an error that names the tensor", async () => {
  const kohya = "lora_unet_down_blocks_0_attentions_0_to_q";
  const cases: [tensors: Tensors, message: string][] = [
    [{}, "has no tensors: it holds no LoRA"],
    [{ "conv_in.weight": [2] }, 'tensor "conv_in.weight" is not of a LoRA: expected names such as'],
    [{ [`${q}.lora_A.weight`]: [2, 4] }, `has no up half beside "${q}.lora_A.weight"`],
    [{ [`${kohya}.alpha`]: [] }, `has no down half beside "${kohya}.alpha"`],
    [
      { [`${q}.lora_A.weight`]: [2, 4], [`${q}.lora_B.weight`]: [6, 3] },
      "down [2,4] has rank 2, up [6,3] has rank 3",
    ],
    [{ [`${q}.lora_A.weight`]: [], [`${q}.lora_B.weight`]: [6] }, "do not fit each other"],
    [{ [`${q}.lora_A.weight`]: [0, 4], [`${q}.lora_B.weight`]: [6, 0] }, "do not fit each other"],
    [
      { [`${q}.lora_A.weight`]: [2, 5], [`${q}.lora_B.weight`]: [6, 2] },
      "has down [2,5] and up [6,2], but the base weight [6,4] needs [2,4] and [6,2]",
    ],
    [
      {
        "unet.down_blocks.0.resnets.0.conv1.lora_A.weight": [2, 4, 1, 1],
        "unet.down_blocks.0.resnets.0.conv1.lora_B.weight": [8, 2, 1, 1],
      },
      "but the base weight [8,4,3,3] needs [2,4,3,3] and [8,2,1,1]",
    ],
    [
      {
        "unet.down_blocks.0.resnets.0.norm1.lora_A.weight": [2, 4],
        "unet.down_blocks.0.resnets.0.norm1.lora_B.weight": [4, 2],
      },
      "needs no LoRA",
    ],
    [
      { "unet.mid.to_q.lora_A.weight": [2, 4], "unet.mid.to_q.lora_B.weight": [6, 2] },
      'adapts layer "mid.to_q", which a tiny model does not have',
    ],
    [
      { ...pair, [`${kohya}.lora_down.weight`]: [2, 4] },
      'are of one layer, "down_blocks.0.attentions.0.to_q": the file holds two LoRAs',
    ],
    [{ ...pair, [`${kohya}.alpha`]: [2] }, `tensor "${kohya}.alpha" is [2]; expected one number`],
    [
      { "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": [2, 4] },
      "adapts the text encoders only (1 layers), not the U-Net",
    ],
    [{ [`${kohya}.hada_w1_a`]: [2] }, `is a LoHa (it has the tensor "${kohya}.hada_w1_a")`],
    [{ [`${kohya}.lokr_w1`]: [2] }, "is a LoKr"],
    [{ [`${kohya}.dora_scale`]: [2] }, "is a DoRA"],
    [{ [`${q}.lora_magnitude_vector`]: [2] }, "is a DoRA"],
    [{ [`${kohya}.lora_mid.weight`]: [2] }, "is a LoCon with a core"],
    [{ [`${kohya}.diff`]: [2] }, "is a file of whole weights"],
    [{ [`${q}.lora_B.bias`]: [6] }, "is a LoRA with biases"],
  ];
  for (const [tensors, message] of cases) {
    const error = await assertRejects(async () => loadLora(await write(tensors), model), Error);
    assert(error.message.includes(message), error.message);
    assert(error.message.includes("bad.safetensors"), error.message);
  }
  await assertRejects(
    async () => loadLora(await write(pair, {}, "U8"), model),
    Error,
    `tensor "${q}.lora_A.weight" is U8; expected F32, F16 or BF16`,
  );
});

Deno.test("lora file: a configuration that contradicts the tensors is an error", async () => {
  const cases: [config: unknown, message: string][] = [
    ["{", "is not JSON"],
    [7, "is no JSON object"],
    [
      { r: 4 },
      'gives layer "down_blocks.0.attentions.0.to_q" the rank 4, but its tensors have rank 2',
    ],
    [{ r: "two" }, 'r" is "two"; expected a number'],
    [{ lora_alpha: [] }, 'lora_alpha" is []; expected a number'],
    [{ rank_pattern: { to_q: 3 } }, "the rank 3, but its tensors have rank 2"],
    [{ rank_pattern: 3 }, 'rank_pattern" is 3; expected an object'],
    [{ alpha_pattern: { "(a+)+$": 3 } }, 'has the pattern "(a+)+$"; only ends of module paths'],
    [{ alpha_pattern: { to_q: "x" } }, 'alpha_pattern.to_q" is "x"; expected a number'],
    [{ use_dora: true }, "is of a DoRA, not of a plain LoRA"],
    [{ peft_type: "LOHA" }, "is of a LOHA, not of a plain LoRA"],
  ];
  const peft = Object.fromEntries(
    Object.entries(pair).map((
      [name, shape],
    ) => [name.replace("unet.", "base_model.model."), shape]),
  );
  for (const [config, message] of cases) {
    const text = typeof config === "string" ? config : JSON.stringify(config);
    const prefixed = typeof config === "object"
      ? JSON.stringify(
        Object.fromEntries(Object.entries(config!).map(([key, value]) => [`unet.${key}`, value])),
      )
      : text;
    const metadata = { lora_adapter_metadata: prefixed };
    const error = await assertRejects(
      async () => loadLora(await write(pair, metadata), model),
      Error,
      message,
    );
    assert(error.message.includes('bad.safetensors: the metadata "lora_adapter_metadata"'));
    await Deno.writeTextFile(`${folder}/adapter_config.json`, text);
    const beside = await assertRejects(
      async () => loadLora(await write(peft), model),
      Error,
      message,
    );
    assert(beside.message.includes(`${folder}/adapter_config.json`), beside.message);
  }
  await Deno.remove(`${folder}/adapter_config.json`);
  await assertRejects(
    async () => loadLora(await write(peft), model),
    Error,
    "is in peft's layout, whose alpha and rank are in adapter_config.json: put it beside the file",
  );
});
