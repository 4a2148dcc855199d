import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { openTorchCheckpoint } from "../../lib/nn/torch_checkpoint.ts";
import { goldenPath } from "../diffusion/golden.ts";

const golden = (name: string) => goldenPath(`torch-checkpoints/${name}`);

/** Opens a checkpoint made of these bytes. */
async function opened(bytes: Uint8Array) {
  const path = await Deno.makeTempFile({ suffix: ".pt" });
  try {
    await Deno.writeFile(path, bytes);
    return await openTorchCheckpoint(path);
  } finally {
    await Deno.remove(path);
  }
}

/** Asserts that a checkpoint is refused by an error of ours, quickly, and returns its message. */
async function refusal(bytes: Uint8Array): Promise<string> {
  const error = await assertRejects(() => opened(bytes), Error);
  assert(error.constructor === Error || error instanceof RangeError, error.stack);
  assert(error.message.includes(".pt"), error.message);
  return error.message;
}

for (const name of ["protocol-2", "protocol-3", "protocol-4", "protocol-5", "zip64"]) {
  Deno.test(`${name}: every tensor is PyTorch's, views included`, async () => {
    const expected = await openSafetensors(golden("golden.safetensors"));
    const found = await openTorchCheckpoint(golden(`${name}.pt`));
    assertEquals([...found.entries.keys()].sort(), [...expected.entries.keys(), "i64"].sort());
    for (const [key, { shape }] of expected.entries) {
      assertEquals(found.entries.get(key)!.shape, shape, key);
      assertEquals(await found.read(key), await expected.read(key) as Float32Array, key);
    }
    assertEquals(
      ["bf16", "f64", "i64"].map((key) => found.entries.get(key)!.dtype),
      ["BF16", "F64", "I64"],
    );
    await assertRejects(() => found.read("i64"), Error, 'tensor "i64" is I64; expected F32');
    await assertRejects(() => found.read("other"), Error, 'has no tensor "other"');
  });
}

Deno.test("a directory beyond 4 GiB is found by its ZIP64 record", async () => {
  const bytes = await Deno.readFile(golden("zip64.pt"));
  // Python writes the record, but fills the old fields too: full ones mean that it counts.
  const end = new DataView(bytes.buffer, bytes.length - 22);
  end.setUint16(10, 0xffff, true);
  end.setUint32(12, 0xffffffff, true);
  end.setUint32(16, 0xffffffff, true);
  const { entries } = await opened(bytes);
  const expected = (await openTorchCheckpoint(golden("zip64.pt"))).entries;
  assertEquals(entries, expected);
});

Deno.test("a training's checkpoint gives its state_dict, without data-parallel prefixes", async () => {
  const expected = await openSafetensors(golden("training.safetensors"));
  const found = await openTorchCheckpoint(golden("training.pt"));
  assertEquals([...found.entries.keys()], ["linear.weight", "linear.bias"]);
  for (const key of found.entries.keys()) {
    assertEquals(await found.read(key), await expected.read(key) as Float32Array, key);
  }
});

Deno.test("a pickle that asks for anything else is refused by the name of that", async () => {
  const asked = {
    "os-system": '"posix.system"',
    "eval": '"builtins.eval"',
    "getattr": '"__builtin__.getattr"',
    "class": '"pathlib.PurePosixPath"',
    "instance": '"_io.StringIO"',
  };
  for (const [name, expected] of Object.entries(asked)) {
    const path = golden(`hostile-${name}.pt`);
    const { message } = await assertRejects(() => openTorchCheckpoint(path), Error);
    assertStringIncludes(message, `hostile-${name}.pt: its pickle asks for ${expected}.`);
    assertStringIncludes(message, "nothing is run");
  }
});

Deno.test("other formats are refused with what to do", async () => {
  const cases = [
    ["legacy.pt", "the format that PyTorch wrote before version 1.6"],
    ["hostile-compressed.pt", "compressed or encrypted"],
    ["golden.safetensors", "no directory at its end"],
  ] as const;
  for (const [name, words] of cases) {
    await assertRejects(() => openTorchCheckpoint(golden(name)), Error, words);
  }
  await assertRejects(() => openTorchCheckpoint("/nowhere.pt"), Error, "no such file: /nowhere.pt");
  assertStringIncludes(await refusal(new Uint8Array()), "not a whole checkpoint");
});

Deno.test("a checkpoint cut off anywhere is refused", async () => {
  const whole = await Deno.readFile(golden("protocol-2.pt"));
  for (let length = 0; length < whole.length; length += 37) {
    await refusal(whole.subarray(0, length));
  }
  await refusal(whole.subarray(0, whole.length - 1));
});

Deno.test("a checkpoint with any byte changed is read or refused, but never a crash", async () => {
  const whole = await Deno.readFile(golden("zip64.pt"));
  for (let at = 0; at < whole.length; at += 23) {
    for (const value of [0x00, 0xff, whole[at]! ^ 0x01]) {
      const changed = whole.slice();
      changed[at] = value;
      const path = await Deno.makeTempFile({ suffix: ".pt" });
      try {
        await Deno.writeFile(path, changed);
        const file = await openTorchCheckpoint(path);
        for (const key of file.entries.keys()) await file.read(key);
      } catch (error) {
        const ours = error instanceof Error &&
          (error.constructor === Error || error.constructor === RangeError);
        assert(ours && error.message.includes(path), `byte ${at}: ${(error as Error).stack}`);
      } finally {
        await Deno.remove(path);
      }
    }
  }
});

/** A pickle of protocol 2 from texts (as Latin-1) and bytes. */
function pickle(...parts: (string | number | readonly number[])[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(
    ["\x80\x02", ...parts, "."].flatMap((part) =>
      typeof part === "string" ? [...part].map((c) => c.charCodeAt(0)) : part
    ),
  );
}

const u16 = (x: number) => [x & 255, x >> 8 & 255];
const u32 = (x: number) => [...u16(x & 0xffff), ...u16(x >>> 16)];
const text = (s: string) => ["X", u32(s.length), s] as const;
const int = (x: number) => ["J", u32(x)] as const;

/** How a test's archive departs from a good one. */
interface ZipChanges {
  /** Where an entry's directory record says that it begins, and how long it is. */
  readonly offset?: number;
  readonly size?: number;
}

/** A stored archive in which each entry's directory record may be wrong. */
function archive(
  entries: readonly (readonly [string, Uint8Array, ZipChanges?])[],
): Uint8Array<ArrayBuffer> {
  const body: Uint8Array[] = [], directory: number[] = [];
  let length = 0;
  for (const [name, content, { offset = length, size = content.length } = {}] of entries) {
    const letters = [...new TextEncoder().encode(name)];
    const sizes = [...u32(0), ...u32(content.length), ...u32(content.length)];
    const header = [...u32(0x04034b50), ...u16(20), ...u16(0), ...u16(0), ...u32(0), ...sizes];
    body.push(Uint8Array.of(...header, ...u16(letters.length), ...u16(0), ...letters), content);
    length += 30 + letters.length + content.length;
    directory.push(...u32(0x02014b50), ...u16(20), ...u16(20), ...u16(0), ...u16(0), ...u32(0));
    directory.push(...u32(0), ...u32(size), ...u32(size), ...u16(letters.length), ...u16(0));
    directory.push(...u16(0), ...u16(0), ...u16(0), ...u32(0), ...u32(offset), ...letters);
  }
  const end = [...u32(0x06054b50), ...u32(0), ...u16(entries.length), ...u16(entries.length)];
  const place = [...u32(directory.length), ...u32(length), ...u16(0)];
  const parts = [...body, Uint8Array.of(...directory, ...end, ...place)];
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** `{"weight": <a tensor>}` over a storage of 4 floats in the entry `data/0`. */
function tensorPickle(change: {
  key?: string;
  elements?: number;
  offset?: number;
  shape?: readonly number[];
  strides?: readonly number[];
}) {
  const { key = "0", elements = 4, offset = 0, shape = [2, 2], strides = [2, 1] } = change;
  const tuple = (numbers: readonly number[]) => ["(", ...numbers.flatMap(int), "t"];
  return pickle(
    ...["}", ...text("weight"), "ctorch._utils\n_rebuild_tensor_v2\n", "("],
    ...["(", ...text("storage"), "ctorch\nFloatStorage\n", ...text(key), ...text("cpu")],
    ...[...int(elements), "tQ", ...int(offset), ...tuple(shape), ...tuple(strides)],
    ...["\x89", "ccollections\nOrderedDict\n)R", "tRs"],
  );
}

const data = new Uint8Array(new Float32Array([1, 2, 3, 4]).buffer);
const checkpoint = (pkl: Uint8Array) => archive([["a/data.pkl", pkl], ["a/data/0", data]]);

Deno.test("the tests' own archives are read when nothing is wrong with them", async () => {
  const path = await Deno.makeTempFile({ suffix: ".pt" });
  await Deno.writeFile(path, checkpoint(tensorPickle({})));
  const file = await openTorchCheckpoint(path);
  assertEquals(await file.read("weight"), new Float32Array([1, 2, 3, 4]));
  await Deno.writeFile(path, checkpoint(tensorPickle({ strides: [1, 2] })));
  assertEquals(
    await (await openTorchCheckpoint(path)).read("weight"),
    new Float32Array([1, 3, 2, 4]),
  );
  await Deno.remove(path);
});

Deno.test("tensors that do not lie in their storage are refused", async () => {
  const cases = [
    [{ elements: 5 }, "too few for 5 elements"],
    [{ elements: -1 }, "too few for -1 elements"],
    [{ key: "1" }, 'no entry "a/data/1"'],
    [{ key: "../data.pkl" }, 'no entry "a/data/../data.pkl"'],
    [{ offset: 1 }, "does not lie in its storage of 4 elements"],
    [{ offset: -1 }, "wrong numbers (offset -1"],
    [{ shape: [2, 3], strides: [3, 1] }, "does not lie in its storage"],
    [{ shape: [-2, 2] }, "wrong numbers"],
    [{ strides: [2, -1] }, "wrong numbers"],
    [{ shape: [4] }, "wrong numbers"],
    // One element a billion times over would take 4 GB.
    [{ shape: [2 ** 30], strides: [0] }, "does not lie in its storage"],
    [{ shape: new Array(40).fill(2 ** 30), strides: new Array(40).fill(0) }, "does not lie"],
  ] as const;
  for (const [change, words] of cases) {
    assertStringIncludes(await refusal(checkpoint(tensorPickle(change))), words);
  }
});

Deno.test("a zip that is no checkpoint, or contradicts itself, is refused", async () => {
  const pkl = tensorPickle({});
  const cases = [
    [archive([["a/data/0", data]]), "0 entries <name>/data.pkl"],
    [archive([["a/data.pkl", pkl], ["b/data.pkl", pkl]]), "2 entries <name>/data.pkl"],
    [archive([["a/data.pkl", pkl], ["a/data.pkl", pkl]]), "two entries of the name"],
    [archive([["a/data.pkl", pkl], ["a/data/0", data, { offset: 0 }]]), "beyond its end"],
    [archive([["a/data.pkl", pkl, { size: 4000 }], ["a/data/0", data]]), "beyond its end"],
    [archive([["a/data.pkl", pkl], ["a/data/0", data, { size: 2 ** 31 }]]), "beyond its end"],
    [archive([["a/data.pkl", pkl, { offset: 5 }], ["a/data/0", data]]), "does not lie where"],
    [
      archive([["a/data.pkl", pkl], ["a/byteorder", new TextEncoder().encode("big")]]),
      "big-endian",
    ],
  ] as const;
  for (const [bytes, words] of cases) assertStringIncludes(await refusal(bytes), words);
});

Deno.test("a pickle of another kind, or a damaged one, is refused", async () => {
  const cases = [
    [pickle("cos\nsystem\n", ...text("x"), "\x85R"), 'asks for "os.system"'],
    [pickle("(ios\nsystem\n"), 'asks for "os.system" (opcode INST)'],
    [pickle(...text("os"), ...text("system"), "\x93"), 'asks for "os.system"'],
    [pickle("ctorch\nload\n"), 'asks for "torch.load"'],
    [pickle("ctorch\nFloatStorage\n)R"), 'to call "torch.FloatStorage"'],
    [pickle("ccollections\nOrderedDict\n)\x81"), "opcode NEWOBJ"],
    [pickle("(ccollections\nOrderedDict\no"), "opcode OBJ"],
    [pickle("\x82\x01"), "opcode EXT1"],
    [pickle("ccollections\nOrderedDict\n}b"), "opcode BUILD"],
    [pickle("(I1\nt"), "opcode 0x49"],
    [pickle(...text("posix"), "Q"), "no storage of tensors"],
    [pickle("}", ...text("a"), "s"), "takes from nothing"],
    [pickle("t"), "lacks a mark"],
    [pickle("K\x01K\x02K\x03s"), "no dictionary"],
    [pickle("h\x07"), "never kept"],
    [pickle("N)R"), "cannot be called"],
    [pickle("]"), "has no tensors"],
    [pickle("}", ...text("epoch"), "K\x03s"), 'its keys are ["epoch"]'],
    [pickle("X", u32(0xffffffff)), "ends too early"],
    [pickle("\x8d", u32(0), u32(0x7fffffff)), "ends too early"],
    [pickle("\x8b", u32(0x7fffffff)), "opcode 0x8b"],
    [Uint8Array.of(0x80, 0x00, 0x2e), "protocol 0"],
    [Uint8Array.of(0x80, 0x02, 0x7d), "ends too early"],
    // Nested deeply, and long without end.
    [pickle("(".repeat(900_000)), "takes from nothing"],
    [pickle("]".repeat(1_000_001)), "takes more than 1000000 steps"],
  ] as const;
  for (const [pkl, words] of cases) {
    assertStringIncludes(await refusal(checkpoint(pkl)), words);
  }
  // A list in a list in a list, and a dictionary that holds itself: nothing here recurses.
  const deep = "]q\x00" + "]q\x01h\x00ah\x01q\x00".repeat(100_000);
  assertStringIncludes(await refusal(checkpoint(pickle(deep))), "has no tensors");
  assertStringIncludes(
    await refusal(checkpoint(pickle("}q\x00", ...text("state_dict"), "h\x00s"))),
    'its keys are ["state_dict"]',
  );
});
