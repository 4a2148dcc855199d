/**
 * Opens the device a command was told to use.
 *
 * @module
 */
import { type Backend, openDevice, setDevice } from "../tensor/mod.ts";
import { UserError } from "./user_error.ts";

/**
 * Opens a device, makes it the current one and says on stderr which it is.
 *
 * @param name The value of `--device`.
 * @throws {UserError} if there is no such device here.
 */
export async function useDevice(name: "auto" | "webgpu" | "cpu"): Promise<Backend> {
  let device: Backend;
  try {
    device = await openDevice(name);
  } catch (cause) {
    throw new UserError(`--device ${name}: ${(cause as Error).message}`, { cause });
  }
  setDevice(device);
  console.error(`Device: ${device.name}, ${device.description}`);
  return device;
}
