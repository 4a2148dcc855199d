/**
 * A manifest lists every file of a folder with its size and SHA-256, so that a checkpoint or dataset
 * damaged on its way is recognised before it is used.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { writeAtomically } from "../nn/safetensors.ts";

/** The manifest's name in its folder. */
export const manifestName = "manifest.json";

/** What is recorded of one file. */
export interface FileDigest {
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** The files below a folder, by path relative to it, with `/` between the parts. */
export interface Manifest {
  readonly files: Readonly<Record<string, FileDigest>>;
}

/**
 * SHA-256 of a file, read in pieces so that a checkpoint of many gigabytes is no trouble.
 *
 * @param path The file.
 * @returns Its size and digest.
 */
export async function digestFile(path: string): Promise<FileDigest> {
  const hash = createHash("sha256");
  let bytes = 0;
  using file = await Deno.open(path);
  for await (const piece of file.readable) {
    hash.update(piece);
    bytes += piece.length;
  }
  return { bytes, sha256: hash.digest("hex") };
}

/**
 * One digest for a file or for everything below a folder; it changes when any name or content does.
 *
 * @param path A file or a folder.
 * @returns The digest, hexadecimal.
 */
export async function digestTree(path: string): Promise<string> {
  if ((await Deno.stat(path)).isFile) return (await digestFile(path)).sha256;
  const hash = createHash("sha256");
  for (const name of await filesBelow(path)) {
    hash.update(`${name}\0${(await digestFile(`${path}/${name}`)).sha256}\n`);
  }
  return hash.digest("hex");
}

/**
 * Writes `manifest.json` for everything below a folder.
 *
 * @param folder The folder.
 * @returns What was written.
 */
export async function writeManifest(folder: string): Promise<Manifest> {
  const files: Record<string, FileDigest> = {};
  for (const name of await filesBelow(folder)) {
    if (name !== manifestName) files[name] = await digestFile(`${folder}/${name}`);
  }
  const bytes = new TextEncoder().encode(JSON.stringify({ files }, null, 2) + "\n");
  await writeAtomically(`${folder}/${manifestName}`, bytes.length, (write) => write(bytes));
  return { files };
}

/**
 * Compares a folder with its manifest.
 *
 * @param folder The folder that holds `manifest.json`.
 * @param only Check only the files whose path begins so, such as `weak/`; all by default.
 * @returns The manifest.
 * @throws {Error} naming every file that is missing or differs, and what to do.
 */
export async function checkManifest(folder: string, only = ""): Promise<Manifest> {
  const path = `${folder}/${manifestName}`;
  let manifest: Manifest;
  try {
    manifest = JSON.parse(await Deno.readTextFile(path));
  } catch (cause) {
    throw new Error(`${path} is missing or is not JSON: ${restore(folder)}`, { cause });
  }
  const faults: string[] = [];
  for (const [name, expected] of Object.entries(manifest.files ?? {})) {
    if (!name.startsWith(only)) continue;
    try {
      const found = await digestFile(`${folder}/${name}`);
      if (found.bytes !== expected.bytes) {
        faults.push(`${name} has ${found.bytes} bytes, expected ${expected.bytes}`);
      } else if (found.sha256 !== expected.sha256) {
        faults.push(`${name} has SHA-256 ${found.sha256}, expected ${expected.sha256}`);
      }
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      faults.push(`${name} is missing`);
    }
  }
  if (faults.length > 0) {
    throw new Error(
      `${folder} differs from its manifest: ${faults.join("; ")}. ${restore(folder)}`,
    );
  }
  return manifest;
}

function restore(folder: string): string {
  return `Restore the folder (git checkout -- ${folder}) or rebuild it (deno task pretrain)`;
}

async function filesBelow(folder: string, prefix = ""): Promise<string[]> {
  const names: string[] = [];
  for await (const entry of Deno.readDir(`${folder}/${prefix}`)) {
    const name = prefix + entry.name;
    // Links are followed: what is behind them is what will be read.
    const { isDirectory } = entry.isSymlink ? await Deno.stat(`${folder}/${name}`) : entry;
    if (isDirectory) names.push(...await filesBelow(folder, `${name}/`));
    else if (!name.endsWith(".partial")) names.push(name);
  }
  return names.sort();
}
