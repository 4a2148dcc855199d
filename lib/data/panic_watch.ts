/**
 * Notices when the Parquet reader gives up. It is a program in WebAssembly that stops at some damaged pages without
 * settling the promise that is waited for; the trap arrives as an error event, which would end the process.
 *
 * @module
 */

/** Turns traps into rejections until it is disposed. */
export class PanicWatch implements Disposable {
  readonly #panic = Promise.withResolvers<never>();
  readonly #listener = (event: ErrorEvent) => {
    if (!(event.error instanceof WebAssembly.RuntimeError)) return;
    event.preventDefault();
    this.#panic.reject(new Error(`the reader stopped: ${event.error.message}`));
  };

  constructor() {
    addEventListener("error", this.#listener);
    // A trap that nobody waits for is no error of its own.
    this.#panic.promise.catch(() => {});
  }

  /** What is waited for, or the trap that keeps it from coming. */
  orPanic<T>(awaited: Promise<T>): Promise<T> {
    return Promise.race([awaited, this.#panic.promise]);
  }

  [Symbol.dispose](): void {
    removeEventListener("error", this.#listener);
  }
}
