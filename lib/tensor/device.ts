/**
 * The current device: where tensors are realised.
 *
 * @module
 */
import type { Backend } from "./backend.ts";
import { openCpu } from "./cpu/mod.ts";
import { openWebGpu } from "./webgpu/mod.ts";

/** What `--device` accepts. */
export type DeviceName = "auto" | "webgpu" | "cpu";

let current: Backend | undefined;

/**
 * Opens a device.
 *
 * `auto` takes a hardware WebGPU adapter, else the CPU; a software adapter only serves when `webgpu`
 * is asked for by name.
 *
 * @throws When `webgpu` is asked for and there is no adapter.
 */
export async function openDevice(
  name: DeviceName,
  options: { threads?: number } = {},
): Promise<Backend> {
  if (name === "cpu") return openCpu(options);
  if (name === "webgpu") return await openWebGpu({ allowSoftware: true });
  try {
    return await openWebGpu({ allowSoftware: false });
  } catch {
    return openCpu(options);
  }
}

/** Makes a device the current one. */
export function setDevice(device: Backend): void {
  current = device;
}

/** The current device; the CPU when none was chosen. */
export function getDevice(): Backend {
  return current ??= openCpu();
}
