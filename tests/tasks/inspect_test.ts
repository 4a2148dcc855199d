/** What `deno task inspect` says, and that it says it without reading weights. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { writeSafetensors } from "../../lib/nn/safetensors.ts";
import { inspect } from "../../lib/tasks/inspect.ts";
import { type GoldenCheckpoint, goldenJson, headerOf } from "../diffusion/checkpoint_files.ts";
import { goldenPath } from "../diffusion/golden.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const gigabytes = 2 ** 30;
const cpu = {
  name: "cpu",
  description: "2 threads",
  capacity: 4 * gigabytes,
  largestBuffer: 4 * gigabytes,
} as const;
const gpu = { ...cpu, name: "webgpu", description: "a card", capacity: undefined } as const;

/** The cells of a line of a table. */
const cells = (text: string, name: string) =>
  text.split("\n").find((line) => line.startsWith(`${name} `))!.split(/ {2,}/);

function assertMatch(text: string, pattern: RegExp): void {
  assert(pattern.test(text), text);
}

/** A file of the real size of which only the header is written; the rest is a hole. */
async function hollow(name: "sd15" | "sdxl"): Promise<string> {
  const path = `${folder}/${name}.safetensors`;
  const { file } = goldenJson<GoldenCheckpoint>(`checkpoint/${name}.json.gz`);
  const entries = [...headerOf(file)];
  const header = Object.fromEntries(
    entries.map(([name, { dtype, shape, byteOffset, byteLength }]) => [
      name,
      { dtype, shape, data_offsets: [byteOffset, byteOffset + byteLength] },
    ]),
  );
  const json = new TextEncoder().encode(JSON.stringify(header));
  const lead = new Uint8Array(8);
  new DataView(lead.buffer).setBigUint64(0, BigInt(json.length), true);
  await Deno.writeFile(path, new Uint8Array([...lead, ...json]));
  const bytes = entries.reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
  await Deno.truncate(path, lead.length + json.length + bytes);
  return path;
}

Deno.test({
  name: "inspect: the real models at their real size, from the header alone",
  // Elsewhere a hole may take as much of the disk as what is written.
  ignore: Deno.build.os === "windows",
  async fn() {
    const small = await inspect(await hollow("sd15"), cpu);
    assertStringIncludes(small, "a model of Stable Diffusion 1.5's architecture, as a single file");
    assertEquals(cells(small, "unet"), [
      ...["unet", "UNet2DConditionModel", "859.5 M", "686", "F16", "1.72 GB", "1.72 GB"],
    ]);
    assertEquals(cells(small, "all").slice(1, 3), ["1066.2 M", "1,130"]);
    assertStringIncludes(small, "channels 320/640/1280/1280, layers per block 2, heads 8");
    assertStringIncludes(small, "scheduler     PNDMScheduler, prediction type epsilon");
    assertStringIncludes(small, `missing: ${folder}/sd15.safetensors needs CLIP's vocabulary`);
    assertStringIncludes(small, "16 tensors of the file are of no part and left alone");
    assertMatch(small, /It fits the cpu device \(2 threads\): .* take 2\.13 GB and leave 2\.16 GB/);

    const path = await hollow("sdxl");
    const large = await inspect(path, cpu);
    assertStringIncludes(large, "Stable Diffusion XL's architecture");
    assertEquals(cells(large, "text_encoder_2").slice(1, 4), [
      ...["CLIPTextModelWithProjection", "694.7 M", "517"],
    ]);
    assertStringIncludes(
      large,
      "heads 5/10/20, transformer depth 1/2/10, cross-attention width 2048",
    );
    assertMatch(large, /It does not fit the cpu device .* take 6\.94 GB, .* at most 4\.29 GB/);
    assertMatch(
      await inspect(path, gpu),
      /Every tensor fits the webgpu device \(a card\): the largest takes 126\.5 MB/,
    );
    assertMatch(
      await inspect(path, { ...gpu, largestBuffer: 1e8 }),
      /does not fit .*: tensor "conditioner\.embedders\.1\.model\.token_embedding\.weight" takes/,
    );
    for (const name of ["sd15", "sdxl"]) await Deno.remove(`${folder}/${name}.safetensors`);
  },
});

Deno.test("inspect: folders in diffusers' layout, LoRAs and scorers", async () => {
  const hps = await inspect(goldenPath("scorers/hps/hps.pt"), cpu);
  assertStringIncludes(hps, "a checkpoint of open_clip, which scores images against prompts");
  const nano = await inspect("data/nano/weak", cpu);
  assertStringIncludes(
    nano,
    "Stable Diffusion 1.5's architecture, as a folder in diffusers' layout",
  );
  assertStringIncludes(nano, "tokenizer     131 tokens");
  assert(!nano.includes("left alone"));
  assertStringIncludes(await inspect("data/nano-xl", cpu), "Stable Diffusion XL's architecture");

  const peft = await inspect(goldenPath("lora/everything"), cpu);
  assertStringIncludes(peft, "names       peft's (lora_A, lora_B)");
  assertEquals(cells(peft, "rank"), ["rank", "2"]);
  assertEquals(cells(peft, "alpha"), ["alpha", "5"]);
  assertStringIncludes(peft, "106 of the U-Net: proj_in, proj_out, to_k, to_out.0");
  const own = await inspect(goldenPath("lora/attention/pytorch_lora_weights.safetensors"), cpu);
  assertStringIncludes(own, "names       diffusers' (lora.down, lora.up)");
  assertStringIncludes(own, "not told, so that the scale is 1");

  const kohya = `${folder}/kohya.safetensors`;
  const entry = (...shape: number[]) => ({
    dtype: "F16" as const,
    shape,
    data: new Uint16Array(shape.reduce((a, b) => a * b, 1)),
  });
  await writeSafetensors(
    kohya,
    new Map([
      ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", entry(4, 8, 1, 1)],
      ["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", entry(8, 4, 1, 1)],
      ["lora_unet_mid_block_attentions_0_proj_in.alpha", entry()],
      ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", entry(2, 8)],
      ["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", entry(8, 2)],
    ]),
  );
  const text = await inspect(kohya, cpu);
  assertStringIncludes(text, "kohya's (lora_down, lora_up)");
  assertEquals(cells(text, "rank"), ["rank", "2, 4"]);
  assertStringIncludes(text, "1 of the U-Net and 1 of the text encoders");
  assertStringIncludes(text, "told for each layer by a tensor");

  const scorer = await inspect("data/nano/pickscore", cpu);
  assertStringIncludes(scorer, "a CLIP, which scores images against prompts");
  assertEquals(cells(scorer, "model").slice(1, 4), ["CLIPModel", "0.5 M", "94"]);
});

Deno.test("inspect: what it does not know is named", async () => {
  await assertRejects(() => inspect(`${folder}/absent`, cpu), Error, `${folder}/absent: `);
  await assertRejects(
    () => inspect(folder, cpu),
    Error,
    `${folder} is no model: expected a folder`,
  );
  await assertRejects(
    () => inspect("README.md", cpu),
    Error,
    "README.md is not a safetensors file",
  );
});
