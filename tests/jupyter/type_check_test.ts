/** The types of cells: faults are found, and told of the right cell and line. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { newNotebook, writeNotebook } from "../../lib/jupyter/notebook.ts";
import { checkTypes } from "../../lib/jupyter/type_check.ts";

/** Checks notebooks given by their cells; in the repository, whose compiler options hold then. */
async function check(...notebooks: readonly (readonly string[])[]): Promise<string[]> {
  await Deno.mkdir("data/cache", { recursive: true });
  const folder = await Deno.makeTempDir({ dir: "data/cache" });
  try {
    const paths = notebooks.map((_, i) => `${folder}/${i + 1}.ipynb`);
    await Promise.all(notebooks.map((cells, i) => writeNotebook(paths[i]!, newNotebook(cells))));
    const faults = await checkTypes(paths);
    assertEquals([...Deno.readDirSync(folder)].length, notebooks.length, "a file was left behind");
    return faults.map((fault) => fault.replaceAll(`${folder}/`, ""));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("sound cells pass: awaits, imports by name, words of an earlier cell", async () => {
  const faults = await check([
    'import { duration } from "ncp-lab/notebook/progress.ts";\nconst one = await Promise.resolve(1)',
    "(console.log)(duration(one))",
    "",
  ], ["const one = 1;"]);
  assertEquals(faults, []);
});

Deno.test("a wrong type is told of its notebook, cell and line", async () => {
  const faults = await check(["const a = 1;"], [
    "const a = 1;",
    "// The kernel would run this.\nconst b: string = a;\nconst c: number = [1][0];",
  ]);
  assertEquals(faults.length, 2);
  assertStringIncludes(
    faults[0]!,
    "2.ipynb, cell 2, line 2: TS2322: Type 'number' is not assignable",
  );
  assertStringIncludes(faults[0]!, "const b: string = a;\n      ^");
  assertStringIncludes(faults[1]!, "2.ipynb, cell 2, line 3: TS2322");
});

Deno.test("a name that two cells declare is one fault that names both", async () => {
  const faults = await check([
    "const a = 1;\nfunction f() {}",
    'import { join } from "node:path";',
    'const a = 2;\nfunction f() {}\nimport { join } from "node:path";',
    "let b = 1;\nlet b = 2;",
  ]);
  const [first, second, ...others] = faults.sort();
  assertStringIncludes(first!, "1.ipynb, cell 4, line 1: TS2451");
  assertStringIncludes(second!, "1.ipynb, cell 4, line 2: TS2451");
  assertEquals(others.map((words) => words.split(":").slice(0, 2).join(":")), [
    "1.ipynb: a is declared in the cells 1 and 3",
    "1.ipynb: f is declared in the cells 1 and 3",
    "1.ipynb: join is declared in the cells 2 and 3",
  ]);
});

Deno.test("what is no TypeScript, and a module that isn't there, are told of their cells", async () => {
  const [fault, ...others] = await check(["const a = 1;", "\nconst b = ;"]);
  assertStringIncludes(fault!, "1.ipynb, cell 2, line 2: SyntaxError");
  assert(others.length === 0);
  const [missing] = await check(["const a = 1;", 'import { x } from "./none.ts";']);
  assertStringIncludes(missing!, "1.ipynb, cell 2, line 1: TS2307");
});
