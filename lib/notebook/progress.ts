/**
 * One line that says how far a long job is, at what rate it goes and when it ends: redrawn in place
 * on a terminal and in a notebook, printed now and then in a log.
 *
 * @module
 */
import { interruptCheck, openOutput } from "./kernel.ts";

/** Where progress lines go. */
export interface ProgressDisplay {
  /**
   * Shows the state of the job; `last` says that no further line follows, and what is returned then
   * resolves when the line cannot be lost any more.
   */
  show(line: string, last: boolean): void | Promise<void>;
  /** Least time between two lines, in milliseconds. */
  readonly interval: number;
}

/** Options of {@linkcode Progress}. */
export interface ProgressOptions {
  /** Where the line is shown; by default what fits: notebook, terminal or log. */
  display?: ProgressDisplay;
  /** What is counted, such as `steps`. Default `it`. */
  unit?: string;
  /** Milliseconds in which nothing is shown: a job that ends before says nothing. Default 0. */
  delay?: number;
  /** Milliseconds on a monotonic clock. */
  now?: () => number;
}

/**
 * A running job's progress. The rate counts from the first report, so that neither compiling nor what
 * an interrupted run did earlier is part of it.
 *
 * @example
 * ```ts
 * import { Progress } from "./progress.ts";
 *
 * const lines: string[] = [];
 * const display = { show: (line: string) => void lines.push(line), interval: 0 };
 * const progress = new Progress("train", { unit: "steps", display });
 * progress.update(1, 2, "loss 0.69");
 * progress.update(2, 2, "loss 0.68");
 * ```
 */
export class Progress {
  readonly #label: string;
  readonly #display: ProgressDisplay;
  readonly #unit: string;
  readonly #delay: number;
  readonly #now: () => number;
  readonly #startedAt: number;
  #first: { readonly done: number; readonly at: number } | undefined;
  #shownAt = -Infinity;
  #ended = false;

  /**
   * @param label What runs.
   * @param options Where and how to show it.
   */
  constructor(label: string, options: ProgressOptions = {}) {
    this.#label = label;
    this.#display = options.display ?? defaultDisplay();
    this.#unit = options.unit ?? "it";
    this.#delay = options.delay ?? 0;
    this.#now = options.now ?? (() => performance.now());
    this.#startedAt = this.#now();
  }

  /**
   * Says how much is done; shows a line unless the last one is too recent.
   *
   * @param done How much is done.
   * @param total How much there is to do.
   * @param note What else to say, such as the loss.
   * @returns For the last line, when it cannot be lost any more: a cell of a notebook that ends right
   * after it should wait.
   * @throws {Interrupted} in a notebook whose user pressed Stop since this progress began.
   */
  update(done: number, total: number, note = ""): void | Promise<void> {
    if (this.#ended) return;
    const now = this.#now();
    this.#first ??= { done, at: now };
    const last = done >= total;
    if (now - this.#startedAt < this.#delay) {
      this.#ended = last;
      return;
    }
    if (!last && now - this.#shownAt < this.#display.interval) return;
    this.#shownAt = now;
    this.#ended = last;
    return this.#display.show(this.#line(done, total, now, note), last);
  }

  #line(done: number, total: number, now: number, note: string): string {
    const fraction = total > 0 ? Math.min(1, done / total) : 1;
    const { done: doneAtFirst, at } = this.#first!;
    const rate = now > at ? (done - doneAtFirst) / ((now - at) / 1000) : 0;
    const timing = fraction >= 1
      ? `took ${duration((now - this.#startedAt) / 1000)}`
      : rate > 0
      ? `${duration((total - done) / rate)} left`
      : "";
    return [
      `${this.#label} ${bar(fraction)} ${done}/${total}`,
      ...(rate > 0 ? [speed(rate, this.#unit)] : []),
      ...(timing ? [timing] : []),
      ...(note ? [note] : []),
    ].join("  ");
  }
}

/**
 * Progress as a function, for jobs that know their size only when they report.
 *
 * @param label What runs.
 * @param unit What is counted.
 */
export function progressOf(
  label: string,
  unit: string,
): (done: number, total: number, note?: string) => void | Promise<void> {
  const progress = new Progress(label, { unit });
  return (done, total, note) => progress.update(done, total, note);
}

/**
 * Progress of reading files, told in bytes and shown in megabytes; a job of less than two seconds says
 * nothing.
 *
 * @param label What runs.
 */
export function byteProgress(label: string): (done: number, total: number) => void {
  const progress = new Progress(label, { unit: "MB", delay: 2000 });
  return (done, total) => void progress.update(Math.floor(done / 1e6), Math.floor(total / 1e6));
}

/**
 * A time span in words a person reads at a glance: `42 s`, `3 min 05 s`, `2 h 10 min`.
 *
 * @param seconds The time span in seconds.
 */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const two = (n: number) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole % 3600 / 60))} min`;
}

function speed(rate: number, unit: string): string {
  return rate >= 1 ? `${rate.toFixed(1)} ${unit}/s` : `${(1 / rate).toFixed(1)} s per ${one(unit)}`;
}

function one(unit: string): string {
  return unit.endsWith("s") ? unit.slice(0, -1) : unit;
}

function bar(fraction: number): string {
  const filled = Math.round(fraction * 20);
  return `[${"#".repeat(filled)}${".".repeat(20 - filled)}]`;
}

function defaultDisplay(): ProgressDisplay {
  const display = kernelDisplay();
  if (display) return display;
  return Deno.stderr.isTerminal() ? terminalDisplay() : logDisplay();
}

function writeError(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}

function terminalDisplay(): ProgressDisplay {
  return {
    interval: 100,
    show(line, last) {
      // A line longer than the terminal would wrap, and the next one could not erase it.
      const { columns } = Deno.consoleSize();
      writeError(`\r\x1b[K${line.slice(0, columns - 1)}${last ? "\n" : ""}`);
    },
  };
}

function logDisplay(): ProgressDisplay {
  return { interval: 10_000, show: (line) => writeError(`${line}\n`) };
}

function kernelDisplay(): ProgressDisplay | undefined {
  const output = openOutput();
  if (!output) return undefined;
  const check = interruptCheck();
  return {
    interval: 500,
    show(line, last) {
      check();
      const sent = output.put({ "text/plain": line });
      return last ? sent : undefined;
    },
  };
}
