/**
 * `deno task notebook`: opens the notebooks in JupyterLab, with Deno as their kernel.
 *
 * @module
 */
import { basename, delimiter, dirname, resolve } from "node:path";
import {
  detached,
  findJupyter,
  installKernel,
  serverArguments,
  stopServer,
  withCleanup,
} from "../jupyter/mod.ts";
import { kernelFolder, notebookFolder } from "./notebooks.ts";
import { flag, text } from "./options.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "notebook",
  summary: "Open the notebooks in JupyterLab.",
  positionals: [{
    name: "path",
    description: "a notebook, or a folder of them",
    default: notebookFolder,
  }],
  options: {
    "no-browser": flag({ description: "only print the address" }),
    jupyter: text({ description: "the jupyter executable", placeholder: "PATH" }),
  },
  examples: ["deno task notebook", "deno task notebook notebooks/example.ipynb --no-browser"],
};

/** The folder that JupyterLab shows, and the page that it opens. */
async function target(path: string): Promise<{ folder: string; page: string }> {
  try {
    if ((await Deno.stat(path)).isDirectory) return { folder: path, page: "/lab" };
  } catch (cause) {
    throw new UserError(`${path}: ${(cause as Error).message}`, { cause });
  }
  return { folder: dirname(path), page: `/lab/tree/${encodeURIComponent(basename(path))}` };
}

if (import.meta.main) {
  await runCommand(command, async ({ options, positionals }) => {
    const { folder, page } = await target(positionals[0]!);
    const jupyter = await findJupyter("lab", options.jupyter);
    const kernels = resolve(kernelFolder);
    await installKernel(kernels);
    const others = Deno.env.get("JUPYTER_PATH");
    const process = new Deno.Command(jupyter, {
      args: [
        "lab",
        `--ServerApp.root_dir=${resolve(folder)}`,
        `--LabApp.default_url=${page}`,
        ...(options["no-browser"] ? ["--no-browser"] : []),
        ...serverArguments,
      ],
      env: { JUPYTER_PATH: others ? `${kernels}${delimiter}${others}` : kernels },
      detached,
    }).spawn();
    return await withCleanup(
      async () => (await process.status).code,
      () => stopServer(process),
    );
  });
}
