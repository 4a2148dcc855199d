/** Notebooks in a real Jupyter, and the commands that run them, from end to end. */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { resolve } from "node:path";
import {
  CellError,
  codeCells,
  executeNotebook,
  findJupyter,
  installKernel,
  type JupyterServer,
  KernelSession,
  missingOutputs,
  newNotebook,
  type Output,
  readNotebook,
  withServer,
  writeNotebook,
} from "../../lib/jupyter/mod.ts";

const jupyter = await findJupyter("server").catch(() => undefined);

/** Does something in a new folder of the repository, whose import names hold there. */
async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  await Deno.mkdir("data/cache", { recursive: true });
  const folder = await Deno.makeTempDir({ dir: "data/cache" });
  try {
    await work(resolve(folder));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A test that is ignored where there is no Jupyter. */
function testJupyter(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({
    name: `${name} (needs jupyter on PATH)`,
    ignore: jupyter === undefined,
    // Jupyter's HTTP connections are kept for the next request.
    sanitizeResources: false,
    sanitizeOps: false,
    fn,
  });
}

const plain = (outputs: readonly Output[]) =>
  outputs.map((output) => "data" in output ? output.data["text/plain"] : output);

testJupyter("a kernel runs cells", async (t) => {
  await withFolder(async (folder) => {
    await installKernel(folder);
    // A kernel of the same name that the user has is not ours, and would not start.
    const users = `${folder}/users`;
    await Deno.mkdir(`${users}/kernels/deno`, { recursive: true });
    await Deno.writeTextFile(
      `${users}/kernels/deno/kernel.json`,
      JSON.stringify({ argv: ["no-such-program"], display_name: "Deno", language: "typescript" }),
    );
    const env = { JUPYTER_DATA_DIR: users, NCP_PRESET: "smoke" };
    await withServer({ jupyter: jupyter!, kernels: folder, env }, async (server) => {
      const steps: [string, (session: KernelSession) => Promise<void>][] = [
        ["no output is lost, whatever a cell ends in", losesNothing],
        ["updates end in the last state, across cells too", endsInTheLastState],
        ["later cells find modules by name after entering the repository", findsModules],
        ["the preset and the language are known", knowsPresetAndLanguage],
        ["a cell that computes is interrupted, and the kernel lives", isInterrupted],
        ["a cell that takes too long is an error", isTooSlow],
        ["a notebook stops at the cell that fails", stopsAtFailure],
        ["an output that a cell's tag promises is missed", missesOutputs],
        ["a kernel that dies is an error that names the cell", dies],
      ];
      for (const [name, step] of steps) {
        await t.step(name, () => inSession(server, folder, step));
      }
    });
  });
});

async function inSession(
  server: JupyterServer,
  folder: string,
  work: (session: KernelSession) => Promise<void>,
): Promise<void> {
  await using session = await KernelSession.start(server, folder);
  await work(session);
}

async function losesNothing(session: KernelSession): Promise<void> {
  await session.execute('import { show } from "ncp-lab/notebook/show.ts";');
  for (let i = 0; i < 20; i++) {
    const { outputs, succeeded } = await session.execute(
      `await show({ "text/plain": "${i}", "text/html": "x".repeat(${i * 20_000}) });`,
    );
    assert(succeeded);
    assertEquals(plain(outputs), [`${i}`]);
  }
  for (let i = 0; i < 10; i++) {
    const { outputs } = await session.execute(
      `console.log("a"); await new Promise((resolve) => setTimeout(resolve, 5)); ${i}`,
    );
    assertEquals(plain(outputs), [{ output_type: "stream", name: "stdout", text: "a\n" }, `${i}`]);
  }
}

async function endsInTheLastState(session: KernelSession): Promise<void> {
  await session.execute(
    'import { LiveFigure } from "ncp-lab/notebook/live.ts";\n' +
      'import { Progress } from "ncp-lab/notebook/progress.ts";',
  );
  const { outputs } = await session.execute(`
    const progress = new Progress("train");
    for (let i = 0; i <= 100; i++) progress.update(i, 100);
    const y: number[] = [];
    const live = new LiveFigure({ caption: "a curve" });
    for (let i = 0; i < 30; i++) {
      y.push(i);
      await live.update(() => ({ data: [{ type: "scatter", y }], layout: {} }));
    }
    await live.end();`);
  assertEquals(outputs.length, 2);
  assertStringIncludes(plain(outputs)[0] as string, "100/100");
  const figure = outputs[1] as { data: Record<string, { data: { y: number[] }[] }> };
  assertEquals(figure.data["application/vnd.plotly.v1+json"]!.data[0]!.y.length, 30);
  assert("image/svg+xml" in figure.data);
  await session.execute("y.push(30); await live.end();");
  assertEquals(figure.data["application/vnd.plotly.v1+json"]!.data[0]!.y.length, 31);
}

async function findsModules(session: KernelSession): Promise<void> {
  const enter = 'import { enterRepository } from "ncp-lab/notebook/workspace.ts";';
  assert((await session.execute(`${enter}\nenterRepository();`)).succeeded);
  const { outputs } = await session.execute(
    'import { duration } from "ncp-lab/notebook/progress.ts";\n' +
      'console.log(duration(61), Deno.statSync("deno.json").isFile);',
  );
  assertEquals(outputs, [{ output_type: "stream", name: "stdout", text: "1 min 01 s true\n" }]);
}

async function knowsPresetAndLanguage(session: KernelSession): Promise<void> {
  assertEquals(session.languageInfo["name"], "typescript");
  const { outputs, count } = await session.execute(
    'import { notebookPreset } from "ncp-lab/notebook/preset.ts"; console.log(notebookPreset());',
  );
  assertEquals([outputs, count], [
    [{ output_type: "stream", name: "stdout", text: "smoke\n" }],
    1,
  ]);
}

async function isInterrupted(session: KernelSession): Promise<void> {
  await session.execute('import { interruptCheck } from "ncp-lab/notebook/kernel.ts";');
  // Neither gives the event loop a turn: as computing on the CPU doesn't.
  for (const work of ["", "await null;"]) {
    const running = session.execute(
      `{ const check = interruptCheck(); for (;;) { ${work} check(); } }`,
      20,
    );
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await session.interrupt();
    const { succeeded, outputs } = await running;
    assert(!succeeded);
    assertEquals((outputs[0] as { ename: string }).ename, "Interrupted");
  }
  assertEquals(plain((await session.execute("interruptCheck()(); 1 + 1")).outputs), ["2"]);
}

async function isTooSlow(session: KernelSession): Promise<void> {
  const notebook = newNotebook(["1", "await new Promise(() => {});"]);
  await assertRejects(
    () => executeNotebook(session, notebook, { timeout: 1 }),
    CellError,
    "cell 2 (await new Promise(() => {});): it took longer than 1 s",
  );
}

async function stopsAtFailure(session: KernelSession): Promise<void> {
  const notebook = newNotebook(["1", "\n// Why\nthrow new TypeError('bad');", "2"]);
  const told: string[] = [];
  const { message } = await assertRejects(
    () =>
      executeNotebook(session, notebook, {
        onCell: (done, total) => told.push(`${done}/${total}`),
      }),
    CellError,
    "cell 2 (// Why)\nTypeError: bad",
  );
  assert(message.split("TypeError: bad").length === 2, "the error is told once");
  assertEquals(told, ["0/3", "1/3"]);
  assertEquals(codeCells(notebook).map((cell) => cell.execution_count), [1, 2, null]);
}

async function missesOutputs(session: KernelSession): Promise<void> {
  const notebook = newNotebook([
    { source: 'import { showTable } from "ncp-lab/notebook/table.ts";', tags: ["figure"] },
    {
      source: 'await showTable({ columns: [{ heading: "A", name: "a" }], rows: [] });',
      tags: ["table"],
    },
  ]);
  await executeNotebook(session, notebook);
  const missing = missingOutputs(notebook);
  assertEquals(missing.length, 1);
  assertStringIncludes(missing[0]!, "cell 1 (import { showTable }");
}

async function dies(session: KernelSession): Promise<void> {
  await assertRejects(
    () => executeNotebook(session, newNotebook(["Deno.exit(3)"])),
    CellError,
    "cell 1 (Deno.exit(3)): the kernel died",
  );
  await assertRejects(() => session.execute("1"), Error, "the kernel died");
}

async function task(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", "notebooks", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

testJupyter("deno task notebooks runs notebooks and saves their outputs", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/a.ipynb`;
    await writeNotebook(
      path,
      newNotebook([
        'import { show } from "ncp-lab/notebook/show.ts";\n' +
        'import { notebookPreset } from "ncp-lab/notebook/preset.ts";',
        { source: 'await show({ "text/plain": notebookPreset() });', tags: ["text"] },
      ]),
    );
    const before = await Deno.readTextFile(path);
    const first = await task(folder, "--preset", "full");
    assertEquals(first.code, 0, first.stderr + first.stdout);
    assertStringIncludes(first.stdout, "a.ipynb: 2 cells, ");
    assertEquals(await Deno.readTextFile(path), before);
    const second = await task(path, "--preset", "full", "--save");
    assertEquals(second.code, 0, second.stderr + second.stdout);
    const saved = await readNotebook(path);
    assertEquals(plain(codeCells(saved)[1]!.outputs), ["full"]);
    assertEquals((saved.metadata["language_info"] as { name: string }).name, "typescript");
  });
});

testJupyter("deno task notebooks tells of every notebook that fails", async () => {
  await withFolder(async (folder) => {
    const write = (name: string, cells: Parameters<typeof newNotebook>[0]) =>
      writeNotebook(`${folder}/${name}.ipynb`, newNotebook(cells));
    await write("a", ["1", "throw new Error('bad');"]);
    await write("b", [{ source: "console.log(1);", tags: ["figure"] }]);
    await write("c", ["console.log(1);"]);
    const failed = await task(folder, "--save");
    assertEquals(failed.code, 1, failed.stderr);
    for (
      const words of [
        "a.ipynb: failed after",
        "  cell 2 (throw new Error('bad');)\n  Error: bad",
        'cell 1 (console.log(1);) has the tag "figure" but shows no figure',
        "c.ipynb: 1 cells, ",
        "2 of 3 notebooks failed",
      ]
    ) assertStringIncludes(failed.stdout, words);
    assertEquals(codeCells(await readNotebook(`${folder}/b.ipynb`))[0]!.outputs, []);
    await write("d", ["const x: string = 1;"]);
    const wrong = await task(folder);
    assertEquals(wrong.code, 1);
    assertStringIncludes(wrong.stdout, "d.ipynb, cell 1, line 1: TS2322");
  });
});

Deno.test({
  name: "an interrupted command leaves no kernel and no file behind (needs jupyter on PATH)",
  // Windows has no signal to send.
  ignore: jupyter === undefined || Deno.build.os === "windows",
  async fn() {
    await withFolder(async (folder) => {
      const path = `${folder}/a.ipynb`, heart = `${folder}/heart`;
      const cell = 'let beats = 0;\nsetInterval(() => Deno.writeTextFileSync("heart", ' +
        "String(++beats)), 20);\nawait new Promise(() => {});";
      await writeNotebook(path, newNotebook([cell]));
      const process = new Deno.Command("deno", {
        args: ["task", "--quiet", "notebooks", path],
        stdout: "piped",
        stderr: "piped",
      }).spawn();
      const ended = process.output();
      await Promise.race([content(heart), ended]);
      process.kill("SIGINT");
      const { code, stderr } = await ended;
      assertEquals(code, 130, new TextDecoder().decode(stderr));
      const beats = await content(heart);
      await new Promise((resolve) => setTimeout(resolve, 300));
      assertEquals(await content(heart), beats, "the kernel is still there");
      assertEquals([...Deno.readDirSync(folder)].length, 2);
    });
  },
});

/** Waits for a file and reads it. */
async function content(path: string): Promise<string> {
  for (let i = 0; i < 600; i++) {
    const text = await Deno.readTextFile(path).catch(() => "");
    if (text !== "") return text;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${path} was not written`);
}

Deno.test("a Jupyter that isn't there is explained", async () => {
  const { message } = await assertRejects(() => findJupyter("lab", "no-such-jupyter"), Error);
  assertStringIncludes(message, '"no-such-jupyter lab --version" does not run');
  assertStringIncludes(message, "pip install jupyterlab plotly");
  assertStringIncludes(message, "--jupyter PATH");
});
