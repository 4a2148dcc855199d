/** The live figure, on a clock and an output of the test's own. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { CellOutput, MimeBundle } from "../../lib/notebook/kernel.ts";
import { LiveFigure } from "../../lib/notebook/live.ts";

function recorder(): CellOutput & { readonly bundles: MimeBundle[] } {
  const bundles: MimeBundle[] = [];
  return {
    bundles,
    put(bundle) {
      bundles.push(bundle);
      return Promise.resolve();
    },
  };
}

const curve = (y: number[]) => ({ data: [{ type: "scatter" as const, y }], layout: {} });

/** The points of a bundle that has all forms. */
function points(bundle: MimeBundle): number[] {
  const plotly = bundle["application/vnd.plotly.v1+json"] as ReturnType<typeof curve>;
  return plotly.data[0]!.y;
}

Deno.test("the first state is drawn, then at most one per interval, and at last the last", async () => {
  let time = 0, made = 0;
  const output = recorder();
  const live = new LiveFigure({ caption: "c", interval: 1000, output, now: () => time });
  const y: number[] = [];
  for (let i = 0; i < 25; i++) {
    y.push(i);
    await live.update(() => (made++, curve(y)));
    time += 100;
  }
  assertEquals([output.bundles.length, made], [3, 3]);
  for (const bundle of output.bundles) {
    // Another form than the last one's, so that JupyterLab draws the last one.
    assertEquals(Object.keys(bundle), ["image/svg+xml", "text/plain"]);
  }
  await live.end();
  assertEquals(output.bundles.length, 4);
  assertEquals(points(output.bundles[3]!).length, 25);
  assertStringIncludes(output.bundles[3]!["image/svg+xml"] as string, "<svg");
});

Deno.test("drawing takes no more than a tenth of the time", async () => {
  let time = 0;
  const output = recorder();
  const live = new LiveFigure({ caption: "c", interval: 0, output, now: () => time });
  const slow = async () => {
    const drawn = live.update(() => curve([1]));
    time += 200;
    await drawn;
  };
  await slow();
  await slow();
  const before = output.bundles.length;
  for (let i = 0; i < 9; i++) await slow();
  assertEquals([before, output.bundles.length], [2, 2]);
  await slow();
  assertEquals(output.bundles.length, 3);
});

Deno.test("a drawing that nobody awaited does not come after the end", async () => {
  const output = recorder();
  const live = new LiveFigure({ caption: "c", interval: 0, output });
  live.update(() => curve([1]));
  live.update(() => curve([1, 2]));
  await live.end();
  assertEquals(output.bundles.length, 2);
  assertEquals(points(output.bundles[1]!), [1, 2]);
});

Deno.test("with nothing drawn the end shows nothing", async () => {
  const output = recorder();
  await new LiveFigure({ caption: "c", output }).end();
  assert(output.bundles.length === 0);
});
