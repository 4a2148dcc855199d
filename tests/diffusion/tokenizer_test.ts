import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { ClipTokenizer } from "../../lib/diffusion/tokenizer.ts";
import { goldenCases, goldenPath } from "./golden.ts";

const { model, golden } = goldenCases("tokenizer")[0]!;
const tokenizer = await ClipTokenizer.load(goldenPath(model));

interface Row {
  readonly prompt: string;
  readonly ids: number[];
  readonly unpadded: number[];
}

Deno.test("tokenizer: ids agree with transformers", () => {
  const rows: Row[] = JSON.parse(Deno.readTextFileSync(goldenPath(golden))).rows;
  for (const { prompt, ids } of rows) {
    assertEquals([...tokenizer.encode(prompt, "truncate")], ids, prompt);
  }
  const batch = tokenizer.encodeBatch(rows.map((r) => r.prompt), "truncate");
  assertEquals([batch.count, batch.length], [rows.length, 24]);
  assertEquals([...batch.ids], rows.flatMap((r) => r.ids));
});

Deno.test("tokenizer: a prompt that is too long says so", () => {
  const rows: Row[] = JSON.parse(Deno.readTextFileSync(goldenPath(golden))).rows;
  const long = rows.find((row) => row.unpadded.length > 24)!;
  assertThrows(
    () => tokenizer.encode(long.prompt),
    RangeError,
    `the prompt has ${long.unpadded.length} tokens, start and end included; at most 24 fit`,
  );
});

Deno.test("tokenizer: a symbol outside a small vocabulary is named", () => {
  const small = new ClipTokenizer({
    vocab: { "a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3 },
    merges: "#version: 0.2\n",
    config: { model_max_length: 6 },
  }, "small");
  assertEquals([...small.encode("aa a")], [2, 0, 1, 1, 3, 3]);
  assertThrows(() => small.encode("a b"), Error, 'no token for "b</w>" in the word "b"');
});

Deno.test("tokenizer: a missing file is named", async () => {
  await assertRejects(
    () => ClipTokenizer.load("/nowhere"),
    Deno.errors.NotFound,
    "no such file: /nowhere/",
  );
});
