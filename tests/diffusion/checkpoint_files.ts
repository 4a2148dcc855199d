/**
 * Single-file checkpoints for tests: the golden files list their tensors, and every element follows
 * from its tensor's name, as in `tests/golden/checkpoints.py`.
 *
 * @module
 */
import { crc32, gunzipSync } from "node:zlib";
import type { Json } from "../../lib/diffusion/config.ts";
import {
  openSafetensors,
  type SafetensorsDType,
  type SafetensorsEntry,
  type SafetensorsTensor,
  writeSafetensors,
} from "../../lib/nn/safetensors.ts";
import { saveWeights, type Weights } from "../../lib/nn/weights.ts";
import { encodeF16 } from "../../lib/tensor/f16.ts";
import { goldenPath } from "./golden.ts";

/** What diffusers makes of a single-file checkpoint. */
export interface GoldenCheckpoint {
  readonly config: Readonly<Record<string, Json>>;
  /** Type and shape of every tensor of the file. */
  readonly file: Readonly<Record<string, readonly [SafetensorsDType, readonly number[]]>>;
  /** Shape, and checksum of small models, of every tensor by part. */
  readonly parts: Readonly<
    Record<string, Readonly<Record<string, readonly [readonly number[], number?]>>>
  >;
}

/** Reads a compressed golden JSON file. */
export function goldenJson<T>(path: string): T {
  return JSON.parse(new TextDecoder().decode(gunzipSync(Deno.readFileSync(goldenPath(path)))));
}

const BYTES: Readonly<Record<string, number>> = { F32: 4, F16: 2, I64: 8, I32: 4 };

/** The header that a file of these tensors would have. */
export function headerOf(file: GoldenCheckpoint["file"]): Map<string, SafetensorsEntry> {
  let byteOffset = 0;
  return new Map(
    Object.entries(file).map(([name, [dtype, shape]]) => {
      const byteLength = shape.reduce((a, b) => a * b, BYTES[dtype]!);
      const entry = { dtype, shape, byteOffset, byteLength };
      byteOffset += byteLength;
      return [name, entry];
    }),
  );
}

/** Writes a file of these tensors. */
export async function writeCheckpoint(path: string, file: GoldenCheckpoint["file"]): Promise<void> {
  await writeSafetensors(
    path,
    new Map(
      Object.entries(file).map(([name, [dtype, shape]]): [string, SafetensorsTensor] => [
        name,
        { dtype, shape, data: () => Promise.resolve(elements(name, dtype, shape)) },
      ]),
    ),
    { format: "pt" },
  );
}

function elements(name: string, dtype: SafetensorsDType, shape: readonly number[]) {
  const length = shape.reduce((a, b) => a * b, 1);
  // Tables that nobody reads.
  if (dtype[0] === "I") return new Uint8Array(length * BYTES[dtype]!);
  const first = crc32(name);
  const values = Float32Array.from(
    { length },
    (_, i) => ((Math.imul(first + i, 2654435761) >>> 21) - 1024) / 2 ** 14,
  );
  return dtype === "F16" ? encodeF16(values) : values;
}

/** The checksum of every tensor, in the file's layout. */
export async function checksums(weights: Weights): Promise<Record<string, number>> {
  const path = await Deno.makeTempFile();
  await saveWeights(path, weights.tensors);
  const { entries, read } = await openSafetensors(path);
  const sums: Record<string, number> = {};
  for (const name of entries.keys()) {
    const { buffer } = await read(name);
    sums[name] = crc32(new Uint8Array(buffer));
  }
  await Deno.remove(path);
  return sums;
}
