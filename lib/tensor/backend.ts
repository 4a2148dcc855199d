/**
 * What a device must be able to do: hold buffers, compile a list of kernels once, run it many times.
 *
 * @module
 */
import type { Kernel, Slot } from "./kernel.ts";

/** A piece of device memory that a caller owns. */
export interface DeviceBuffer {
  readonly bytes: number;
}

/** A compiled list of kernels with its memory plan. */
export interface Program {
  /** Bytes that the program's own (arena) slots take. */
  readonly arenaBytes: number;
  /**
   * Runs the kernels in order.
   *
   * @param bindings One buffer per external slot, in the order of the slots given to `compile`.
   */
  run(bindings: readonly DeviceBuffer[]): void;
  /** Gives the program's memory back. */
  dispose(): void;
}

/** A device. */
export interface Backend {
  /** `cpu` or `webgpu`. */
  readonly name: "cpu" | "webgpu";
  /** What a person would call it: threads and instruction set, or the adapter's name. */
  readonly description: string;
  /** The most slots that one kernel may read. */
  readonly maxInputs: number;
  /** Bytes held by buffers and programs now. */
  readonly liveBytes: number;
  /** The most bytes that it can hold; not known where the driver does not say. */
  readonly capacity: number | undefined;
  /** The most bytes that one buffer can have. */
  readonly largestBuffer: number;
  /** Reserves a buffer; its content is undefined. Throws a `RangeError` that says how much was asked and held. */
  allocate(bytes: number): DeviceBuffer;
  /** Gives a buffer back. */
  free(buffer: DeviceBuffer): void;
  /** Copies host bytes into a buffer. */
  write(buffer: DeviceBuffer, data: Uint8Array, byteOffset?: number): void;
  /** Copies bytes of a buffer to the host, after everything submitted so far has run. */
  read(buffer: DeviceBuffer, byteOffset?: number, byteLength?: number): Promise<Uint8Array>;
  /** The bytes that a program of these kernels would take for its own (arena) slots. */
  arenaBytes(kernels: readonly Kernel[], slots: readonly Slot[]): number;
  /** Compiles kernels for the given slots. */
  compile(kernels: readonly Kernel[], slots: readonly Slot[]): Program;
  /** Waits until everything submitted so far has run; rejects with the first fault, which names its kernel. */
  finish(): Promise<void>;
  /** Ends workers or the GPU device. */
  close(): void;
}
