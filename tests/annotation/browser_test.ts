/** The page in a real browser, see `walk_through.ts`. */
import { assertEquals } from "@std/assert";
import { findChromium } from "./chromium.ts";

const chromium = findChromium();

for (const scenario of ["keyboard", "phone", "sideways", "outage"]) {
  Deno.test({
    name: `the page in a browser: ${scenario}` +
      (chromium ? "" : " (ignored: no Chromium on the PATH or in CHROMIUM)"),
    ignore: chromium === undefined,
    async fn() {
      const folder = await Deno.makeTempDir();
      const { code, stderr } = await new Deno.Command("deno", {
        args: ["run", "-A", "tests/annotation/walk_through.ts", scenario, folder],
        env: { NO_COLOR: "1" },
      }).output();
      await Deno.remove(folder, { recursive: true });
      assertEquals(code, 0, new TextDecoder().decode(stderr));
    },
  });
}
