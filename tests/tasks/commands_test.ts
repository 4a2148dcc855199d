/** Every command, as a person starts it: help, and an explained mistake. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { tableFromIPC, tableToIPC } from "apache-arrow";
import * as parquet from "parquet-wasm";
import { tableFromRows } from "../../lib/data/schema.ts";
import {
  type GoldenCheckpoint,
  goldenJson,
  writeCheckpoint,
} from "../diffusion/checkpoint_files.ts";
import { goldenCases, goldenPath } from "../diffusion/golden.ts";
import { makeTinyLineage } from "../experiments/tiny_lineage.ts";

/** Paths that hide the machine's drivers from a process. */
const noDrivers = { VK_DRIVER_FILES: "/dev/null", LIBGL_DRIVERS_PATH: "/dev/null" };

async function task(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", ...args],
    env: { NO_COLOR: "1", ...(args.includes("webgpu") ? noDrivers : {}) },
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

const commands = [
  ...["reproduce", "train", "generate", "score", "annotate", "pretrain", "notebook", "notebooks"],
  ...["inspect", "curate", "scale", "check"],
];

for (const command of commands) {
  Deno.test(`deno task ${command} explains itself and a wrong option`, async () => {
    const [help, wrong] = await Promise.all([
      task(command, "--help"),
      task(command, ...(command === "reproduce" ? ["table1"] : []), "--devise", "cpu"),
    ]);
    assertEquals([help.code, help.stderr], [0, ""]);
    assertStringIncludes(help.stdout, `Usage: deno task ${command}`);
    assertEquals(wrong.code, 2);
    assertStringIncludes(wrong.stderr, "unknown option --devise");
    assertStringIncludes(wrong.stderr, `deno task ${command} --help`);
    assert(!wrong.stderr.includes("    at "), wrong.stderr);
  });
}

Deno.test("a wrong value, a missing file and a missing model are explained", async () => {
  const [value, file, model] = await Promise.all([
    task("reproduce", "table1", "--preset", "quik"),
    task("generate", "--prompts", "no-such-file.txt"),
    task("generate", "--prompt", "a cat", "--base", "no-such-folder", "--device", "cpu"),
  ]);
  assertEquals([value.code, file.code, model.code], [2, 2, 1]);
  assertStringIncludes(value.stderr, "did you mean quick?");
  assertStringIncludes(file.stderr, "no-such-file.txt");
  assertStringIncludes(model.stderr, "no-such-folder");
  for (const { stderr } of [value, file, model]) assert(!stderr.includes("    at "), stderr);
});

const prompts = [
  "a small red circle on a dark background",
  "a large blue square on a teal background",
];

Deno.test("train, generate and score do their work under the tasks' permissions", async () => {
  const { folder, base, data, pickscore } = await makeTinyLineage();
  const run = `${folder}/run`, images = `${folder}/images`;
  const training = ["--base", base, "--data", data, "--method", "dpo", "--batch", "2"];
  const size = ["--rank", "2", "--steps", "2", "--output", run, "--device", "cpu"];
  const trained = await task("train", ...training, ...size);
  assertEquals(trained.code, 0, trained.stderr);
  const lora = `${run}/pytorch_lora_weights.safetensors`;
  assertStringIncludes(trained.stdout, lora);
  // Said again, the command finds that nothing is left to do.
  assertEquals((await task("train", ...training, ...size)).code, 0);
  const other = await task("train", ...training, ...size, "--seed", "1");
  assertEquals(other.code, 1);
  assertStringIncludes(other.stderr, "seed was 0 and is now 1");

  const drawn = await task(
    ...["generate", "--base", base, "--lora", lora, "--output", images],
    ...["--scheduler", "pndm", "--steps", "2"],
    ...prompts.flatMap((prompt) => ["--prompt", prompt]),
    ...["--device", "cpu"],
  );
  assertEquals(drawn.code, 0, drawn.stderr);
  assertStringIncludes(drawn.stderr, "3/3", "PNDM takes a step twice");
  assertEquals(names(images), ["0001.png", "0002.png", "grid.png", "prompts.txt"]);
  const long = await task(
    ...["generate", "--base", base, "--prompt", prompts.join(" "), "--steps", "1"],
    ...["--output", `${folder}/long`, "--device", "cpu"],
  );
  assertEquals(long.code, 0, long.stderr);
  assertStringIncludes(long.stderr, "1 prompt has more than 16 tokens and loses the end");

  const scored = await task("score", "--model", pickscore, "--images", images, "--device", "cpu");
  assertEquals(scored.code, 0, scored.stderr);
  const [header, ...rows] = scored.stdout.trim().split(/\r?\n/);
  assertEquals(header, "image,prompt,score");
  assertEquals(rows.map((row) => row.split(",").slice(0, 2)), [
    ["0001.png", prompts[0]],
    ["0002.png", prompts[1]],
  ]);
  assert(rows.every((row) => Number.isFinite(Number(row.split(",")[2]))));
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a recipe trains from a cache, draws on the way, and goes on where it was", async () => {
  const { folder, baseXl, data } = await makeTinyLineage();
  const run = `${folder}/run`;
  const train = (...more: string[]) =>
    task(
      ...["train", "--recipe", "sdxl-ncp-dpo", "--base", baseXl, "--data", data, "--limit", "4"],
      ...[
        "--resolution",
        "32",
        "--batch",
        "2",
        "--accumulate",
        "2",
        "--rank",
        "2",
        "--warmup",
        "1",
      ],
      ...["--samples", "1", "--sample-every", "1", "--lora-format", "kohya", "--device", "cpu"],
      ...["--output", run, ...more],
    );
  const first = await train("--steps", "1");
  assertEquals(first.code, 0, first.stderr);
  assertStringIncludes(first.stderr, "for a step =");
  assertStringIncludes(first.stdout, `in the layout of kohya: ${run}/kohya/lora.safetensors`);
  const second = await train("--steps", "2");
  assertEquals(second.code, 0, second.stderr);
  assertEquals(names(run), [
    ...["cache", "checkpoint.safetensors", "kohya", "metrics.jsonl"],
    ...["pytorch_lora_weights.safetensors", "report.html", "samples"],
  ]);
  assertEquals(names(`${run}/samples`), ["0000000", "0000001", "0000002"]);
  const lines = (await Deno.readTextFile(`${run}/metrics.jsonl`)).trim().split("\n");
  assertEquals(lines.map((line) => JSON.parse(line).step), [1, 2]);
  const page = await Deno.readTextFile(`${run}/report.html`);
  for (const words of ["2 x 2 = 4", "fit: stretch, mirrored: shared", "After step 2"]) {
    assertStringIncludes(page, words);
  }
  const other = await train("--steps", "3", "--flip", "none");
  assertEquals(other.code, 1);
  assertStringIncludes(other.stderr, 'flip was "shared" and is now "none"');
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a base model may be a single file, with its vocabulary beside it", async () => {
  const folder = await Deno.makeTempDir();
  const base = `${folder}/model.safetensors`, images = `${folder}/images`;
  const { file } = goldenJson<GoldenCheckpoint>("checkpoint/sd15-small.json.gz");
  await writeCheckpoint(base, file);
  const line = ["generate", "--base", base, "--prompt", "a photo of a cat", "--steps", "1"];
  const run = () => task(...line, "--guidance", "1", "--output", images, "--device", "cpu");
  const without = await run();
  assertEquals(without.code, 1, without.stderr);
  assertStringIncludes(without.stderr, `in the folder ${folder}/tokenizer`);

  await Deno.symlink(goldenPath("clip/tokenizer"), `${folder}/tokenizer`);
  const drawn = await run();
  assertEquals(drawn.code, 0, drawn.stderr);
  assertEquals(names(images), ["0001.png", "grid.png", "prompts.txt"]);
  const { code, stdout } = await task("inspect", base, "--device", "cpu");
  assertEquals(code, 0);
  assertStringIncludes(stdout, "Stable Diffusion 1.5's architecture, as a single file");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("score gives what the scorers' own libraries give, and passes over a broken image", async () => {
  const { prompts, scores } = goldenCases("scorer").find(({ name }) =>
    name === "hps"
  ) as unknown as {
    prompts: string[];
    scores: Record<"plain" | "antialiased", number[]>;
  };
  const folder = await Deno.makeTempDir();
  const { length } = prompts;
  for (let i = 0; i < length; i++) {
    await Deno.copyFile(goldenPath(`scorers/images/${i}.png`), `${folder}/${i}.png`);
  }
  await Deno.writeTextFile(`${folder}/${length}.jpg`, "no image");
  // A file of prompts cannot say one without words: its score is not compared.
  const spoken = prompts.map((prompt) => prompt || "-");
  await Deno.writeTextFile(`${folder}/prompts.txt`, [...spoken, "broken"].join("\n"));
  const hps = ["--model", goldenPath("scorers/hps/hps.pt"), "--scorer", "hpsv2.1"];
  const rest = ["--tokenizer", goldenPath("clip/tokenizer"), "--images", folder, "--device", "cpu"];
  const [csv, file, form] = await Promise.all([
    task("score", ...hps, ...rest),
    task("score", ...hps, ...rest, "--antialias", "--output", `${folder}/scores.parquet`),
    task("score", "--scorer", "hpsv2", ...rest),
  ]);
  assertEquals([csv.code, file.code, form.code], [1, 1, 2]);
  assertStringIncludes(form.stderr, "--scorer hpsv2 needs --model");
  for (const { stderr } of [csv, file]) {
    assertStringIncludes(stderr, `1 of ${length + 1} images have no score`);
    assertStringIncludes(stderr, `${folder}/${length}.jpg: 8 bytes are not a readable image`);
  }
  const found = csv.stdout.trim().split(/\r?\n/).slice(1).map((row) => row.split(",").at(-1)!);
  const table = tableFromIPC(
    parquet.readParquet(await Deno.readFile(`${folder}/scores.parquet`)).intoIPCStream(),
  );
  assertEquals(table.schema.fields.map(({ name }) => name), ["image", "prompt", "score"]);
  assertEquals(table.get(1)!.toJSON().prompt, prompts[1]);
  prompts.forEach((prompt, i) => {
    if (prompt === "") return;
    assertAlmostEquals(Number(found[i]), scores.plain[i]!, 1e-3);
    assertAlmostEquals(table.get(i)!.toJSON().score, scores.antialiased[i]!, 1e-3);
  });
  assertEquals([found[length], table.get(length)!.toJSON().score], ["", null]);
  const metadata = parquet.ParquetFile.fromFile(
    new Blob([await Deno.readFile(`${folder}/scores.parquet`)]),
  );
  const kept = (await metadata).metadata().fileMetadata().keyValueMetadata();
  assertEquals([kept.get("scorer"), kept.get("model")], ["hpsv2.1", hps[1]]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("damaged and unsuitable files are explained, and nothing is left behind", async () => {
  const { folder, base, data } = await makeTinyLineage(1);
  const unet = `${base}/unet/diffusion_pytorch_model.safetensors`;
  const whole = await Deno.readFile(unet);
  const output = ["--output", `${folder}/output`, "--device", "cpu"];
  const train = (file: string) => task("train", "--base", base, "--data", file, ...output);
  const generate = (prompt: string) =>
    task("generate", "--base", base, "--prompt", prompt, "--steps", "1", ...output);

  const table = tableFromRows([]).select(["caption", "image_0_uid"]);
  const narrow = `${folder}/narrow.parquet`;
  await Deno.writeFile(
    narrow,
    parquet.writeParquet(parquet.Table.fromIPCStream(tableToIPC(table, "stream"))),
  );
  await Deno.writeFile(`${folder}/cut.parquet`, (await Deno.readFile(data)).subarray(0, 999));
  const before = names(folder);
  const column = await train(narrow);
  const cut = await train(`${folder}/cut.parquet`);
  await Deno.writeFile(unet, whole.subarray(0, whole.length - 100));
  const truncated = await generate(prompts[0]!);
  await Deno.remove(unet);
  const missing = await generate(prompts[0]!);

  const expected = [
    [column, 'narrow.parquet has no column "image_1_uid"'],
    [cut, "cut.parquet is not a whole Parquet file"],
    [truncated, "diffusion_pytorch_model.safetensors is truncated"],
    [missing, `no weights in the folder ${base}/unet`],
  ] as const;
  for (const [{ code, stderr }, words] of expected) {
    assertEquals(code, 1, stderr);
    assertStringIncludes(stderr, words);
    assert(!stderr.includes("    at "), stderr);
  }
  assertEquals(names(folder), before);
  await Deno.remove(folder, { recursive: true });
});

Deno.test({
  name: "--device webgpu without an adapter says so",
  // Elsewhere a driver cannot be hidden from a process.
  ignore: Deno.build.os !== "linux",
  async fn() {
    const { code, stderr } = await task("generate", "--prompt", prompts[0]!, "--device", "webgpu");
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, "--device webgpu: WebGPU found no adapter");
  },
});

function names(folder: string): string[] {
  return [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();
}
