/**
 * What this project knows of Deno's notebook kernel, in one place: whether this process is one, how an
 * output is sent and how it is lost, and what Jupyter's Stop button does.
 *
 * @module
 */

/** One thing in several forms, by MIME type; a front end shows the richest that it knows. */
export type MimeBundle = Readonly<Record<string, unknown>>;

/** What is used of `Deno.jupyter`. */
interface Kernel {
  /** Sends a message of Jupyter's protocol; it is on its way when this returns. */
  broadcast(type: string, content: unknown): void;
}

const kernel = findKernel();

function findKernel(): Kernel | undefined {
  try {
    return (Deno as unknown as { jupyter?: Kernel }).jupyter;
  } catch {
    return undefined; // Outside a kernel the property throws.
  }
}

/** An output of the running cell, whose contents can be replaced in place. */
export interface CellOutput {
  /**
   * Puts contents into the output. They are sent at once and in order, so a caller in the middle of
   * a cell need not wait; the last of a cell must.
   *
   * @param bundle The contents.
   * @returns When the cell may end without losing them.
   */
  put(bundle: MimeBundle): Promise<void>;
}

/**
 * Makes an output; it appears with its first contents.
 *
 * @returns The output; undefined outside a kernel.
 */
export function openOutput(): CellOutput | undefined {
  if (!kernel) return undefined;
  const display_id = crypto.randomUUID();
  let type = "display_data";
  return {
    async put(data) {
      kernel.broadcast(type, { data, metadata: {}, transient: { display_id } });
      type = "update_display_data";
      // The kernel's thread for messages may tell the end of a cell before it has sent the cell's
      // last output, and many front ends stop listening there. Large outputs take it longer.
      const megabytes = JSON.stringify(data).length / 1e6;
      await new Promise((resolve) => setTimeout(resolve, 20 + 25 * megabytes));
    },
  };
}

/** How often the user pressed Stop; shared with the thread that hears it. */
const interrupts = new Int32Array(new SharedArrayBuffer(4));

// Stop sends SIGINT, which would end the kernel and all that it has computed. Deno has no other way to
// stop a cell that awaits something, so whoever reports progress looks whether to go on.
if (kernel) {
  // Keeps the kernel alive from now on; the thread is not up yet.
  Deno.addSignalListener("SIGINT", () => {});
  new Worker(new URL("./interrupt_listener.ts", import.meta.url), { type: "module" })
    .postMessage(interrupts);
}

/** Thrown in a cell whose user pressed Stop. */
export class Interrupted extends Error {
  override name = "Interrupted";

  /** The message is always the same. */
  constructor() {
    super(
      "the cell was interrupted; the kernel goes on, and what earlier cells made is still there",
    );
  }
}

/**
 * Lets a loop in a cell be stopped: call this before the loop, and what it returns inside.
 *
 * @returns A function that throws {@linkcode Interrupted} once Stop has been pressed.
 *
 * @example
 * ```ts
 * import { interruptCheck } from "./kernel.ts";
 *
 * const check = interruptCheck();
 * for (let i = 0; i < 3; i++) {
 *   await new Promise((resolve) => setTimeout(resolve, 1));
 *   check();
 * }
 * ```
 */
export function interruptCheck(): () => void {
  const before = Atomics.load(interrupts, 0);
  return () => {
    if (Atomics.load(interrupts, 0) > before) throw new Interrupted();
  };
}
