/** The page of a training: what is kept, what is shown, and that words stay words. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { savedSamples, saveSamples, writeTrainingReport } from "../../lib/tasks/training_report.ts";

const images = (count: number) => ({
  ...{ count, width: 8, height: 8 },
  data: Uint8Array.from({ length: count * 192 }, (_, i) => i * 31 % 256),
});

const metrics = [1, 2, 3].map((step) => ({
  ...{ step, loss: 1 / step, winnerError: 0.1, accuracy: 0.5, logitMean: 0, logitStd: step },
  ...{ gradientNorm: 2, learningRate: 1e-3, seconds: 0.5 * step },
}));

Deno.test("report: samples are kept by step, and a step that was cut off is not shown", async () => {
  const run = await Deno.makeTempDir();
  assertEquals(await savedSamples(run), []);
  const prompts = ["a cat", "a dog"];
  for (const step of [100, 0, 20]) await saveSamples(run, step, prompts, images(2));
  // Killed between its pictures.
  await saveSamples(run, 120, prompts, images(2));
  await Deno.remove(`${run}/samples/0000120/prompts.json`);
  const saved = await savedSamples(run);
  assertEquals(saved.map(({ step }) => step), [0, 20, 100]);
  assertEquals(saved[0]!.prompts, prompts);
  for (const file of saved.flatMap(({ files }) => files)) assert((await Deno.stat(file)).isFile);
  await Deno.remove(run, { recursive: true });
});

Deno.test("report: one file with curves, pictures and words as they are", async () => {
  const run = await Deno.makeTempDir();
  const page = `${run}/report.html`;
  const report = {
    title: "dpo, <models/mine>",
    settings: [["data", '"x" & y']] as const,
  };
  await writeTrainingReport(page, { ...report, metrics: [], samples: [] });
  const before = await Deno.readTextFile(page);
  assertStringIncludes(before, "No step has been taken yet.");
  assert(!before.includes("<svg"));

  await saveSamples(run, 0, ["a <b>bold</b> cat"], images(1));
  await writeTrainingReport(page, { ...report, metrics, samples: await savedSamples(run) });
  const html = await Deno.readTextFile(page);
  assertStringIncludes(html, "<h1>dpo, &lt;models/mine&gt;</h1>");
  assertStringIncludes(html, "<td>&quot;x&quot; &amp; y</td>");
  assertStringIncludes(html, "3 steps in 0.0 minutes of training, 0.500 s each.");
  assertStringIncludes(html, "<h3>The base model</h3>");
  assertStringIncludes(html, "a &lt;b&gt;bold&lt;/b&gt; cat");
  assert(!html.includes("<b>bold"));
  assertEquals([...html.matchAll(/src="data:image\/webp;base64,/g)].length, 1);
  for (const title of ["loss", "spread of the logit", "norm of the gradient"]) {
    assert(html.includes(`>${title}<`), title);
  }
  // Nothing is fetched from elsewhere.
  assert(!/(?:src|href)="(?!data:)/.test(html.replaceAll(/xlink:href="#[^"]*"/g, "")));
  await Deno.remove(run, { recursive: true });
});
