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

Deno.test("a window is cut out of the resized image", async () => {
  for (const [i, { from: [width, height], to }] of golden.sizes.entries()) {
    const image = { width, height, data: await file.read(`${i}.input`) as Uint8Array };
    const whole = resizePil(image, ...to, "bicubic");
    const left = to[0] >> 2, top = to[1] >> 1;
    const window = { left, top, width: Math.ceil(to[0] / 2), height: Math.ceil(to[1] / 3) };
    const found = resizePil(image, ...to, "bicubic", window);
    assertEquals([found.width, found.height], [window.width, window.height]);
    const expected = Uint8Array.from(found.data, (_, at) => {
      const y = Math.floor(at / (window.width * 3));
      return whole.data[((top + y) * to[0] + left) * 3 + at - y * window.width * 3]!;
    });
    assertEquals(found.data, expected, to.join("x"));
  }
});

Deno.test("the middle of a long strip takes no more memory than it has", () => {
  const strip = { width: 1, height: 2_000_000, data: new Uint8Array(6_000_000).fill(9) };
  const window = { left: 0, top: 100_000_000, width: 224, height: 224 };
  assertEquals(
    resizePil(strip, 224, 448_000_000, "bicubic", window),
    { width: 224, height: 224, data: new Uint8Array(224 * 224 * 3).fill(9) },
  );
  assertThrows(
    () => resizePil(strip, 1, 1, "bicubic", window),
    RangeError,
    "the window of 224x224 at (0, 100000000) does not lie in 1x1",
  );
});

Deno.test("an image of its own size is the same, and a size without pixels is refused", () => {
  const image = { width: 3, height: 2, data: Uint8Array.from({ length: 18 }, (_, i) => i * 14) };
  assertEquals(resizePil(image, 3, 2, "bicubic"), image);
  for (const [width, height] of [[0, 2], [3, -1], [1.5, 2], [NaN, 2]] as const) {
    assertThrows(() => resizePil(image, width, height, "bilinear"), RangeError, "resized to");
  }
});
