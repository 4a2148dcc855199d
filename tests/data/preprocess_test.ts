import { assertEquals, assertThrows } from "@std/assert";
import { UnreadableImage } from "../../lib/data/images.ts";
import { mirrored, placementOf, preprocess } from "../../lib/data/preprocess.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";

const [golden] = goldenCases("preprocessing") as unknown as [{
  readonly golden: string;
  readonly sizes: readonly [number, number][];
  readonly resolution: number;
}];
const file = await openSafetensors(goldenPath(golden.golden));
const { resolution } = golden;

for (const [i, [width, height]] of golden.sizes.entries()) {
  Deno.test(`${width}x${height} to ${resolution}: torchvision's bytes, and Pillow's`, async () => {
    const image = { width, height, data: await file.read(`${i}.input`) as Uint8Array };
    const cropped = preprocess(image, { resolution, fit: "crop" });
    assertEquals([cropped.width, cropped.height], [resolution, resolution]);
    assertEquals(cropped.data, await file.read(`${i}.crop`));
    assertEquals(mirrored(cropped).data, await file.read(`${i}.mirrored`));
    const stretched = preprocess(image, { resolution, fit: "stretch" });
    assertEquals([stretched.width, stretched.height], [resolution, resolution]);
    assertEquals(stretched.data, await file.read(`${i}.stretch`));
  });
}

Deno.test("the square's place: long sides are cut short, half margins go to the even side", () => {
  const at = (width: number, height: number, fit: "crop" | "stretch" = "crop") =>
    Object.values(placementOf({ width, height }, { resolution: 16, fit }));
  assertEquals(at(53, 37), [22, 16, 3, 0]);
  assertEquals(at(50, 32), [25, 16, 4, 0]);
  assertEquals(at(32, 54), [16, 27, 0, 6]);
  assertEquals(at(16, 41), [16, 41, 0, 12]);
  assertEquals(at(50, 32, "stretch"), [16, 16, 0, 0]);
});

Deno.test("a picture without end is refused", () => {
  const image = { width: 1, height: 2 ** 20, data: new Uint8Array(3 * 2 ** 20) };
  const { message } = assertThrows(
    () => preprocess(image, { resolution: 512, fit: "crop" }, "x"),
    UnreadableImage,
  );
  assertEquals(message.startsWith("x is 1 x 1048576 pixels: with a short side of 512"), true);
  preprocess(image, { resolution: 8, fit: "stretch" });
});
