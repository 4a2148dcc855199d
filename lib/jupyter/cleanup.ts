/**
 * Work whose traces vanish however it ends: done, failed, or interrupted with Ctrl-C.
 *
 * @module
 */

/** Windows has no SIGTERM to listen to. */
const endSignals: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT"]
  : ["SIGINT", "SIGTERM"];

/**
 * Does something and then cleans up; an interrupted process cleans up and ends with exit code 130.
 *
 * @param work What is done.
 * @param cleanup What must happen afterwards; called once.
 * @returns What `work` returned.
 */
export async function withCleanup<T>(
  work: () => Promise<T>,
  cleanup: () => Promise<void>,
): Promise<T> {
  let cleaned: Promise<void> | undefined;
  const clean = () => cleaned ??= cleanup();
  let stopped = false;
  const stop = () => {
    stopped = true;
    clean().finally(() => Deno.exit(130));
  };
  for (const signal of endSignals) Deno.addSignalListener(signal, stop);
  try {
    return await work();
  } finally {
    await clean();
    // What the work says about being cut off is of no interest any more.
    if (stopped) await new Promise(() => {});
    for (const signal of endSignals) Deno.removeSignalListener(signal, stop);
  }
}
