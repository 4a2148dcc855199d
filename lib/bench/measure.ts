/**
 * How long something takes: the best and the median of many repetitions after a warm-up.
 *
 * The best is what the machine can do; the median, where it is much larger, says that something else
 * was running.
 *
 * @module
 */
import type { Backend } from "../tensor/mod.ts";

/** Times of one call, in seconds. */
export interface Timing {
  readonly best: number;
  readonly median: number;
  /** How many samples were taken. */
  readonly samples: number;
}

/** How {@linkcode measure} measures. */
export interface MeasureOptions {
  /** At least this long, the warm-up not counted. */
  readonly seconds: number;
  /** The device; a sample ends when it has finished. */
  readonly backend: Pick<Backend, "name" | "finish">;
}

/** Fewer samples than this have no median to speak of. */
const FEWEST = 5;
/** Seconds of calls before the first sample: threads start, code is optimised, caches fill. */
const WARM_UP = 0.1;
/** Seconds that a sample on a GPU should last, so that submitting and waiting do not count. */
const GPU_SAMPLE = 0.02;

/**
 * Measures a function.
 *
 * On the CPU every call is a sample. On a GPU, calls are submitted together until they last long
 * enough to measure.
 */
export async function measure(
  run: () => Promise<void>,
  { seconds, backend }: MeasureOptions,
): Promise<Timing> {
  const sample = async (calls: number) => {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await run();
    await backend.finish();
    return (performance.now() - start) / 1000 / calls;
  };
  await sample(1);
  const warm = performance.now() + 1000 * Math.min(WARM_UP, seconds);
  let once = await sample(1);
  while (performance.now() < warm) once = Math.min(once, await sample(1));
  const calls = backend.name === "cpu" ? 1 : Math.max(1, Math.ceil(GPU_SAMPLE / once));

  const times: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (times.length < FEWEST || performance.now() < end) times.push(await sample(calls));
  times.sort((a, b) => a - b);
  const middle = times.length >> 1;
  const median = times.length % 2 ? times[middle]! : (times[middle - 1]! + times[middle]!) / 2;
  return { best: times[0]!, median, samples: times.length };
}
