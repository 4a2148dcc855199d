/**
 * Runs one test on every device at hand: the CPU always, WebGPU where there is an adapter.
 *
 * @module
 */
import { type Backend, openDevice, setDevice } from "../../lib/tensor/mod.ts";

const hasAdapter = await navigator.gpu?.requestAdapter().then((a) => a !== null, () => false) ??
  false;

const open = new Map<string, Promise<Backend>>();

/** Opens a device once for the whole test run. */
export function device(name: "cpu" | "webgpu"): Promise<Backend> {
  let backend = open.get(name);
  if (!backend) open.set(name, backend = openDevice(name));
  return backend;
}

/** Registers one test per device; the device is current while it runs. */
export function eachDevice(name: string, fn: (backend: Backend) => Promise<void>): void {
  for (const kind of ["cpu", "webgpu"] as const) {
    Deno.test({
      name: `${name} (${kind})`,
      ignore: kind === "webgpu" && !hasAdapter,
      // Devices outlive the test that opens them.
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        const backend = await device(kind);
        setDevice(backend);
        await fn(backend);
      },
    });
  }
}
