import { assert, assertEquals, assertRejects } from "@std/assert";
import { decodeImage, type Image } from "../../lib/data/images.ts";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { loadScorer } from "../../lib/evaluation/scorer.ts";
import { saveWeights } from "../../lib/nn/weights.ts";
import {
  cleanPrompt,
  loadOpenClip,
  openClipSource,
  openClipTokens,
  VIT_H_14,
} from "../../lib/evaluation/open_clip.ts";
import { clipParameters } from "../../lib/diffusion/clip.ts";
import { clipConfig, readJson } from "../../lib/diffusion/config.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

/** One scorer's case: a score per prompt and image of `scorers/images`, by the kind of resize. */
interface ScorerCase {
  readonly name: string;
  readonly model: string;
  readonly prompts: readonly string[];
  readonly scores: Readonly<Record<string, readonly number[]>>;
  readonly cleaned: readonly string[];
  readonly ids: readonly (readonly number[])[];
}

const cases = goldenCases("scorer") as unknown as ScorerCase[];
const [pickscore, hps] = ["pickscore", "hps"].map((name) =>
  cases.find((c) => c.name === name)!
) as [
  ScorerCase,
  ScorerCase,
];
const tokenizer = goldenPath("clip/tokenizer");
const images = await Promise.all(pickscore.prompts.map(async (_, i) => {
  const path = goldenPath(`scorers/images/${i}.png`);
  return await decodeImage(await Deno.readFile(path), path);
}));

function assertScores(found: Float32Array, expected: readonly number[]) {
  assertEquals(found.length, expected.length);
  const error = Math.max(...found.map((score, i) => Math.abs(score - expected[i]!)));
  assert(error < 1e-3, `${error}: ${found} for ${expected}`);
}

eachDevice("PickScore: pictures of any size score as in transformers", async () => {
  using scorer = await loadScorer(goldenPath(pickscore.model), { kind: "pickscore", tokenizer });
  assertScores(await scorer.score(pickscore.prompts, images), pickscore.scores.pickscore!);
});

for (const [resize, antialias] of [["plain", false], ["antialiased", true]] as const) {
  eachDevice(`HPSv2: pictures of any size score as in its package, ${resize}`, async () => {
    using scorer = await loadScorer(goldenPath(hps.model), { kind: "hps", tokenizer, antialias });
    assertScores(await scorer.score(hps.prompts, images), hps.scores[resize]!);
  });
}

eachDevice(
  "HPSv2 as a folder of transformers, held as f16 and as f32, scores the same",
  async () => {
    const folder = await Deno.makeTempDir();
    const config = goldenPath("scorers/hps/config.json");
    const weights = await loadOpenClip(goldenPath(hps.model), clipConfig(await readJson(config)));
    await saveWeights(`${folder}/model.safetensors`, weights.tensors, { dtype: "f32" });
    weights.dispose();
    await Deno.copyFile(config, `${folder}/config.json`);
    for (const dtype of ["f16", "f32"] as const) {
      using scorer = await loadScorer(folder, { kind: "hps", tokenizer, dtype });
      assertScores(await scorer.score(hps.prompts, images), hps.scores.plain!);
    }
    await Deno.remove(folder, { recursive: true });
  },
);

eachDevice("the kinds differ in their scale, and bytes score as images do", async () => {
  const square = images[0]!;
  const [prompt] = pickscore.prompts as [string];
  const path = goldenPath(pickscore.model);
  using scaled = await loadScorer(path, { kind: "pickscore", tokenizer });
  using cosine = await loadScorer(path, { tokenizer });
  const [a] = await scaled.score([prompt], [square]);
  const [b] = await cosine.score([prompt], [square]);
  const { scale } = JSON.parse(await Deno.readTextFile(goldenPath("manifest.json"))).cases
    .find((c: { name: string }) => c.name === "pickscore");
  assert(Math.abs(a! / b! - scale / 100) < 1e-5, `${a} and ${b}`);
  assertEquals(await cosine.score([prompt], square.data, square.width), Float32Array.of(b!));
  // f16 rounds the weights, which are f16 already, but not the logarithm of the scale.
  using half = await loadScorer(path, { kind: "pickscore", tokenizer, dtype: "f16" });
  assertScores(await half.score(pickscore.prompts, images), pickscore.scores.pickscore!);
});

Deno.test("HPSv2's prompts are cleaned, cut and padded as by open_clip's tokenizer", async () => {
  assertEquals(hps.prompts.map((prompt) => cleanPrompt(prompt).trim()), hps.cleaned);
  const { ids } = openClipTokens(await ClipTokenizer.load(tokenizer), hps.prompts);
  assertEquals([...ids], hps.ids.flat());
  assertEquals(cleanPrompt("&#65;&#x42;&amp;amp;&#1114112;&unknown;"), "AB&&#1114112;&unknown;");
});

Deno.test("both layouts of a full-size ViT-H/14 are the parameters of this model", async () => {
  const packed = await Deno.readFile(goldenPath("scorers/vit_h_14.json.gz"));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const listed: Record<"transformers" | "openClip", Record<string, number[]>> = await new Response(
    stream,
  ).json();
  const config = clipConfig(VIT_H_14);
  const parameters = clipParameters(config);
  const fileShape = (shape: readonly number[]) =>
    shape.length === 4 ? [shape[3]!, shape[2]!, shape[0]!, shape[1]!] : [...shape];
  assertEquals(
    Object.fromEntries(parameters.map(({ name, shape }) => [name, fileShape(shape)])),
    listed.transformers,
  );
  const covered: Record<string, number[]> = {};
  for (const { name, shape } of parameters) {
    const { name: source, third, transposed } = openClipSource(name);
    const found = fileShape(shape);
    const rows = third === undefined ? found[0] : (covered[source]?.[0] ?? 0) + found[0]!;
    covered[source] = third !== undefined
      ? [rows!, ...found.slice(1)]
      : transposed
      ? found.reverse()
      : found;
  }
  assertEquals(covered, listed.openClip);
});

Deno.test("what a scorer lacks is said", async () => {
  const folder = await Deno.makeTempDir();
  const checkpoint = `${folder}/HPS.pt`;
  await Deno.copyFile(goldenPath(hps.model), checkpoint);
  const cases = [
    [() => loadScorer("/nowhere"), "no scorer at /nowhere"],
    [() => loadScorer(checkpoint), `no such file: ${folder}/vocab.json: the scorer ${checkpoint}`],
    // Without a configuration beside it, an open_clip checkpoint is ViT-H/14.
    [
      () => loadScorer(checkpoint, { tokenizer }),
      '"token_embedding.weight" has the shape [627, 16]; the configuration gives [49408, 1024]',
    ],
  ] as const;
  for (const [load, words] of cases) await assertRejects(load, Error, words);

  const config = await readJson(goldenPath("scorers/hps/config.json"));
  const vision = config.vision_config as object;
  for (
    const [change, words] of [
      [
        { image_size: 35 },
        '"visual.positional_embedding" has the shape [17, 24]; the configuration',
      ],
      [{ num_hidden_layers: 3 }, 'no tensor "visual.transformer.resblocks.2.ln_1.weight"'],
    ] as const
  ) {
    const changed = { ...config, vision_config: { ...vision, ...change } };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(changed));
    await assertRejects(() => loadScorer(checkpoint, { tokenizer }), Error, words);
  }
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  await Deno.writeTextFile(`${folder}/preprocessor_config.json`, '{ "resample": 1 }');
  await assertRejects(
    () => loadScorer(checkpoint, { tokenizer }),
    Error,
    `${folder}/preprocessor_config.json: "resample" is 1, but only 2 (bilinear) or 3 (bicubic)`,
  );
  await Deno.remove(folder, { recursive: true });

  using scorer = await loadScorer(goldenPath(pickscore.model), { tokenizer });
  await assertRejects(() => scorer.score(["a", "b"], images.slice(0, 1)), Error, "1 images for 2");
  await assertRejects(() => scorer.score(["a"], new Uint8Array(7), 2), Error, "7 bytes are not 1");
  const short: Image = { width: 2, height: 2, data: new Uint8Array(11) };
  await assertRejects(() => scorer.score(["a"], [short]), Error, "image 0 has 11 bytes; 2x2 RGB");
});
