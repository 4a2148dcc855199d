import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { checkParameters, convParameters, initialise } from "../../lib/nn/init.ts";
import { openSafetensors, writeSafetensors } from "../../lib/nn/safetensors.ts";
import { loadWeights, saveWeights, Weights } from "../../lib/nn/weights.ts";
import { type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { eachDevice } from "../tensor/devices.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const one = tensor([1], [1]);

Deno.test("weights: names go down by prefixes", () => {
  const w = new Weights(
    new Map([["down.0.conv.weight", one], ["down.0.conv.bias", one], ["mid.weight", one]]),
  );
  assertEquals(w.at("down.0").at("conv").get("bias"), one);
  assertEquals(w.at("down").names(), ["0.conv.weight", "0.conv.bias"]);
  assertEquals([w.has("mid.weight"), w.at("mid").has("bias")], [true, false]);
});

Deno.test("weights: a missing tensor is named with its source and its neighbours", () => {
  const w = new Weights(new Map([["mid.norm1.weight", one], ["conv_out.bias", one]]), {
    source: "unet/model.safetensors",
  });
  const error = assertThrows(() => w.at("mid").at("norm2").get("weight"), Error);
  assertStringIncludes(
    error.message,
    'no tensor "mid.norm2.weight" in unet/model.safetensors; the nearest names are "mid.norm1.weight"',
  );
});

Deno.test("weights: the overlay answers for its own module only", () => {
  const plain = new Weights(new Map([["a.to_q.weight", one]]));
  const layers = new Map([["a.to_q", { down: one, up: one }]]);
  const tuned = plain.at("a").withLora({ scale: 2, layers });
  assertEquals(tuned.at("to_q").lora, { down: one, up: one, scale: 2 });
  assertEquals(tuned.lora, undefined);
  assertEquals(tuned.withLora(undefined).at("to_q").lora, undefined);
  assertEquals(plain.at("a.to_q").lora, undefined);
});

eachDevice("weights: every stored type is read, convolutions are turned", async () => {
  const path = `${folder}/types.safetensors`;
  const half = new Uint16Array(new Float16Array([0.5, -2]).buffer);
  await writeSafetensors(
    path,
    new Map([
      ["f16", { dtype: "F16" as const, shape: [2], data: half }],
      ["bf16", { dtype: "BF16" as const, shape: [2], data: Uint16Array.of(0x3fc0, 0xc000) }],
      ["f64", { dtype: "F64" as const, shape: [1], data: Float64Array.of(0.25) }],
      ["i64", { dtype: "I64" as const, shape: [2], data: BigInt64Array.of(3n, -4n) }],
      ["conv", {
        dtype: "F32" as const,
        shape: [2, 1, 1, 3],
        data: Float32Array.of(1, 2, 3, 4, 5, 6),
      }],
    ]),
  );
  const stored = await loadWeights(path);
  const values = async (name: string, w = stored) => [...await w.get(name).data()];
  assertEquals([stored.get("f16").dtype, await values("f16")], ["f16", [0.5, -2]]);
  assertEquals([stored.get("bf16").dtype, await values("bf16")], ["f32", [1.5, -2]]);
  assertEquals(await values("f64"), [0.25]);
  assertEquals([stored.get("i64").dtype, await values("i64")], ["i32", [3, -4]]);
  assertEquals(stored.get("conv").shape, [1, 3, 1, 2]);
  assertEquals(await values("conv"), [1, 4, 2, 5, 3, 6]);

  const wide = await loadWeights(path, { dtype: "f32" });
  assertEquals([wide.get("f16").dtype, await values("f16", wide)], ["f32", [0.5, -2]]);
  const narrow = await loadWeights(path, { dtype: "f16", rename: (n) => n.replace("bf", "x") });
  assertEquals([narrow.get("x16").dtype, await values("x16", narrow)], ["f16", [1.5, -2]]);
  for (const w of [stored, wide, narrow]) w.dispose();
});

eachDevice("weights: what is saved is loaded, in the checkpoint's layout", async () => {
  const path = `${folder}/saved.safetensors`;
  const tensors = initialise(convParameters("conv", 2, 3, 3), 1);
  await saveWeights(path, tensors, { metadata: { made: "here" } });
  const file = await openSafetensors(path);
  assertEquals(file.metadata, { format: "pt", made: "here" });
  assertEquals(file.entries.get("conv.weight")!.shape, [3, 2, 3, 3]);
  const loaded = await loadWeights(path);
  for (const [name, t] of tensors) {
    assertEquals(await loaded.get(name).data(), await t.data(), name);
  }
  await saveWeights(path, tensors, { dtype: "f16" });
  assertEquals((await openSafetensors(path)).entries.get("conv.bias")!.dtype, "F16");
  loaded.dispose();
});

eachDevice("weights: folders and sharded files are found", async () => {
  const sharded = await Deno.makeTempDir({ dir: folder });
  const entry = (value: number) => ({
    dtype: "F32" as const,
    shape: [1],
    data: Float32Array.of(value),
  });
  await writeSafetensors(`${sharded}/a.safetensors`, new Map([["x", entry(1)]]));
  await writeSafetensors(`${sharded}/b.safetensors`, new Map([["y", entry(2)]]));
  const index = `${sharded}/diffusion_pytorch_model.safetensors.index.json`;
  const write = (map: unknown) => Deno.writeTextFileSync(index, JSON.stringify(map));

  write({ weight_map: { x: "a.safetensors", y: "b.safetensors" } });
  const weights = await loadWeights(sharded);
  assertEquals(weights.names(), ["x", "y"]);
  assertEquals([...await weights.get("y").data()], [2]);
  weights.dispose();

  write({ weight_map: { x: "b.safetensors" } });
  await assertRejects(() => loadWeights(sharded), Error, 'tensor "x" in b.safetensors');
  write({ weight_map: { x: "c.safetensors" } });
  await assertRejects(() => loadWeights(sharded), Error, "c.safetensors");
  write({});
  await assertRejects(() => loadWeights(index), Error, 'no "weight_map"');
});

Deno.test("weights: a folder without weights says what is expected", async () => {
  const empty = `${folder}/empty`;
  Deno.mkdirSync(empty);
  await assertRejects(
    () => loadWeights(empty),
    Error,
    `no weights in the folder ${empty}: expected one of diffusion_pytorch_model.safetensors`,
  );
  Deno.writeTextFileSync(`${empty}/pytorch_model.bin`, "");
  await assertRejects(() => loadWeights(empty), Error, "pytorch_model.bin is a pickle");
  await assertRejects(
    () => loadWeights(`${empty}/model.safetensors`),
    Error,
    "there is no such file or folder",
  );
});

Deno.test("weights: an integer that no i32 holds is named", async () => {
  const path = `${folder}/wide.safetensors`;
  const data = BigInt64Array.of(2n ** 40n);
  await writeSafetensors(path, new Map([["ids", { dtype: "I64" as const, shape: [1], data }]]));
  await assertRejects(() => loadWeights(path), RangeError, 'tensor "ids" has 1099511627776');
});

Deno.test("checkParameters: missing tensors, wrong shapes and types", () => {
  const parameters = convParameters("conv_in", 4, 8, 3);
  const check = (entries: [string, Tensor][]) => () =>
    checkParameters(new Weights(new Map(entries), { source: "unet" }), parameters);
  const [weight, bias] = [...initialise(parameters, 1)] as [[string, Tensor], [string, Tensor]];
  check([weight, bias])();
  assertThrows(check([]), Error, 'no tensor "conv_in.weight" in unet');
  assertThrows(check([]), Error, "(1 more are missing)");
  assertThrows(check([weight]), Error, 'no tensor "conv_in.bias" in unet');
  assertThrows(
    check([weight, ["conv_in.bias", tensor(new Float32Array(4), [4])]]),
    Error,
    'tensor "conv_in.bias" in unet has the shape [4]; the configuration gives [8]',
  );
  assertThrows(
    check([["conv_in.weight", tensor(new Float32Array(3 * 3 * 9 * 8), [3, 3, 9, 8])], bias]),
    Error,
    "has the shape [8, 9, 3, 3]; the configuration gives [8, 4, 3, 3]",
  );
  assertThrows(
    check([weight, ["conv_in.bias", tensor(new Int32Array(8), [8])]]),
    Error,
    "holds i32",
  );
});
