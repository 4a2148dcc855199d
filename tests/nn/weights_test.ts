import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import {
  checkParameters,
  convParameters,
  initialise,
  selectParameters,
} from "../../lib/nn/init.ts";
import { openSafetensors, writeSafetensors } from "../../lib/nn/safetensors.ts";
import { loadWeights, openWeights, saveWeights, Weights } from "../../lib/nn/weights.ts";
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
  for (const content of [{}, null, [], { weight_map: null }, { weight_map: ["a.safetensors"] }]) {
    write(content);
    await assertRejects(() => loadWeights(index), Error, 'no "weight_map"');
  }
  // What is in the index must not lead out of the folder.
  for (
    const shard of [
      "../a.safetensors",
      `${sharded}/a.safetensors`,
      "..\\a.safetensors",
      5,
      null,
      "",
    ]
  ) {
    write({ weight_map: { x: shard } });
    await assertRejects(
      () => loadWeights(index),
      Error,
      `places tensor "x" in ${JSON.stringify(shard)}; expected the name of a .safetensors file`,
    );
  }
});

eachDevice("weights: of a folder with both, the full weights are taken", async () => {
  const both = await Deno.makeTempDir({ dir: folder });
  const write = (name: string, value: number) =>
    writeSafetensors(
      `${both}/${name}`,
      new Map([["x", { dtype: "F32" as const, shape: [1], data: Float32Array.of(value) }]]),
    );
  const found = async () => {
    const weights = await loadWeights(both);
    const [value] = await weights.get("x").data();
    weights.dispose();
    return value;
  };
  await write("model.fp16.safetensors", 16);
  assertEquals(await found(), 16);
  await write("model.safetensors", 32);
  assertEquals(await found(), 32);
});

eachDevice("weights: progress counts the bytes, and a failure leaves nothing", async (device) => {
  const live = device.liveBytes;
  const path = `${folder}/progress.safetensors`;
  const entry = (length: number) => ({
    dtype: "F32" as const,
    shape: [length],
    data: new Float32Array(length),
  });
  await writeSafetensors(path, new Map([["x", entry(3)], ["y", entry(5)], ["z", entry(1)]]));
  const seen: number[][] = [];
  const onProgress = (...report: number[]) => void seen.push(report);
  (await loadWeights(path, { onProgress })).dispose();
  assertEquals(seen, [[12, 36], [32, 36], [36, 36]]);

  const stored = await openWeights(path, { rename: (n) => n === "z" ? undefined : n });
  assertEquals([...stored.tensors.keys()], ["x", "y"]);
  // The file loses its end after its header was read.
  await Deno.truncate(path, stored.tensors.get("y")!.byteOffset + 4);
  await assertRejects(() => loadWeights(stored), Error, `${path} ended at byte`);
  assertEquals(device.liveBytes, live);
  await assertRejects(() => openWeights(path, { rename: () => "w" }), Error, "is truncated");
});

Deno.test("weights: two tensors of one name are refused", async () => {
  const path = `${folder}/same.safetensors`;
  const entry = { dtype: "F32" as const, shape: [1], data: Float32Array.of(1) };
  await writeSafetensors(path, new Map([["x", entry], ["y", entry]]));
  await assertRejects(
    () => openWeights(path, { rename: () => "w" }),
    Error,
    'tensors "x" and "y" are both "w"',
  );
});

Deno.test("selectParameters: takes the model's tensors and refuses those of another", async () => {
  const path = `${folder}/select.safetensors`;
  const parameters = convParameters("conv_in", 4, 8, 3);
  const entry = (...shape: number[]) => ({
    dtype: "F16" as const,
    shape,
    data: new Uint16Array(shape.reduce((a, b) => a * b, 1)),
  });
  const conv = [["conv_in.bias", entry(8)], ["conv_in.weight", entry(8, 4, 3, 3)]] as const;
  const select = async (...entries: (readonly [string, ReturnType<typeof entry>])[]) => {
    await writeSafetensors(path, new Map(entries));
    return selectParameters(await openWeights(path), parameters, /^position_ids$/);
  };
  const selected = await select(...conv, ["position_ids", entry(1, 7)]);
  assertEquals([...selected.tensors.keys()], ["conv_in.bias", "conv_in.weight"]);
  await assertRejects(
    () => select(...conv, ["adapter.a", entry(1)], ["adapter.b", entry(1)]),
    Error,
    `tensor "adapter.a" in ${path} is not one of this model's (nor are 1 more)`,
  );
  await assertRejects(() => select(conv[0]), Error, `no tensor "conv_in.weight" in ${path}`);
  await assertRejects(
    () => select(conv[0], ["conv_in.weight", entry(3, 3, 4, 8)]),
    Error,
    "has the shape [3, 3, 4, 8]; the configuration gives [8, 4, 3, 3]",
  );
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
