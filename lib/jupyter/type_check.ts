/**
 * The types of a notebook's cells, which the kernel itself does not check: all code cells together
 * are one module, and what the compiler says of it is said of the cells.
 *
 * @module
 */
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { withCleanup } from "./cleanup.ts";
import { codeCells, type Notebook, readNotebook } from "./notebook.ts";

/** A line of a module, where it came from. */
interface Origin {
  /** Number among the code cells, from 1. */
  readonly cell: number;
  /** Line in the cell, from 1. */
  readonly line: number;
  readonly text: string;
}

/** The module of one notebook while it is checked. */
interface Module {
  readonly notebook: string;
  readonly file: string;
  readonly origins: readonly Origin[];
}

/** What the compiler says of a name that is declared twice: variables, functions, imports and types. */
const redeclared = /^TS(2300|2393|2451|2440)\b/;

/**
 * Checks the cells of notebooks.
 *
 * @param paths The notebooks' files. While they are checked, a file stands beside each.
 * @returns A text for each fault that names the notebook, the cell and the line; empty when there is
 * none.
 * @throws {Error} if a file can't be read as a notebook.
 */
export async function checkTypes(paths: readonly string[]): Promise<string[]> {
  const modules = await Promise.all(paths.map(async (notebook): Promise<Module> => ({
    notebook,
    // Beside the notebook, since imports are relative to it.
    file: `${dirname(notebook)}/.${basename(notebook, ".ipynb")}.${crypto.randomUUID()}.ts`,
    origins: joinCells(await readNotebook(notebook)),
  })));
  if (modules.length === 0) return [];
  return await withCleanup(async () => {
    for (const { file, origins } of modules) {
      await Deno.writeTextFile(file, origins.map(({ text }) => `${text}\n`).join(""));
    }
    const { success, stderr } = await new Deno.Command("deno", {
      args: ["check", "--quiet", ...modules.map(({ file }) => file)],
      env: { NO_COLOR: "1" },
    }).output();
    return success ? [] : faults(new TextDecoder().decode(stderr), modules);
  }, async () => {
    for (const { file } of modules) await Deno.remove(file).catch(() => {});
  });
}

/** The lines of all code cells; a semicolon keeps the end of one and the start of the next apart. */
function joinCells(notebook: Notebook): Origin[] {
  return codeCells(notebook).flatMap(({ source }, i) =>
    [...source.split("\n"), ";"].map((text, j) => ({ cell: i + 1, line: j + 1, text }))
  );
}

/** Turns what the compiler says of the modules into what is to be said of the notebooks. */
function faults(report: string, modules: readonly Module[]): string[] {
  const found: string[] = [];
  /** What is said of a name that is declared twice, by notebook and name. */
  const declarations = new Map<string, { cell: number; fault: string }[]>();
  const blocks = report.replace(/\n*Stack backtrace:[\s\S]*$/, "").split(/\n\n+/);
  for (const block of blocks) {
    if (/^(Found \d+ errors\.|error: Type checking failed\.)$/.test(block.trim())) continue;
    const at = place(block, modules);
    if (!at) {
      found.push(block.trim());
      continue;
    }
    const { notebook, origin: { cell, line, text }, column, message } = at;
    const fault = `${notebook}, cell ${cell}, line ${line}: ${message}`;
    if (redeclared.test(block)) {
      const key = `${notebook}: ${/[\w$]+/.exec(text.slice(column - 1))?.[0]}`;
      declarations.set(key, [...declarations.get(key) ?? [], { cell, fault }]);
    } else found.push(fault);
  }
  for (const [key, places] of declarations) {
    const cells = [...new Set(places.map(({ cell }) => cell))];
    if (cells.length === 1) found.push(...places.map(({ fault }) => fault));
    else {
      found.push(
        `${key} is declared in the cells ${cells.join(" and ")}: declare it in one of them only, ` +
          `or choose another name`,
      );
    }
  }
  return found;
}

/** Where a block of the report points to, and the block without its last line, which says so. */
function place(block: string, modules: readonly Module[]) {
  const where = /\n\s+at (file:\/\/\S+):(\d+):(\d+)\s*$/.exec(block);
  const module = modules.find(({ file }) => where?.[1] === pathToFileURL(file).href);
  const origin = module?.origins[Number(where?.[2]) - 1];
  if (!where || !module || !origin) return undefined;
  const message = block.slice(0, where.index).replace(/^error: /, "").replace(" [ERROR]", "")
    // Numbers of the module's lines, which nobody can look up.
    .replace(/^ *\d* \| ?/gm, "");
  return { notebook: module.notebook, origin, column: Number(where[3]), message };
}
