/**
 * The one way by which cells show something: complete in a notebook, as plain text in a terminal.
 *
 * @module
 */
import { type MimeBundle, openOutput } from "./kernel.ts";

/**
 * Shows a MIME bundle below the running cell and waits until it cannot be lost any more; outside a
 * notebook, prints its plain text.
 *
 * @param bundle The same thing in several forms; `text/plain` should be among them.
 */
export async function show(bundle: MimeBundle): Promise<void> {
  const output = openOutput();
  if (output) await output.put(bundle);
  else console.log(bundle["text/plain"] ?? Object.keys(bundle).join(", "));
}
