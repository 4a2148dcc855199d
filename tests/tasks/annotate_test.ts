/** `deno task annotate` as a person starts it: serve, vote, stop, sum up. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { Turn } from "../../lib/annotation/server.ts";
import { makeTinyStudy } from "../annotation/tiny_study.ts";

function annotate(...args: string[]) {
  return new Deno.Command("deno", {
    args: ["task", "--quiet", "annotate", ...args],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  });
}

async function run(...args: string[]) {
  const { code, stdout, stderr } = await annotate(...args).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

/** Starts the server, hands its address to `body`, and ends it as Ctrl-C does. */
async function serving(args: string[], body: (origin: string) => Promise<void>) {
  const child = annotate(...args).spawn();
  const errors = new Response(child.stderr).text();
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let printed = "";
  while (!printed.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`the server ended: ${await errors}`);
    printed += value;
  }
  const origin = printed.match(/http:\/\/127\.0\.0\.1:\d+/)?.[0];
  assert(origin !== undefined, printed);
  await body(origin);
  child.kill("SIGINT");
  await reader.cancel();
  return { ...await child.status, stderr: await errors };
}

Deno.test({
  name: "people vote, the server ends on Ctrl-C, and the votes are summed up and exported",
  // Elsewhere a process cannot be sent an interrupt.
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = await makeTinyStudy();
    const votes = `${folder}/new/votes.sqlite`;
    const files = ["--study", folder, "--votes", votes];
    for (const annotator of ["anna", "ben"]) {
      const { code, stderr } = await serving([...files, "--port", "0"], async (origin) => {
        let turn: Turn = await (await fetch(`${origin}/api/next?annotator=${annotator}`)).json();
        while (turn.ask) {
          const response = await fetch(`${origin}/api/vote`, {
            method: "POST",
            headers: { "content-type": "application/json" },
            body: JSON.stringify({
              study: turn.study,
              annotator,
              at: turn.ask.at,
              side: "left",
              milliseconds: 900,
            }),
          });
          turn = await response.json();
        }
      });
      assertEquals(code, 0, stderr);
      assertStringIncludes(stderr, annotator === "anna" ? "no votes yet" : "answered: anna 12");
      assertStringIncludes(stderr, `${annotator} 12`);
    }

    const csv = `${folder}/votes.csv`;
    const { code, stdout, stderr } = await run(...files, "--report", "--export", csv);
    assertEquals(code, 0, stderr);
    const rows = stdout.trim().split("\n");
    assertEquals(rows.length, 2 + 9);
    assertStringIncludes(rows[2]!, "| hidden-comparison | all | general | 4 | 8 | 2 |");
    assertStringIncludes(stderr, "anna 12, ben 12");
    const [header, ...lines] = (await Deno.readTextFile(csv)).trim().split("\r\n");
    assertEquals(lines.length, 24);
    assert(
      header!.startsWith("annotator,item,comparison,kind,prompt,question,choice,chosen_model"),
    );
    const fields = lines.find((line) => line.includes("hidden-item-0"))!.split(",");
    assertEquals(fields[7], fields[6] === "a" ? "hidden-first" : "hidden-second");
    await Deno.remove(folder, { recursive: true });
  },
});

Deno.test("what is missing is explained", async () => {
  const folder = await makeTinyStudy();
  const votes = `${folder}/votes.sqlite`;
  await Deno.writeTextFile(`${folder}/words.sqlite`, "no database, but words ".repeat(60));
  const [study, file, host, none] = await Promise.all([
    run("--study", "no-such-folder"),
    run("--study", folder, "--votes", `${folder}/words.sqlite`),
    run("--host", "example.org"),
    run("--study", folder, "--votes", votes, "--report"),
  ]);
  assertEquals([study.code, file.code, host.code, none.code], [1, 1, 2, 2]);
  assertStringIncludes(
    study.stderr,
    "no-such-folder/study.json does not exist: make the study with",
  );
  assertStringIncludes(file.stderr, "words.sqlite is not a SQLite database");
  assertStringIncludes(host.stderr, "must be one of 127.0.0.1, 0.0.0.0");
  assertStringIncludes(none.stderr, 'let people vote with "deno task annotate" first');
  for (const { stderr } of [study, file, host, none]) assert(!stderr.includes("    at "), stderr);
  // Asking for votes makes no file.
  assert(![...Deno.readDirSync(folder)].some(({ name }) => name === "votes.sqlite"));
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a port that is taken is explained", async () => {
  const folder = await makeTinyStudy();
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = String(taken.addr.port);
  const { code, stderr } = await run(
    ...["--study", folder, "--votes", `${folder}/votes.sqlite`, "--port", port],
  );
  taken.close();
  assertEquals(code, 1);
  assertStringIncludes(stderr, `port ${port} of 127.0.0.1 is taken by another program`);
  await Deno.remove(folder, { recursive: true });
});
