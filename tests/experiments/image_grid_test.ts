/** The grid's geometry and its pictures. */
import { assert, assertEquals } from "@std/assert";
import sharp from "sharp";
import { imageGrid } from "../../lib/experiments/image_grid.ts";

Deno.test("a grid shows every picture, enlarged, with room for its caption", async () => {
  const plain = (r: number, g: number, b: number, caption: string) => ({
    pixels: Uint8Array.from({ length: 4 * 4 * 3 }, (_, i) => [r, g, b][i % 3]!),
    width: 4,
    height: 4,
    caption,
  });
  const png = await imageGrid([
    plain(255, 0, 0, "a red picture"),
    plain(0, 0, 255, "a blue picture whose caption is so long that it takes more than one line"),
    plain(0, 255, 0, "<green>"),
  ], { columns: 2, cell: 100, headings: ["base", "tuned"] });
  const { data, info } = await sharp(png).raw().toBuffer({ resolveWithObject: true });
  assertEquals(info.width, 2 * 108 + 8);
  assert(info.height > 2 * 100);
  const colours = new Map<string, number>();
  for (let i = 0; i < data.length; i += info.channels) {
    const colour = data.subarray(i, i + 3).join();
    colours.set(colour, (colours.get(colour) ?? 0) + 1);
  }
  for (const colour of ["255,0,0", "0,0,255", "0,255,0"]) {
    assertEquals(colours.get(colour), 100 * 100);
  }
  assert((colours.get("34,34,34") ?? 0) > 20, "no caption is drawn");
});
