/**
 * `deno task notebooks`: checks the types of the notebooks' cells, runs the notebooks in a real
 * Jupyter, and sees that they show what they should.
 *
 * @module
 */
import { dirname, resolve } from "node:path";
import { presetNames } from "../experiments/presets.ts";
import {
  checkTypes,
  codeCells,
  executeNotebook,
  findJupyter,
  installKernel,
  type JupyterServer,
  KernelSession,
  missingOutputs,
  readNotebook,
  withServer,
  writeNotebook,
} from "../jupyter/mod.ts";
import { presetVariable } from "../notebook/preset.ts";
import { choice, flag, number, text } from "./options.ts";
import { duration, Progress } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

/** Where the notebooks are. */
export const notebookFolder = "notebooks";

/** Where the kernel's specification goes; not part of the repository. */
export const kernelFolder = "data/cache/jupyter";

const command = {
  name: "notebooks",
  summary: "Check the types of the notebooks' cells and run the notebooks in Jupyter.",
  positionals: [{
    name: "path",
    description: "a notebook, or a folder of them",
    default: notebookFolder,
    repeated: true,
  }],
  options: {
    preset: choice(presetNames, {
      description: `how much they compute, said by ${presetVariable}; by default what each does`,
    }),
    save: flag({ description: "write the outputs into the notebooks' files" }),
    timeout: number({
      description: "longest time of a cell, in seconds",
      default: 3600,
      min: 1,
      max: 1e6,
    }),
    jupyter: text({ description: "the jupyter executable", placeholder: "PATH" }),
  },
  examples: [
    "deno task notebooks --preset smoke",
    "deno task notebooks notebooks/example.ipynb --save",
  ],
};

/**
 * The notebooks that paths stand for.
 *
 * @param paths Notebooks and folders of them.
 * @returns The notebooks' files, those of a folder in the order of their names.
 * @throws {UserError} if a path doesn't exist.
 */
export async function findNotebooks(paths: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) {
    try {
      if ((await Deno.stat(path)).isFile) found.push(path);
      else {
        const names = [...Deno.readDirSync(path)].map(({ name }) => name);
        found.push(
          ...names.filter((name) => name.endsWith(".ipynb")).sort().map((name) =>
            `${path}/${name}`
          ),
        );
      }
    } catch (cause) {
      throw new UserError(`${path}: ${(cause as Error).message}`, { cause });
    }
  }
  return found;
}

/** How the notebooks are run. */
interface RunOptions {
  readonly timeout: number;
  readonly save: boolean;
}

/** Runs one notebook and says how it went; returns whether it went well. */
async function run(server: JupyterServer, path: string, options: RunOptions): Promise<boolean> {
  const { timeout, save } = options;
  const notebook = await readNotebook(path);
  const start = performance.now();
  const progress = new Progress(path, { unit: "cells" });
  const faults: string[] = [];
  try {
    await using session = await KernelSession.start(server, dirname(resolve(path)));
    await executeNotebook(session, notebook, {
      timeout,
      onCell: (done, total) => progress.update(done, total),
    });
    faults.push(...missingOutputs(notebook));
  } catch (error) {
    faults.push((error as Error).message);
    // The line of an unfinished progress is still open.
    if (Deno.stderr.isTerminal()) console.error();
  }
  const took = duration((performance.now() - start) / 1000);
  if (faults.length > 0) {
    console.log([`${path}: failed after ${took}`, ...faults].join("\n").replaceAll("\n", "\n  "));
    return false;
  }
  if (save) await writeNotebook(path, notebook);
  console.log(`${path}: ${codeCells(notebook).length} cells, ${took}${save ? ", saved" : ""}`);
  return true;
}

if (import.meta.main) {
  await runCommand(command, async ({ options, positionals }) => {
    const paths = await findNotebooks(positionals);
    if (paths.length === 0) throw new UserError(`no notebook in ${positionals.join(", ")}`);
    const jupyter = await findJupyter("server", options.jupyter);
    const faults = await checkTypes(paths);
    if (faults.length > 0) {
      console.log(faults.join("\n\n"));
      return 1;
    }
    const kernels = resolve(kernelFolder);
    await installKernel(kernels);
    const env: Record<string, string> = options.preset ? { [presetVariable]: options.preset } : {};
    return await withServer({ jupyter, kernels, env }, async (server) => {
      let failed = 0;
      for (const path of paths) if (!await run(server, path, options)) failed++;
      console.log(
        failed ? `${failed} of ${paths.length} notebooks failed` : "all notebooks ran to their end",
      );
      return failed ? 1 : 0;
    });
  });
}
