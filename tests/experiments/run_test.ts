/** Runs: their keys, their reuse, their resumption. */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { runKey, RunStore, writeWhole } from "../../lib/experiments/run.ts";

async function withFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("a key depends on every input and not on the order of properties", () => {
  const inputs = { method: "dpo", seed: 1, lr: 1e-3, nested: { a: [1, 2], b: null } };
  const key = runKey("train", inputs);
  assertEquals(key.length, 64);
  assertEquals(
    runKey("train", { nested: { b: null, a: [1, 2] }, lr: 1e-3, seed: 1, method: "dpo" }),
    key,
  );
  const others = [
    runKey("evaluate", inputs),
    runKey("train", { ...inputs, seed: 2 }),
    runKey("train", { ...inputs, lr: 2e-3 }),
    runKey("train", { ...inputs, nested: { a: [2, 1], b: null } }),
    runKey("train", { ...inputs, nested: { a: [1, 2] } }),
  ];
  assertEquals(new Set([key, ...others]).size, 6);
  assertThrows(() => runKey("train", { lr: NaN }), RangeError, "finite");
});

Deno.test("a finished run is read back, another one is computed", () =>
  withFolder(async (folder) => {
    const store = new RunStore(folder, "test device");
    let computed = 0;
    const compute = () => Promise.resolve({ value: ++computed });
    const first = await store.run("train", { seed: 1 }, compute);
    const again = await new RunStore(folder, "test device").run("train", { seed: 1 }, compute);
    const other = await store.run("train", { seed: 2 }, compute);
    assertEquals([first.reused, again.reused, other.reused], [false, true, false]);
    assertEquals([first, again, other].map((r) => r.record.result), [
      { value: 1 },
      { value: 1 },
      { value: 2 },
    ]);
    assertEquals(again.record.provenance.device, "test device");
    assertEquals(again.record.inputs, { seed: 1 });
  }));

Deno.test("an interrupted run goes on in its folder", () =>
  withFolder(async (folder) => {
    const store = new RunStore(folder, "test device");
    await assertRejects(
      () =>
        store.run("train", {}, async (run) => {
          await Deno.writeTextFile(`${run}/checkpoint`, "step 7");
          throw new Error("killed");
        }),
      Error,
      "killed",
    );
    const { record, reused } = await store.run(
      "train",
      {},
      async (run) => await Deno.readTextFile(`${run}/checkpoint`),
    );
    assertEquals([record.result, reused], ["step 7", false]);
  }));

Deno.test("an unreadable record names the file and the remedy", () =>
  withFolder(async (folder) => {
    const store = new RunStore(folder, "test device");
    const { record } = await store.run("train", {}, () => Promise.resolve(1));
    await Deno.writeTextFile(`${store.folderOf(record.key)}/record.json`, "{");
    await assertRejects(() => store.run("train", {}, () => Promise.resolve(2)), Error, "delete");
  }));

Deno.test("a file is written whole or not at all", () =>
  withFolder(async (folder) => {
    await writeWhole(`${folder}/a`, "x");
    await assertRejects(() => writeWhole(`${folder}/none/a`, "x"), Error, "none/a");
    const names = [...Deno.readDirSync(folder)].map((entry) => entry.name);
    assertEquals(names, ["a"]);
    assert(await Deno.readTextFile(`${folder}/a`) === "x");
  }));
