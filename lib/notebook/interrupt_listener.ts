/**
 * A thread that hears the signal of Jupyter's Stop button. The thread that runs the cells would not:
 * computing on the CPU, it awaits nothing that lets it look at events.
 *
 * @module
 */
const scope = globalThis as unknown as Worker;

scope.onmessage = ({ data: interrupts }: MessageEvent<Int32Array>) => {
  Deno.addSignalListener("SIGINT", () => Atomics.add(interrupts, 0, 1));
};
