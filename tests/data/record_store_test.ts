import { createHash } from "node:crypto";
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { RecordStore } from "../../lib/data/record_store.ts";
import { inFolder } from "./rows.ts";

const recordBytes = 24;
const description = { holds: "test records" };
const open = (folder: string) => RecordStore.open({ folder, recordBytes, description });

const keyOf = (i: number) => createHash("sha256").update(`${i}`).digest("hex");
const bytesOf = (i: number) =>
  Uint8Array.from({ length: recordBytes }, (_, j) => (i * 31 + j) % 256);
const record = (i: number) => ({ key: keyOf(i), bytes: bytesOf(i) });

/** The records from 0 on that are there, each checked. */
async function countOf(folder: string): Promise<number> {
  using store = await open(folder);
  for (let i = 0; i < store.size; i++) {
    const number = store.find(keyOf(i));
    assert(number !== undefined, `record ${i} of ${store.size}`);
    assertEquals(await store.read([number]), bytesOf(i));
  }
  return store.size;
}

Deno.test("records are found by key, in any order, now and later", () =>
  inFolder(async (folder) => {
    {
      using store = await open(`${folder}/a/b`);
      await store.append([record(2), record(0), record(2)]);
      await store.append([record(0), record(1)]);
      assertEquals(store.size, 3);
      assertEquals(store.find(keyOf(3)), undefined);
    }
    using store = await open(`${folder}/a/b`);
    const found = await store.read([0, 1, 2].map((i) => store.find(keyOf(i))!));
    assertEquals([...found], [0, 1, 2].flatMap((i) => [...bytesOf(i)]));
    assertEquals((await Deno.stat(`${folder}/a/b/records.bin`)).size, 3 * recordBytes);
    await assertRejects(
      () => store.append([{ key: keyOf(9), bytes: new Uint8Array(3) }]),
      RangeError,
      "has 24 bytes, got 3",
    );
    await assertRejects(
      () => RecordStore.open({ folder: `${folder}/a/b`, recordBytes: 8, description }),
      Error,
      "describes other records than the wanted ones",
    );
  }));

Deno.test("killed at any byte, a store keeps its whole records and goes on", () =>
  inFolder(async (folder) => {
    {
      using store = await open(folder);
      await store.append([record(0), record(1)]);
      await store.append([record(2)]);
    }
    const [records, index] = await Promise.all(
      ["records.bin", "index.bin"].map((name) => Deno.readFile(`${folder}/${name}`)),
    ) as [Uint8Array, Uint8Array];
    const entry = index.length / 3;
    const leave = async (recordsLeft: number, indexLeft: number) => {
      await Deno.writeFile(`${folder}/records.bin`, records.slice(0, recordsLeft));
      await Deno.writeFile(`${folder}/index.bin`, index.slice(0, indexLeft));
    };
    for (let cut = 0; cut <= index.length; cut++) {
      await leave(records.length, cut);
      assertEquals(await countOf(folder), Math.floor(cut / entry), `${cut} bytes of the index`);
    }
    for (let cut = 0; cut <= records.length; cut++) {
      await leave(cut, index.length);
      assertEquals(await countOf(folder), Math.floor(cut / recordBytes), `${cut} bytes of records`);
    }
    // Half of an entry and half of a record are written over.
    await leave(recordBytes * 2 + 7, entry * 2 + 11);
    {
      using store = await open(folder);
      await store.append([record(2), record(3)]);
    }
    assertEquals(await countOf(folder), 4);
    assertEquals((await Deno.readFile(`${folder}/index.bin`)).slice(0, index.length), index);
  }));

Deno.test("damage is noticed: in the index it costs the records from there on, in a record it is named", () =>
  inFolder(async (folder) => {
    {
      using store = await open(folder);
      await store.append([record(0), record(1), record(2)]);
    }
    const flip = async (name: string, at: number) => {
      const bytes = await Deno.readFile(`${folder}/${name}`);
      bytes[at]! ^= 4;
      await Deno.writeFile(`${folder}/${name}`, bytes);
    };
    await flip("index.bin", 50);
    assertEquals(await countOf(folder), 1);
    await flip("index.bin", 50);
    await flip("records.bin", recordBytes + 3);
    using store = await open(folder);
    assertEquals(store.size, 3);
    await assertRejects(
      () => store.read([0, 1]),
      Error,
      `${folder}/records.bin: record 1 is damaged, its checksum differs: delete ${folder}`,
    );
    assertEquals(await store.read([2]), bytesOf(2));
  }));

Deno.test("one process writes at a time, and sees what another wrote before", () =>
  inFolder(async (folder) => {
    const first = await open(folder), second = await open(folder);
    await first.append([record(0)]);
    await assertRejects(
      () => second.append([record(1)]),
      Error,
      `another process is writing to ${folder}`,
    );
    first[Symbol.dispose]();
    await second.append([record(0), record(1)]);
    assertEquals(second.size, 2);
    second[Symbol.dispose]();
    assertEquals(await countOf(folder), 2);
  }));

/** Appends records 1 and 2 in a process that may write to any file. */
async function appendElsewhere(folder: string): Promise<string> {
  const module = new URL("../../lib/data/record_store.ts", import.meta.url);
  const records = JSON.stringify([1, 2].map((i) => ({ key: keyOf(i), bytes: [...bytesOf(i)] })));
  const program = `import { RecordStore } from "${module}";
    const options = ${JSON.stringify({ folder, recordBytes, description })};
    using store = await RecordStore.open(options);
    const records = ${records}.map(({ key, bytes }) => ({ key, bytes: Uint8Array.from(bytes) }));
    await store.append(records, 7).catch((error) => console.log(error.message));`;
  const { stdout, stderr } = await new Deno.Command("deno", { args: ["eval", program] }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

Deno.test({
  name: "a full disk is named, with the bytes that are needed, and nothing is lost",
  ignore: Deno.build.os !== "linux",
  fn: () =>
    inFolder(async (folder) => {
      const fillsUp = async (name: string) => {
        // A file that takes nothing.
        await Deno.rename(`${folder}/${name}`, `${folder}/kept`);
        await Deno.symlink("/dev/full", `${folder}/${name}`);
        assertStringIncludes(
          await appendElsewhere(folder),
          `the disk is full: 9 records of ${folder} are still to be written, ` +
            `which take ${9 * (recordBytes + 40)} bytes`,
        );
        await Deno.remove(`${folder}/${name}`);
        await Deno.rename(`${folder}/kept`, `${folder}/${name}`);
      };
      await open(folder);
      await fillsUp("index.bin");
      assertEquals(await countOf(folder), 0);
      {
        using store = await open(folder);
        await store.append([record(0)]);
      }
      await fillsUp("records.bin");
      assertEquals(await countOf(folder), 1);
      assertEquals(await appendElsewhere(folder), "");
      assertEquals(await countOf(folder), 3);
    }),
});
