/**
 * A worker thread of the `cpu` device: waits for a plan, runs its share, waits again.
 *
 * @module
 */
import { parentPort } from "node:worker_threads";
import { Control, type Message, type Run, runSteps, type Step } from "./team.ts";

let memory: WebAssembly.Memory;
let controlAt = 0;
let me = 0;
let seen = 0;
let words: Int32Array = new Int32Array();
let control: Int32Array = new Int32Array();
const kernels: Run[] = [];
const plans = new Map<number, readonly Step[]>();

/** Views follow the memory as it grows. */
function refresh(): void {
  // Another thread's growth reaches `memory.buffer` late; growing by nothing asks for the present one.
  memory.grow(0);
  if (words.buffer === memory.buffer && words.byteLength === memory.buffer.byteLength) return;
  words = new Int32Array(memory.buffer);
  control = words.subarray(controlAt >>> 2, (controlAt >>> 2) + Control.words);
}

/** Runs plans until a message waits. */
function serve(): void {
  for (;;) {
    refresh();
    Atomics.wait(control, Control.command, seen);
    const command = Atomics.load(control, Control.command);
    const id = Atomics.load(control, Control.plan);
    if (command % 2 !== 0 || command !== Atomics.load(control, Control.command)) continue;
    if (id < 0) return globalThis.close();
    const steps = plans.get(id);
    if (id > 0 && !steps) return; // its message is on the way
    seen = command;
    if (!steps) return;
    refresh();
    try {
      runSteps(steps, kernels, words, control, Atomics.load(control, Control.threads), me);
    } catch (error) {
      Atomics.store(control, Control.failed, 1);
      throw error;
    }
  }
}

parentPort!.on("message", (data: Message) => {
  switch (data.type) {
    case "start":
      memory = data.memory;
      controlAt = data.control;
      me = data.me;
      refresh();
      seen = Atomics.load(control, Control.command);
      // The device may have been closed before this thread was up.
      if (Atomics.load(control, Control.plan) < 0) return globalThis.close();
      Atomics.add(control, Control.ready, 1);
      break;
    case "plan":
      for (const [id, module] of data.kernels) {
        kernels[id] = new WebAssembly.Instance(module, { env: { memory } }).exports["run"] as Run;
      }
      plans.set(data.id, data.steps);
      break;
    case "forget":
      plans.delete(data.id);
      break;
  }
  serve();
});
