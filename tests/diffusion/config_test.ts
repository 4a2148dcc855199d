import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  clipConfig,
  clipTextConfig,
  clipVisionConfig,
  type Json,
  readJson,
  unetConfig,
  vaeConfig,
} from "../../lib/diffusion/config.ts";
import { goldenPath } from "./golden.ts";

const unet = await readJson(goldenPath("unet/sd15/config.json"));
const vae = await readJson(goldenPath("vae/sd/config.json"));
const text = await readJson(goldenPath("clip/text-gelu-end/config.json"));
const vision = await readJson(goldenPath("clip/vision-gelu/config.json"));
const clip = await readJson(goldenPath("clip/model/config.json"));

/** Every key that a model reads, with its reader. */
const readers: [string, (json: Json, source: string) => unknown, Json, readonly string[]][] = [
  ["unet", unetConfig, unet, [
    "sample_size in_channels out_channels down_block_types up_block_types block_out_channels",
    "layers_per_block cross_attention_dim transformer_layers_per_block attention_head_dim",
    "reverse_transformer_layers_per_block norm_num_groups norm_eps freq_shift flip_sin_to_cos",
    "use_linear_projection mid_block_type addition_embed_type downsample_padding",
  ]],
  ["vae", vaeConfig, vae, [
    "in_channels out_channels down_block_types up_block_types block_out_channels scaling_factor",
    "layers_per_block latent_channels norm_num_groups shift_factor use_quant_conv",
  ]],
  ["text_encoder", clipTextConfig, text, [
    "hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act vocab_size",
    "max_position_embeddings eos_token_id layer_norm_eps projection_dim architectures",
  ]],
  ["image_encoder", clipVisionConfig, vision, [
    "hidden_size num_hidden_layers image_size patch_size num_channels projection_dim architectures",
  ]],
  ["scorer", clipConfig, clip, ["projection_dim text_config vision_config logit_scale_init_value"]],
];

for (const [name, read, json, lists] of readers) {
  Deno.test(`config: a value of the wrong type in ${name} is named with its file and key`, () => {
    const source = `${name}/config.json`;
    assertEquals(typeof read(json, source), "object");
    for (const key of lists.flatMap((list) => list.split(" "))) {
      const errors = [{}, { a: 1 }, [null], [{}], [[1]], "\u0000", -1, 0.5].flatMap((value) => {
        try {
          read({ ...json, [key]: value }, source);
          return [];
        } catch (error) {
          return [error as Error];
        }
      });
      assert(errors.length > 0, `${key} takes anything`);
      for (const error of errors) {
        // A fault of the reader would be a TypeError or RangeError.
        assertEquals(error.constructor, Error, `${key}: ${error}`);
        assert(error.message.startsWith(source), `${key}: ${error}`);
        assertStringIncludes(error.message, key);
      }
    }
  });
}

Deno.test("config: sizes that no model has are refused before anything is built from them", () => {
  const fails = (read: () => unknown, words: string) => assertThrows(read, Error, words);
  fails(() => unetConfig({ ...unet, layers_per_block: 1e9 }), '"layers_per_block" is 1000000000');
  fails(() => unetConfig({ ...unet, block_out_channels: [16, 24, 1e12] }), '"block_out_channels"');
  fails(() => unetConfig({ ...unet, block_out_channels: [] }), '"block_out_channels" is []');
  fails(
    () => unetConfig({ ...unet, norm_num_groups: 7 }),
    '"norm_num_groups" 7 does not divide 16',
  );
  fails(() => unetConfig({ ...unet, attention_head_dim: 5 }), '"attention_head_dim" 5 does not');
  fails(() => vaeConfig({ ...vae, up_block_types: ["UpDecoderBlock2D"] }), "has 1 blocks");
  fails(() => vaeConfig({ ...vae, norm_num_groups: 0 }), '"norm_num_groups" is 0');
  fails(() => clipTextConfig({ ...text, num_hidden_layers: 1e9 }), '"num_hidden_layers"');
  fails(() => clipTextConfig({ ...text, num_attention_heads: 3 }), "does not divide 32 channels");
  fails(() => clipTextConfig({ ...text, architectures: 5 }), '"architectures" is 5');
});

Deno.test("readJson: a file that is no object is named", async () => {
  const path = await Deno.makeTempFile();
  for (const content of ["null", "[]", "5", '"text"']) {
    Deno.writeTextFileSync(path, content);
    await assertRejects(() => readJson(path), Error, `${path} is not a JSON object`);
  }
  Deno.writeTextFileSync(path, "{");
  await assertRejects(() => readJson(path), Error, `${path} is not JSON`);
  Deno.removeSync(path);
});
