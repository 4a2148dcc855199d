/**
 * The kernel specification that Jupyter starts Deno by. It lies in a folder of this project, which
 * `JUPYTER_PATH` puts before the user's own, so that no other installation is touched.
 *
 * @module
 */
import { writeWhole } from "../experiments/run.ts";

/** The kernel's name in notebooks' metadata; `deno jupyter --install` gives the same. */
export const kernelName = "deno";

/** What a notebook's metadata say about its kernel. */
export const kernelMetadata = {
  display_name: "Deno",
  language: "typescript",
  name: kernelName,
} as const;

/**
 * Writes the specification of a kernel that is the running Deno.
 *
 * What `deno jupyter --install` leaves out: plain text without colour codes, and a heap that grows
 * with the machine, where V8 stops at 4 GB. Cells are interrupted by a signal, as Jupyter does unless
 * told otherwise: by a message Deno stops a loop that never awaits, but a cell that awaits something
 * then hangs for good. What the signal does is up to `lib/notebook`.
 *
 * @param folder Where; Jupyter finds it when `JUPYTER_PATH` names this folder.
 * @param deno The executable; the running one unless given.
 */
export async function installKernel(folder: string, deno: string = Deno.execPath()): Promise<void> {
  const specification = {
    argv: [deno, "jupyter", "--kernel", "--conn", "{connection_file}"],
    display_name: kernelMetadata.display_name,
    language: kernelMetadata.language,
    env: { NO_COLOR: "1", DENO_V8_FLAGS: `--max-old-space-size=${heapMegabytes()}` },
  };
  const target = `${folder}/kernels/${kernelName}`;
  await Deno.mkdir(target, { recursive: true });
  // Whole or not at all: another server may be reading it.
  await writeWhole(`${target}/kernel.json`, JSON.stringify(specification, null, 2) + "\n");
}

/** Half of the memory, and no less than V8 takes by itself. */
function heapMegabytes(): number {
  return Math.max(4096, Math.floor(Deno.systemMemoryInfo().total / 2 ** 21));
}
