import { assertEquals } from "@std/assert";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { Batches, methods, pickPairs, type PreferencePairs } from "../../lib/preference/mod.ts";

Deno.test("a batch tells of each pair which visit it is, whatever was drawn before", async () => {
  const asked: [readonly number[], readonly number[] | undefined][] = [];
  const pairs: PreferencePairs = {
    length: 5,
    latentShape: [1, 1, 1],
    contextShape: [1, 1],
    read(indices, visits) {
      asked.push([indices, visits]);
      const values = Float32Array.from(indices);
      return { winner: values, loser: values, context: values };
    },
  };
  const options = { schedule: NoiseSchedule.fromConfig({}), method: methods.dpo, size: 3, seed: 4 };
  const batches = new Batches({ ...options, pairs });
  for (const number of [0, 1, 2, 3, 4]) await batches.draw(number);
  assertEquals(asked.flatMap(([, visits]) => visits!), Array.from({ length: 15 }, (_, i) => i));
  const indices = asked.flatMap(([indices]) => indices);
  for (const epoch of [0, 5, 10]) {
    assertEquals(indices.slice(epoch, epoch + 5).sort(), [0, 1, 2, 3, 4]);
  }
  const resumed = new Batches({ ...options, pairs });
  await resumed.draw(3);
  assertEquals(asked[5], asked[3]);

  await pickPairs(pairs, [4, 2, 0]).read([2, 1], [70, 80]);
  assertEquals(asked.at(-1), [[0, 2], [70, 80]]);
  await pickPairs(pairs, [4, 2, 0]).read([2, 1]);
  assertEquals(asked.at(-1), [[0, 2], [2, 1]]);
});
