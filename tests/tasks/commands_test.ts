/** Every command, as a person starts it: help, and an explained mistake. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";

async function task(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

const commands = ["reproduce", "train", "generate", "score", "pretrain", "check"];

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
