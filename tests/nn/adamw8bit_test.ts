import { assert, assertEquals, assertThrows } from "@std/assert";
import { adamwRate } from "../../lib/nn/adamw.ts";
import { adamw8bit, BLOCK, dynamicMap, initAdamW8bit } from "../../lib/nn/adamw8bit.ts";
import { openSafetensors } from "../../lib/nn/safetensors.ts";
import { decodeF16, jit, leavesOf, type Tensor, tensor } from "../../lib/tensor/mod.ts";
import { goldenCases, goldenPath, relativeError } from "../diffusion/golden.ts";
import { eachDevice } from "../tensor/devices.ts";

const [golden] = goldenCases("adamw8bit") as unknown as [{
  golden: string;
  lr: number;
  params: { name: string; steps: number }[];
}];
const file = await openSafetensors(goldenPath(golden.golden));

Deno.test("dynamicMap: agrees with bitsandbytes", async () => {
  for (const signed of [true, false]) {
    const expected = await file.read(`map.${signed ? "signed" : "unsigned"}`) as Float32Array;
    const error = relativeError(dynamicMap(signed), expected);
    assert(error < 1e-7, `relative error ${error}`);
  }
});

/** A golden array with zeros behind it up to a whole number of blocks. */
async function padded(name: string): Promise<Float32Array> {
  const raw = await file.read(name);
  const values = raw instanceof Uint16Array ? decodeF16(raw) : raw as Float32Array;
  const out = new Float32Array(Math.ceil(values.length / BLOCK) * BLOCK);
  out.set(values);
  return out;
}

for (const { name, steps } of golden.params.filter((p) => p.name !== "small")) {
  eachDevice(`adamw8bit: ${name} agrees with bitsandbytes' rule`, async () => {
    const first = await padded(`param.${name}.0`);
    const size = first.length;
    const step = jit((
      s: { parameters: Tensor; state: ReturnType<typeof initAdamW8bit> },
      args: { gradients: Tensor; rate: Tensor },
    ) => ({ state: adamw8bit(s.parameters, args.gradients, s.state, args.rate), result: [] }));
    const state = { parameters: tensor(first, [size]), state: initAdamW8bit(size) };
    for (let n = 1; n <= steps; n++) {
      const gradients = tensor(await padded(`grad.${name}.${n}`), [size]);
      await step(state, { gradients, rate: adamwRate(n, golden.lr) });
      const error = relativeError(
        await state.parameters.data(),
        await padded(`param.${name}.${n}`),
      );
      assert(error < 1e-5, `parameters after step ${n}: relative error ${error}`);
      for (
        const [kind, codes, scale, signed] of [
          ["m", state.state.mean, state.state.meanScale, true],
          ["v", state.state.square, state.state.squareScale, false],
        ] as const
      ) {
        const expected = await file.read(`${kind}.${name}.${n}`) as Uint8Array;
        const scales = await file.read(`${kind}_scale.${name}.${n}`) as Float32Array;
        assert(relativeError(await scale.data(), scales) < 1e-6, `${kind} scales, step ${n}`);
        // A value on the border of two codes may fall on either side by the last bit.
        const found = (await codes.data()).subarray(0, expected.length);
        const map = dynamicMap(signed);
        const off = expected.filter((code, i) =>
          Math.abs(map[code]! - map[found[i]!]!) > 1e-6
        ).length;
        assert(off <= expected.length / 1000, `${kind} after step ${n}: ${off} codes differ`);
      }
    }
    assertEquals(state.state.mean.dtype, "u8");
    step.dispose();
    leavesOf(state).forEach((t) => t.dispose());
  });
}

Deno.test("adamw8bit: parameters that fill no whole number of blocks are an error", () => {
  assertThrows(() => initAdamW8bit(300), RangeError, "a multiple of 256 parameters, found 300");
});
