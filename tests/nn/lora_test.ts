import { assert, assertEquals, assertThrows } from "@std/assert";
import { readJson, unetConfig } from "../../lib/diffusion/config.ts";
import { unet } from "../../lib/diffusion/unet.ts";
import { createLora, loraShapes } from "../../lib/nn/lora.ts";
import { loadLora } from "../../lib/nn/lora_file.ts";
import { loadWeights, Weights } from "../../lib/nn/weights.ts";
import { grad, realize, zeros } from "../../lib/tensor/mod.ts";
import {
  assertClose,
  type GoldenCase,
  goldenCases,
  goldenPath,
  openGolden,
  relativeError,
} from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

type LoraCase = GoldenCase & { lora: string; rank: number; alpha: number; targets: string[] };
const cases = goldenCases("lora") as LoraCase[];

for (const { name, model, golden, lora: path, rank, alpha, targets } of cases) {
  eachDevice(`lora: ${name} agrees with peft in output and gradients`, async () => {
    const config = unetConfig(await readJson(goldenPath(`${model}/config.json`)));
    const base = await loadWeights(goldenPath(model));
    const lora = await loadLora(goldenPath(path), base);
    assertEquals(lora.scale, alpha / rank);
    assertEquals(
      [...lora.layers.keys()].sort(),
      [...loraShapes(base, rank, targets).keys()].sort(),
    );

    const file = await openGolden(golden);
    const output = unet(base.withLora(lora), config, {
      sample: await file.tensor("sample"),
      timestep: await file.tensor("timestep"),
      context: await file.tensor("context"),
    });
    const loss = output.mul(await file.tensor("probe")).sum();
    const halves = [...lora.layers].flatMap(([module, { down, up }]) => [
      { module, tensor: down, names: ["lora.down", "lora_A"] },
      { module, tensor: up, names: ["lora.up", "lora_B"] },
    ]);
    // The golden reader turns [out, in, kh, kw] into [out, kh, kw, in].
    const gradients = grad(loss, halves.map((half) => half.tensor))
      .map((g) => g.rank === 4 ? g.permute([3, 0, 1, 2]) : g);
    await realize(output, ...gradients);
    await assertClose(output, await file.values("output"), "output");
    const found: number[] = [];
    const expected: number[] = [];
    for (const [i, { module, names }] of halves.entries()) {
      const key = names.map((n) => `grad.unet.${module}.${n}.weight`).find((n) => file.has(n))!;
      found.push(...await gradients[i]!.data());
      expected.push(...await file.values(key));
    }
    const error = relativeError(found, expected);
    assert(error <= 1e-4, `gradients: relative error ${error}`);
    [output, ...gradients].forEach((t) => t.dispose());
    base.dispose();
  });
}

const model = new Weights(
  new Map([
    ["down_blocks.0.attentions.0.to_q.weight", zeros([6, 4])],
    ["down_blocks.0.attentions.0.to_out.0.weight", zeros([4, 6])],
    ["down_blocks.0.resnets.0.conv1.weight", zeros([3, 3, 4, 8])],
    ["down_blocks.0.resnets.0.norm1.weight", zeros([4])],
  ]),
  { source: "a tiny model" },
);

Deno.test("lora: a fresh adapter has the named layers, normal numbers below and zeros above", async () => {
  const lora = createLora(model, { rank: 2, targets: ["to_q", "conv1"], seed: 5 });
  assertEquals(
    [...lora.layers].map(([path, { down, up }]) => [path, [...down.shape], [...up.shape]]),
    [
      ["down_blocks.0.attentions.0.to_q", [2, 4], [6, 2]],
      ["down_blocks.0.resnets.0.conv1", [3, 3, 4, 2], [1, 1, 2, 8]],
    ],
  );
  for (const { down, up } of lora.layers.values()) {
    assert((await down.data()).every((x) => x !== 0));
    assert((await up.data()).every((x) => x === 0));
  }
  const large = createLora(
    new Weights(new Map([["to_q.weight", zeros([8, 2000])]])),
    { rank: 5, targets: ["to_q"] },
  );
  const values = await large.layers.get("to_q")!.down.data() as Float32Array;
  const std = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
  assert(Math.abs(std * 5 - 1) < 0.03, `standard deviation ${std}, expected 1/5`);
});

Deno.test("lora: a target or rank that makes no sense is an error", () => {
  assertThrows(
    () => createLora(model, { rank: 2, targets: ["to_q", "to_x"] }),
    Error,
    'LoRA targets "to_x" name no linear or convolution layer of a tiny model',
  );
  assertThrows(() => createLora(model, { rank: 0 }), RangeError, "not 0");
});
