/**
 * `deno task check`: formatting, lint, types and the examples in the documentation, as one command.
 * Notebooks are left out of formatting, which calls them unformatted where it has nothing to change
 * (Deno 2.9.6); their types are a step of its own.
 *
 * @module
 */
import { checkTypes } from "../jupyter/type_check.ts";
import { findNotebooks, notebookFolder } from "./notebooks.ts";
import { flag } from "./options.ts";
import { runCommand } from "./run_command.ts";

const command = {
  name: "check",
  summary: "Check formatting, lint, types and the examples in the documentation.",
  options: { fix: flag({ description: "format the files instead of only checking them" }) },
  examples: ["deno task check", "deno task check --fix"],
};

/** Folders whose `mod.ts` shows examples, and the commands' own modules. */
async function documentedModules(): Promise<string[]> {
  const files: string[] = [];
  for await (const folder of Deno.readDir("lib")) {
    if (!folder.isDirectory) continue;
    for await (const file of Deno.readDir(`lib/${folder.name}`)) {
      if (!file.isFile || !file.name.endsWith(".ts")) continue;
      const path = `lib/${folder.name}/${file.name}`;
      if (/^\s*\* ```ts$/m.test(await Deno.readTextFile(path))) files.push(path);
    }
  }
  return files.sort();
}

/** Checks the types of the notebooks' cells; true when there is no fault. */
async function checkNotebooks(): Promise<boolean> {
  const names = [...Deno.readDirSync(".")].map(({ name }) => name);
  const notebooks = names.includes(notebookFolder) ? await findNotebooks([notebookFolder]) : [];
  const faults = await checkTypes(notebooks);
  console.log(faults.length ? faults.join("\n\n") : `Checked ${notebooks.length} notebooks`);
  return faults.length === 0;
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const steps: [string, string[]][] = [
      ["format", ["fmt", ...(options.fix ? [] : ["--check"])]],
      ["lint", ["lint"]],
      ["types", ["check", "lib", "tests"]],
      ["examples", [
        "test",
        "--doc",
        "--allow-read",
        "--allow-env",
        "--allow-ffi",
        ...await documentedModules(),
      ]],
    ];
    const failed: string[] = [];
    for (const [name, args] of steps) {
      console.log(`== ${name}: deno ${args.slice(0, 2).join(" ")}`);
      const { success } = await new Deno.Command("deno", { args }).spawn().status;
      if (!success) failed.push(name);
    }
    console.log("== notebooks: deno check");
    if (!await checkNotebooks()) failed.push("notebooks");
    console.log(failed.length ? `failed: ${failed.join(", ")}` : "all checks passed");
    return failed.length ? 1 : 0;
  });
}
