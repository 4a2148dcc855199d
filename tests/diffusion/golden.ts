/**
 * Reading the golden files: what PyTorch computed, turned into this library's layouts.
 *
 * @module
 */
import { assert } from "@std/assert";
import type { Json } from "../../lib/diffusion/config.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { type Tensor, tensor } from "../../lib/tensor/mod.ts";

const ROOT = new URL("../golden/", import.meta.url).pathname;

/** One entry of the manifest. */
export interface GoldenCase {
  readonly kind: string;
  readonly name: string;
  readonly model: string;
  readonly golden: string;
  readonly residuals?: number;
  readonly scheduler?: string;
  readonly steps?: number;
  readonly config?: Json;
  readonly guidance?: number;
}

/** The cases of one kind. */
export function goldenCases(kind: string): GoldenCase[] {
  const { cases } = JSON.parse(Deno.readTextFileSync(`${ROOT}manifest.json`));
  return cases.filter((c: GoldenCase) => c.kind === kind);
}

/** The path of a file or folder among the golden files. */
export const goldenPath = (path: string) => ROOT + path;

/** The tensors of one golden file. */
export interface GoldenFile {
  has(name: string): boolean;
  /** Elements, images as [N, H, W, C]. */
  values(name: string): Promise<Float32Array | Int32Array>;
  /** A tensor, images as [N, H, W, C]. */
  tensor(name: string): Promise<Tensor>;
}

export async function openGolden(path: string): Promise<GoldenFile> {
  const file = await openSafetensors(goldenPath(path));
  const shapeOf = (name: string) => file.entries.get(name)!.shape;
  const values = async (name: string) => {
    const data = await file.read(name) as Float32Array | Int32Array;
    return shapeOf(name).length === 4 ? channelsLast(data, shapeOf(name)) : data;
  };
  return {
    has: (name) => file.entries.has(name),
    values,
    async tensor(name) {
      const shape = shapeOf(name);
      const [n, c, h, w] = shape;
      return tensor(await values(name), shape.length === 4 ? [n!, h!, w!, c!] : shape);
    },
  };
}

function channelsLast<T extends Float32Array | Int32Array>(
  data: T,
  shape: readonly number[],
): T {
  const [n, c, h, w] = shape as [number, number, number, number];
  const out = data.slice() as T;
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      for (let p = 0; p < h * w; p++) {
        out[(i * h * w + p) * c + k] = data[(i * c + k) * h * w + p]!;
      }
    }
  }
  return out;
}

/** `||found - expected|| / ||expected||` */
export function relativeError(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  assert(found.length === expected.length, `${found.length} values, expected ${expected.length}`);
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (found[i]! - expected[i]!) ** 2;
    size += expected[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

/** Asserts a relative error of 1e-4 or less. */
export async function assertClose(
  found: Tensor,
  expected: ArrayLike<number>,
  what: string,
): Promise<void> {
  const error = relativeError(await found.data(), expected);
  assert(error <= 1e-4, `${what}: relative error ${error}`);
}
