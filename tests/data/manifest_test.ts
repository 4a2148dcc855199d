/** Manifests: what is written is what is checked. */
import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { checkManifest, digestFile, digestTree, writeManifest } from "../../lib/data/manifest.ts";

async function folderOf(files: Record<string, string>): Promise<string> {
  const folder = await Deno.makeTempDir();
  await Deno.mkdir(`${folder}/unet`);
  for (const [name, content] of Object.entries(files)) {
    await Deno.writeTextFile(`${folder}/${name}`, content);
  }
  return folder;
}

Deno.test("a file's digest is its SHA-256", async () => {
  const folder = await folderOf({ a: "abc" });
  assertEquals(await digestFile(`${folder}/a`), {
    bytes: 3,
    sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  });
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a folder's digest depends on names and contents", async () => {
  const folders = [
    await folderOf({ a: "x", "unet/b": "y" }),
    await folderOf({ "unet/b": "y", a: "x" }),
    await folderOf({ a: "x", "unet/c": "y" }),
    await folderOf({ a: "x", "unet/b": "z" }),
  ];
  const digests = await Promise.all(folders.map(digestTree));
  assertEquals(digests[0], digests[1]);
  assertEquals(new Set(digests).size, 3);
  for (const folder of folders) await Deno.remove(folder, { recursive: true });
});

Deno.test("a linked folder counts as what it links to", async () => {
  const folders = [await folderOf({ "unet/b": "y" }), await folderOf({ "unet/b": "y" })];
  await Deno.symlink("unet", `${folders[0]}/vae`);
  await Deno.mkdir(`${folders[1]}/vae`);
  await Deno.copyFile(`${folders[1]}/unet/b`, `${folders[1]}/vae/b`);
  assertEquals(await digestTree(folders[0]!), await digestTree(folders[1]!));
  for (const folder of folders) await Deno.remove(folder, { recursive: true });
});

Deno.test("damage is found and named, with the remedy", async () => {
  const folder = await folderOf({ a: "abc", "unet/b": "def", c: "ghi" });
  const written = await writeManifest(folder);
  assertEquals(Object.keys(written.files), ["a", "c", "unet/b"]);
  assertEquals(await checkManifest(folder), written);
  await Deno.writeTextFile(`${folder}/unet/b`, "deF");
  await Deno.writeTextFile(`${folder}/a`, "ab");
  await Deno.remove(`${folder}/c`);
  const { message } = await assertRejects(() => checkManifest(folder), Error);
  assertStringIncludes(message, "a has 2 bytes, expected 3");
  assertStringIncludes(message, "c is missing");
  assertStringIncludes(message, "unet/b has SHA-256");
  assertStringIncludes(message, "deno task pretrain");
  await assertRejects(() => checkManifest(folder, "unet/"), Error, "unet/b");
  await Deno.remove(`${folder}/manifest.json`);
  await assertRejects(() => checkManifest(folder), Error, "manifest.json is missing");
  await Deno.remove(folder, { recursive: true });
});
