/**
 * The `webgpu` device: kernels as generated WGSL compute shaders.
 *
 * @module
 */
import type { Backend, DeviceBuffer, Program } from "../backend.ts";
import type { Kernel, Slot } from "../kernel.ts";
import { type GpuDevice, openGpu, type OpenOptions } from "./device.ts";
import { arenaBytes, WebGpuProgram } from "./program.ts";

export type { OpenOptions } from "./device.ts";

/**
 * Opens the WebGPU device with the fastest adapter.
 *
 * @throws {Error} If there is no adapter, or only one that computes on the processor and
 * `allowSoftware` is not set.
 */
export async function openWebGpu(options: OpenOptions = {}): Promise<WebGpuBackend> {
  return new WebGpuBackend(await openGpu(options));
}

/** A buffer of this device. */
class WebGpuBuffer implements DeviceBuffer {
  readonly bytes: number;
  /** Absent once the buffer was freed. */
  memory: GPUBuffer | undefined;

  constructor(bytes: number, memory: GPUBuffer) {
    this.bytes = bytes;
    this.memory = memory;
  }
}

/** A WebGPU device as a backend. */
export class WebGpuBackend implements Backend {
  readonly name = "webgpu";
  readonly capacity = undefined;
  readonly description: string;
  /** The number of distinct slots that one kernel can read. */
  readonly maxInputs: number;
  /** WebGPU does not tell how much memory there is. */
  readonly largestBuffer: number;
  readonly #gpu: GpuDevice;

  constructor(gpu: GpuDevice) {
    this.#gpu = gpu;
    this.description = gpu.description;
    this.maxInputs = gpu.maxBindings - 1;
    this.largestBuffer = gpu.maxBytes;
  }

  get liveBytes(): number {
    return this.#gpu.liveBytes;
  }

  allocate(bytes: number): DeviceBuffer {
    return new WebGpuBuffer(bytes, this.#gpu.acquire(bytes, "A tensor"));
  }

  free(buffer: DeviceBuffer): void {
    this.#gpu.release(memoryOf(buffer));
    (buffer as WebGpuBuffer).memory = undefined;
  }

  write(buffer: DeviceBuffer, data: Uint8Array, byteOffset = 0): void {
    const memory = memoryOf(buffer);
    const end = byteOffset + data.length;
    checkRange("write", buffer, byteOffset, data.length);
    // Buffers are written by words; the last one may be filled up only where the buffer ends.
    const tail = data.length % 4;
    if (byteOffset % 4 !== 0 || (tail !== 0 && end !== buffer.bytes)) {
      throw new RangeError(
        `Bytes ${byteOffset} to ${end} of a buffer of ${buffer.bytes} do not begin and end at ` +
          "multiples of 4; write whole words, or up to the buffer's end.",
      );
    }
    const view = data.buffer instanceof ArrayBuffer
      ? data as Uint8Array<ArrayBuffer>
      : new Uint8Array(data);
    const body = data.length - tail;
    if (body > 0) this.#gpu.write(memory, byteOffset, view.subarray(0, body));
    if (tail > 0) {
      const word = new Uint8Array(4);
      word.set(view.subarray(body));
      this.#gpu.write(memory, byteOffset + body, word);
    }
  }

  async read(
    buffer: DeviceBuffer,
    byteOffset = 0,
    byteLength = buffer.bytes - byteOffset,
  ): Promise<Uint8Array> {
    checkRange("read", buffer, byteOffset, byteLength);
    const start = byteOffset - byteOffset % 4;
    const end = Math.ceil((byteOffset + byteLength) / 4) * 4;
    const words = await this.#gpu.read(memoryOf(buffer), start, end - start);
    return start === byteOffset && words.length === byteLength
      ? words
      : words.slice(byteOffset - start, byteOffset - start + byteLength);
  }

  arenaBytes(kernels: readonly Kernel[], slots: readonly Slot[]): number {
    return arenaBytes(kernels, slots);
  }

  compile(kernels: readonly Kernel[], slots: readonly Slot[]): Program {
    return new WebGpuProgram(this.#gpu, memoryOf, kernels, slots);
  }

  finish(): Promise<void> {
    return this.#gpu.finish();
  }

  close(): void {
    this.#gpu.close();
  }
}

function memoryOf(buffer: DeviceBuffer): GPUBuffer {
  if (!(buffer instanceof WebGpuBuffer)) {
    throw new TypeError("The buffer belongs to another device; copy its data to this one first.");
  }
  if (buffer.memory === undefined) {
    throw new Error(`A buffer of ${buffer.bytes} bytes is used after it was freed.`);
  }
  return buffer.memory;
}

function checkRange(verb: string, buffer: DeviceBuffer, offset: number, length: number): void {
  if (offset < 0 || length < 0 || offset + length > buffer.bytes) {
    throw new RangeError(
      `Cannot ${verb} bytes ${offset} to ${offset + length} of a buffer of ${buffer.bytes} bytes.`,
    );
  }
}
