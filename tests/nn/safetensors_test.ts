import { assert, assertEquals, assertRejects } from "@std/assert";
import { openSafetensors, writeAtomically, writeSafetensors } from "../../lib/nn/safetensors.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** Writes a file of a header and some data bytes. */
function handmade(name: string, header: unknown, dataBytes: number): string {
  const json = new TextEncoder().encode(
    typeof header === "string" ? header : JSON.stringify(header),
  );
  const bytes = new Uint8Array(8 + json.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  const path = `${folder}/${name}`;
  Deno.writeFileSync(path, bytes);
  return path;
}

Deno.test("safetensors: what is written is read back", async () => {
  const path = `${folder}/round.safetensors`;
  await writeSafetensors(
    path,
    new Map([
      ["a", { dtype: "F32", shape: [2, 2], data: Float32Array.of(1, -2, 3.5, 4) }],
      ["b", { dtype: "I64", shape: [2], data: BigInt64Array.of(7n, -9n) }],
      ["c", { dtype: "F16", shape: [3], data: () => Promise.resolve(Uint16Array.of(1, 2, 3)) }],
      ["scalar", { dtype: "F32", shape: [], data: Float32Array.of(8) }],
    ]),
    { format: "pt" },
  );
  const file = await openSafetensors(path);
  assertEquals(file.metadata, { format: "pt" });
  assertEquals([...file.entries.keys()], ["a", "b", "c", "scalar"]);
  assertEquals(file.entries.get("a")!.byteOffset % 8, 0);
  assertEquals([...await file.read("a") as Float32Array], [1, -2, 3.5, 4]);
  assertEquals([...await file.read("b") as BigInt64Array], [7n, -9n]);
  assertEquals([...await file.read("c") as Uint16Array], [1, 2, 3]);
  assertEquals([...await file.read("scalar") as Float32Array], [8]);
  await assertRejects(() => file.read("d"), Error, 'round.safetensors has no tensor "d"');
});

Deno.test("safetensors: a broken file is named, with what is wrong", async () => {
  const fails = (path: string, message: string) =>
    assertRejects(() => openSafetensors(path), Error, message);

  await fails(`${folder}/absent.safetensors`, `no such file: ${folder}/absent.safetensors`);

  Deno.writeTextFileSync(`${folder}/short`, "abc");
  await fails(`${folder}/short`, "has 3 bytes, too few");

  Deno.writeTextFileSync(`${folder}/pointer`, "version https://git-lfs.github.com/spec/v1\noid");
  await fails(`${folder}/pointer`, "git lfs pull");

  Deno.writeFileSync(`${folder}/pickle`, new Uint8Array(64).fill(0x80));
  await fails(`${folder}/pickle`, "is not a safetensors file");

  await fails(handmade("text", "not json", 0), "its header is not JSON");

  const tensor = { dtype: "F32", shape: [4], data_offsets: [0, 16] };
  await fails(
    handmade("truncated", { "conv_in.bias": tensor }, 10),
    'truncated: tensor "conv_in.bias" ends at byte',
  );
  const whole = Deno.readFileSync(handmade("whole", { bias: tensor }, 16));
  Deno.writeFileSync(`${folder}/cut`, whole.subarray(0, 20));
  await fails(`${folder}/cut`, "the file has 20; copy or download it again");

  await fails(
    handmade("type", { w: { ...tensor, dtype: "F8_E4M3" } }, 16),
    'tensor "w" has the type F8_E4M3; this reader knows F64, F32',
  );
  await fails(
    handmade("range", { w: { ...tensor, shape: [5] } }, 16),
    'tensor "w" is F32 [5], so 20 bytes, but its range holds 16',
  );
  await fails(handmade("shapeless", { w: { dtype: "F32" } }, 0), 'tensor "w" lacks a shape');
});

Deno.test("safetensors: a header that lies is refused, with the tensor's name", async () => {
  const good = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const next = { dtype: "F32", shape: [2], data_offsets: [8, 16] };
  const fails = async (header: unknown, message: string, bytes = 16) => {
    const path = handmade("lie", header, bytes);
    await assertRejects(() => openSafetensors(path), Error, `${path}${message}`);
  };
  for (const header of [[], null, 5, '"text"']) {
    await fails(
      typeof header === "string" ? header : JSON.stringify(header).padEnd(2),
      " is not a safetensors file: its header is not a JSON object",
    );
  }
  for (const value of [null, 5, [], "F32"]) {
    await fails({ w: value }, ': the header of tensor "w" lacks a shape or data_offsets');
  }
  // `-1`, `1.5` and the like, whose product with the element size may fit the range all the same.
  for (const shape of ["[-2]", "[1.5]", "[1e300]", '["2"]', "[null]", "[4294967296,4294967296]"]) {
    await fails(
      `{"w":{"dtype":"F32","shape":${shape},"data_offsets":[0,8]}}`,
      `: tensor "w" has the shape `,
    );
  }
  for (const offsets of ["[-8,0]", "[0.5,8.5]", "[8,0]", '["0","8"]', "[0,1e300]", "[null,8]"]) {
    await fails(
      `{"w":{"dtype":"F32","shape":[2],"data_offsets":${offsets}}}`,
      `: tensor "w" has the data_offsets ${offsets.replace("1e300", "1e+300")}`,
    );
  }
  for (const dtype of [null, 5, "toString", "__proto__"]) {
    await fails({ w: { ...good, dtype } }, `: tensor "w" has the type ${dtype}`);
  }
  await fails({ a: good, b: good }, ': tensors "a" and "b" overlap', 8);
  await fails({ a: good, b: { ...next, data_offsets: [4, 12] } }, ': tensors "a" and "b" overlap');
  await fails({ b: next }, ': the 8 bytes before tensor "b" belong to no tensor');
  await fails({ a: good }, ": its last 8 bytes belong to no tensor");
  const twice = `"dtype":"F32","shape":[2]`;
  await fails(
    `{"a":{${twice},"data_offsets":[0,8]},"\\u0061":{${twice},"data_offsets":[8,16]}}`,
    ': the header has "a" twice',
  );
  await fails({ __metadata__: ["x"], a: good, b: next }, ': "__metadata__" is ["x"]; expected');
  await fails(
    { __metadata__: { format: 5 }, a: good, b: next },
    ': "format" in "__metadata__" is 5; expected a string',
  );
  await assertRejects(() => openSafetensors(folder), Error, `${folder} is a folder`);
});

Deno.test("safetensors: every name is a name like any other", async () => {
  const path = `${folder}/names.safetensors`;
  const names = ["__proto__", "constructor", "toString", "", '"}{,:\\', "1"];
  await writeSafetensors(
    path,
    new Map(names.map((name, i) => [name, {
      dtype: "F32",
      shape: [1],
      data: Float32Array.of(i),
    }])),
  );
  const file = await openSafetensors(path);
  assertEquals(new Set(file.entries.keys()), new Set(names));
  for (const [i, name] of names.entries()) assertEquals([...await file.read(name)], [i]);
});

Deno.test("safetensors: a failed write leaves neither a new nor half a file", async () => {
  const path = `${folder}/kept.safetensors`;
  const good = new Map([["a", {
    dtype: "F32" as const,
    shape: [1],
    data: Float32Array.of(1),
  }]]);
  await writeSafetensors(path, good);
  const bad = new Map([...good, ["b", {
    dtype: "F32" as const,
    shape: [3],
    data: Float32Array.of(1),
  }]]);
  await assertRejects(
    () => writeSafetensors(path, bad),
    Error,
    'cannot write tensor "b"',
  );
  assertEquals([...(await openSafetensors(path)).entries.keys()], ["a"]);
  assert(![...Deno.readDirSync(folder)].some((entry) => entry.name.endsWith(".partial")));

  await assertRejects(
    () => writeSafetensors(`${folder}/nowhere/x.safetensors`, good),
    Error,
    "its folder does not exist",
  );
});

Deno.test("safetensors: a full disk is named, and nothing is left of the file", async () => {
  const path = `${folder}/full.safetensors`;
  await assertRejects(
    () =>
      writeAtomically(path, 40, async (write) => {
        await write(new Uint8Array(16));
        throw new Error("No space left on device (os error 28)");
      }),
    Error,
    `cannot write ${path}: the disk is full (the file takes 40 bytes)`,
  );
  assert(![...Deno.readDirSync(folder)].some(({ name }) => name.startsWith("full")));
});
