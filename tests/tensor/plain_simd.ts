/**
 * Runs the operations' cases on the cpu device without relaxed SIMD; a process of its own, as a device
 * finds out once what the machine has. It also leaves its device open: that must not keep it alive.
 *
 * @module
 */
WebAssembly.validate = () => false;
const { openDevice, realize, setDevice } = await import("../../lib/tensor/mod.ts");
const { evaluate } = await import("../../lib/tensor/reference.ts");
const { CASES, expectClose, makeCase } = await import("./cases.ts");

const device = await openDevice("cpu", { threads: 2 });
setDevice(device);
if (device.description !== "2 threads, WebAssembly SIMD") throw new Error(device.description);
for (const [op, cases] of Object.entries(CASES)) {
  const made = cases.map((example, i) => ({ example, ...makeCase(example, i) }));
  const expected = made.map(({ output }) => evaluate(output));
  await realize(...made.map(({ output }) => output));
  for (const [i, { example, output }] of made.entries()) {
    expectClose(`${op}: ${example.name}`, await output.data(), expected[i]!, example.tolerance);
  }
}
console.log("all cases hold");

// Top-level await of an import needs a module.
export {};
