/**
 * The GPU device: which adapter is taken, its memory, its pipelines and its faults.
 *
 * WebGPU reports faults later and elsewhere, or not at all. Everything that may fail is labelled or
 * scoped here, and the first fault is kept until somebody waits for results.
 *
 * @module
 */
import type { Dispatch } from "./shader.ts";

/** Usage flags by number: the global constants exist only where the platform itself has WebGPU. */
const MAP_READ = 0x1;
const COPY_SRC = 0x4;
const COPY_DST = 0x8;
const STORAGE = 0x80;
const COMPUTE_STAGE = 0x4;
const MAP_MODE_READ = 0x1;

/** Buffers given back are kept for reuse up to this many bytes. */
const POOL_BYTES = 256 * 2 ** 20;
/** Uploads hold staging memory until they are submitted. */
const FLUSH_BYTES = 256 * 2 ** 20;
/** Uploads are cut to pieces of this size, so that flushes can come in between. */
const WRITE_BYTES = 64 * 2 ** 20;

/** Names of adapters that compute on the processor. */
const SOFTWARE = /llvmpipe|lavapipe|softpipe|swiftshader|basic render/i;

/** Options of {@linkcode openGpu}. */
export interface OpenOptions {
  /** Whether an adapter that computes on the processor will do. */
  readonly allowSoftware?: boolean;
  /** The WebGPU entry point; the platform's own by default. */
  readonly gpu?: GPU;
}

/** A compute pipeline with the layout its bind groups need. */
export interface Pipeline {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Opens the fastest adapter. */
export async function openGpu(options: OpenOptions = {}): Promise<GpuDevice> {
  const remedy = "Use the `cpu` device, or install a driver with Vulkan 1.2 (Linux), " +
    "Direct3D 12 (Windows) or Metal (macOS).";
  const gpu = options.gpu ?? globalThis.navigator?.gpu;
  if (gpu === undefined) throw new Error(`This platform has no WebGPU. ${remedy}`);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (adapter === null) throw new Error(`WebGPU found no adapter. ${remedy}`);
  const { info } = adapter;
  const names = [info.vendor, info.architecture, info.device, info.description];
  const description = info.description || names.filter((name) => name !== "").join(" ") ||
    "unnamed adapter";
  const software = info.isFallbackAdapter === true || names.some((name) => SOFTWARE.test(name));
  if (software && !options.allowSoftware) {
    throw new Error(
      `WebGPU found only the software adapter "${description}", which is slower than the \`cpu\` ` +
        `device. ${remedy}`,
    );
  }
  const { limits } = adapter;
  const device = await adapter.requestDevice({
    label: "tensor",
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    },
  });
  return new GpuDevice(device, description);
}

/** A GPU device with a pool of buffers, a cache of pipelines and a record of faults. */
export class GpuDevice {
  readonly device: GPUDevice;
  readonly description: string;
  /** Bytes of the largest buffer that a kernel can use. */
  readonly maxBytes: number;
  /** Buffers that one kernel can bind. */
  readonly maxBindings: number;
  /** Bytes of buffers in use. */
  liveBytes = 0;

  readonly #pool = new Map<number, GPUBuffer[]>();
  #pooledBytes = 0;
  readonly #pipelines = new Map<string, Pipeline>();
  readonly #layouts: (Omit<Pipeline, "pipeline"> & { all: GPUPipelineLayout })[] = [];
  #fault: Error | undefined;
  readonly #scopes = new Set<Promise<void>>();
  #closed = false;
  #lost: Error | undefined;
  #unflushedBytes = 0;

  constructor(device: GPUDevice, description: string) {
    this.device = device;
    this.description = description;
    const { limits } = device;
    const largest = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
    this.maxBytes = largest - largest % 256;
    this.maxBindings = limits.maxStorageBuffersPerShaderStage;
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#fault ??= new Error(`WebGPU: ${(event as GPUUncapturedErrorEvent).error.message}`);
    });
    device.lost.then(({ reason, message }) => {
      if (!this.#closed) this.#lost = new Error(`The GPU device was lost (${reason}): ${message}`);
    });
  }

  /** Takes a buffer of at least `bytes` bytes; its content is undefined. */
  acquire(bytes: number, label: string): GPUBuffer {
    const size = bufferBytes(bytes);
    if (size > this.maxBytes) {
      throw new RangeError(
        `${label} needs ${bytes} bytes in one buffer, but "${this.description}" allows ` +
          `${this.maxBytes} (${this.liveBytes} are held in all); use smaller batches, or the ` +
          "`cpu` device.",
      );
    }
    let buffer = this.#pool.get(size)?.pop();
    if (buffer !== undefined) {
      this.#pooledBytes -= size;
    } else {
      const held = this.liveBytes;
      buffer = this.scoped(
        "out-of-memory",
        (message) =>
          new RangeError(
            `${label} needs ${bytes} bytes, which "${this.description}" could not give while ` +
              `${held} were held: ${message}`,
          ),
        () => this.device.createBuffer({ label, size, usage: STORAGE | COPY_SRC | COPY_DST }),
      );
    }
    this.liveBytes += size;
    return buffer;
  }

  /** Gives a buffer back; work that was submitted before may still use it. */
  release(buffer: GPUBuffer): void {
    const { size } = buffer;
    this.liveBytes -= size;
    if (this.#closed || this.#pooledBytes + size > POOL_BYTES) {
      buffer.destroy();
      return;
    }
    this.#pooledBytes += size;
    const same = this.#pool.get(size);
    if (same === undefined) this.#pool.set(size, [buffer]);
    else same.push(buffer);
  }

  /** Runs `make` and records the error that the device may report about it later. */
  scoped<T>(filter: GPUErrorFilter, fault: (message: string) => Error, make: () => T): T {
    this.device.pushErrorScope(filter);
    const made = make();
    const scope = this.device.popErrorScope().then((error) => {
      if (error !== null) this.#fault ??= fault(error.message);
      this.#scopes.delete(scope);
    });
    this.#scopes.add(scope);
    return made;
  }

  /** The pipeline of a shader's text. */
  pipeline({ code, label, slots }: Dispatch): Pipeline {
    let found = this.#pipelines.get(code);
    if (found === undefined) {
      const { layout, all } = this.#layout(slots.length);
      const pipeline = this.scoped(
        "validation",
        (message) => new Error(`Kernel "${label}" does not compile: ${message}\n${code}`),
        () =>
          this.device.createComputePipeline({
            label,
            layout: all,
            compute: {
              module: this.device.createShaderModule({ label, code }),
              entryPoint: "main",
            },
          }),
      );
      found = { pipeline, layout };
      this.#pipelines.set(code, found);
    }
    return found;
  }

  #layout(bindings: number) {
    return this.#layouts[bindings] ??= this.scoped(
      "validation",
      (message) => new Error(`WebGPU: ${message}`),
      () => {
        const layout = this.device.createBindGroupLayout({
          entries: Array.from({ length: bindings }, (_, binding) => ({
            binding,
            visibility: COMPUTE_STAGE,
            buffer: { type: binding === 0 ? "storage" as const : "read-only-storage" as const },
          })),
        });
        return {
          layout,
          all: this.device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        };
      },
    );
  }

  /** Copies host bytes into a buffer; offset and length are multiples of 4. */
  write(buffer: GPUBuffer, offset: number, data: Uint8Array<ArrayBuffer>): void {
    for (let start = 0; start < data.length; start += WRITE_BYTES) {
      const piece = data.subarray(start, start + WRITE_BYTES);
      this.device.queue.writeBuffer(buffer, offset + start, piece);
      this.#unflushedBytes += piece.length;
      if (this.#unflushedBytes >= FLUSH_BYTES) {
        this.device.queue.submit([]);
        this.#unflushedBytes = 0;
      }
    }
  }

  /** Submits commands. */
  submit(commands: GPUCommandBuffer): void {
    this.device.queue.submit([commands]);
    this.#unflushedBytes = 0;
  }

  /**
   * Copies a range (multiples of 4) to the host. The copy is submitted at once; reads that are
   * awaited together overlap their waits, which are long on some platforms.
   */
  async read(buffer: GPUBuffer, offset: number, bytes: number): Promise<Uint8Array> {
    this.#throwIfUnusable();
    const staging = this.device.createBuffer({
      label: "read",
      size: Math.max(4, bytes),
      usage: MAP_READ | COPY_DST,
    });
    try {
      const encoder = this.device.createCommandEncoder({ label: "read" });
      if (bytes > 0) encoder.copyBufferToBuffer(buffer, offset, staging, 0, bytes);
      this.submit(encoder.finish());
      // The mapped range must not be touched before this promise has resolved.
      await staging.mapAsync(MAP_MODE_READ);
      await this.#throwFault();
      const data = new Uint8Array(staging.getMappedRange()).slice(0, bytes);
      staging.unmap();
      return data;
    } catch (error) {
      await this.#throwFault();
      throw error;
    } finally {
      staging.destroy();
    }
  }

  /** Waits for everything submitted so far; throws the first fault since the last wait. */
  async finish(): Promise<void> {
    this.#throwIfUnusable();
    await this.device.queue.onSubmittedWorkDone();
    await this.#throwFault();
  }

  #throwIfUnusable(): void {
    if (this.#closed) throw new Error("The WebGPU device is closed.");
    if (this.#lost !== undefined) throw this.#lost;
  }

  async #throwFault(): Promise<void> {
    await Promise.all(this.#scopes);
    this.#throwIfUnusable();
    const fault = this.#fault;
    this.#fault = undefined;
    if (fault !== undefined) throw fault;
  }

  /** Ends the device and gives all its memory back. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#pool.clear();
    this.#pipelines.clear();
    this.device.destroy();
  }
}

/** The size of the buffer that holds so many bytes: few different sizes make buffers easy to reuse. */
export function bufferBytes(bytes: number): number {
  return Math.max(256, Math.ceil(bytes / 256) * 256);
}
