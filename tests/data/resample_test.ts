import { assert, assertEquals, assertThrows } from "@std/assert";
import { type ResampleFilter, resizePil, resizeTorch } from "../../lib/data/resample.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";

/** The case as the golden script describes it: sizes are [width, height]. */
interface ResamplingCase {
  readonly golden: string;
  readonly sizes: readonly { readonly from: [number, number]; readonly to: [number, number] }[];
  readonly pattern: number;
  /** By filter and size. */
  readonly sha256: Readonly<Record<string, string>>;
}

const [golden] = goldenCases("resampling") as unknown as [ResamplingCase];
const file = await openSafetensors(goldenPath(golden.golden));

for (const [i, { from: [width, height], to }] of golden.sizes.entries()) {
  Deno.test(`${width}x${height} to ${to.join("x")}: Pillow's bytes, PyTorch's numbers`, async () => {
    const data = await file.read(`${i}.input`) as Uint8Array;
    for (const filter of ["bilinear", "bicubic"] as const) {
      const found = resizePil({ width, height, data }, ...to, filter);
      assertEquals([found.width, found.height], to);
      assertEquals(found.data, await file.read(`${i}.${filter}`), filter);
    }
    const floats = { width, height, data: Float32Array.from(data, (x) => x / 255) };
    for (const antialias of [false, true]) {
      const found = resizeTorch(floats, ...to, antialias);
      const expected = await file.read(
        `${i}.tensor.${antialias ? "antialiased" : "plain"}`,
      ) as Float32Array;
      assertEquals(found.data.length, expected.length);
      const error = Math.max(...found.data.map((x, j) => Math.abs(x - expected[j]!)));
      assert(error < 1e-5, `antialias ${antialias}: ${error}`);
    }
  });
}

Deno.test("a large image has Pillow's bytes", async () => {
  const side = golden.pattern;
  const data = new Uint8Array(side * side * 3);
  let value = 1;
  for (let i = 0; i < data.length; i++) {
    value = (Math.imul(value, 1664525) + 1013904223) >>> 0;
    data[i] = value >>> 24;
  }
  for (const [name, expected] of Object.entries(golden.sha256)) {
    const [filter, size] = name.split(" ") as [ResampleFilter, string];
    const [width, height] = size.split("x").map(Number) as [number, number];
    const found = resizePil({ width: side, height: side, data }, width, height, filter);
    const hash = await crypto.subtle.digest("SHA-256", found.data as Uint8Array<ArrayBuffer>);
    assertEquals(new Uint8Array(hash).toHex(), expected, name);
  }
});

Deno.test("an image of its own size is the same, and a size without pixels is refused", () => {
  const image = { width: 3, height: 2, data: Uint8Array.from({ length: 18 }, (_, i) => i * 14) };
  assertEquals(resizePil(image, 3, 2, "bicubic"), image);
  for (const [width, height] of [[0, 2], [3, -1], [1.5, 2], [NaN, 2]] as const) {
    assertThrows(() => resizePil(image, width, height, "bilinear"), RangeError, "resized to");
  }
});
