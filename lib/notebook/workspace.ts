/**
 * The working folder of a notebook. Jupyter starts a kernel in the notebook's folder, but the
 * library's paths, such as `data/nano`, are relative to the repository's.
 *
 * @module
 */

/**
 * Makes the repository's folder the working folder; may be called again.
 *
 * The kernel resolves relative imports against the working folder, so cells that are run later must
 * import by a name of `deno.json`, as in `import { show } from "ncp-lab/notebook/mod.ts"`, and not
 * by `../lib/notebook/mod.ts`.
 */
export function enterRepository(): void {
  Deno.chdir(new URL("../..", import.meta.url));
}
