/**
 * Fails a thread of the cpu device and goes on: a process of its own, as a worker prints its fault.
 *
 * @module
 */
import { openDevice, setDevice, take, tensor } from "../../lib/tensor/mod.ts";

setDevice(await openDevice("cpu", { threads: 2 }));
await new Promise((resolve) => setTimeout(resolve, 300));
const table = tensor([1, 2, 3], [3]);
const size = 1 << 20;

async function compute(place: number): Promise<number> {
  using y = take(table, tensor(new Int32Array(size).fill(place, size - 1), [size])).mul(2);
  return (await y.data())[5]!;
}

const results = [await compute(0)];
// Far outside of the table, and of the memory.
await compute(1 << 29).then(() => results.push(NaN), () => {});
for (let call = 0; call < 3; call++) results.push(await compute(1));
console.log(results.join());
