/**
 * A run is a computation stored under the hash of everything that determines it: asked for again, it
 * is read back; interrupted, it goes on in the same folder.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { writeAtomically } from "../nn/safetensors.ts";

/**
 * Raised when a change of the code alters what a run computes, so that older runs are not reused.
 */
export const codeVersion = 2;

/** What can be hashed and stored. */
export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [key: string]: Json };

/** Where and when something was computed. */
export interface Provenance {
  readonly codeVersion: number;
  readonly versions: { readonly deno: string; readonly v8: string; readonly typescript: string };
  readonly machine: { readonly os: string; readonly arch: string; readonly threads: number };
  /** The compute device, in the backend's words. */
  readonly device: string;
  readonly startedAt: string;
  readonly seconds: number;
}

/** A finished run. */
export interface RunRecord<T> {
  readonly key: string;
  readonly kind: string;
  /** Everything that determines the result. */
  readonly inputs: Json;
  readonly result: T;
  readonly provenance: Provenance;
}

/**
 * The key of a run: SHA-256 over its kind, the code version and its inputs, whose order of properties
 * doesn't matter.
 *
 * @param kind What is computed, such as `train`.
 * @param inputs Everything that determines the result.
 * @returns 64 hexadecimal digits.
 */
export function runKey(kind: string, inputs: Json): string {
  return createHash("sha256").update(canonical({ codeVersion, kind, inputs })).digest("hex");
}

/** JSON with sorted properties: equal values give equal text. */
function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonical(v)}`).join(",")}}`;
  }
  if (typeof value === "number" && !Number.isFinite(value)) {
    throw new RangeError(`a run's inputs must be finite numbers, found ${value}`);
  }
  return JSON.stringify(value);
}

/**
 * Describes the present computation.
 *
 * @param device The compute device, in the backend's words.
 * @param startedAt When it began.
 */
export function provenance(device: string, startedAt: Date): Provenance {
  return {
    codeVersion,
    versions: { deno: Deno.version.deno, v8: Deno.version.v8, typescript: Deno.version.typescript },
    machine: {
      os: Deno.build.os,
      arch: Deno.build.arch,
      threads: navigator.hardwareConcurrency,
    },
    device,
    startedAt: startedAt.toISOString(),
    seconds: (Date.now() - startedAt.getTime()) / 1000,
  };
}

/** Finished and unfinished runs below one folder. */
export class RunStore {
  readonly #folder: string;
  readonly #device: string;

  /**
   * @param folder Where the runs are kept, one folder each, named by the key.
   * @param device The compute device, for the records.
   */
  constructor(folder: string, device: string) {
    this.#folder = folder;
    this.#device = device;
  }

  /** The folder of a run: its record, and whatever it keeps while it works. */
  folderOf(key: string): string {
    return `${this.#folder}/${key}`;
  }

  /**
   * Reads a finished run, or computes it.
   *
   * @param kind What is computed.
   * @param inputs Everything that determines the result.
   * @param compute Computes the result. It is given the run's folder, where it may keep checkpoints:
   * after an interruption it is called again with the same folder.
   * @returns The record, and whether it was computed before.
   * @throws {Error} if a stored record cannot be read.
   */
  async run<T extends Json>(
    kind: string,
    inputs: Json,
    compute: (folder: string) => Promise<T>,
  ): Promise<{ record: RunRecord<T>; reused: boolean }> {
    const key = runKey(kind, inputs);
    const folder = this.folderOf(key);
    const path = `${folder}/record.json`;
    const stored = await readIfPresent(path);
    if (stored !== undefined) {
      try {
        return { record: JSON.parse(stored), reused: true };
      } catch (cause) {
        throw new Error(`${path} is not JSON: delete ${folder} to run it again`, { cause });
      }
    }
    await Deno.mkdir(folder, { recursive: true });
    const startedAt = new Date();
    const result = await compute(folder);
    const record = { key, kind, inputs, result, provenance: provenance(this.#device, startedAt) };
    await writeWhole(path, JSON.stringify(record, null, 1) + "\n");
    return { record, reused: false };
  }
}

async function readIfPresent(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * Writes a file so that it is there whole or not at all.
 *
 * @param path The file.
 * @param content Text or bytes.
 */
export async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  await writeAtomically(path, bytes.length, (write) => write(bytes));
}
