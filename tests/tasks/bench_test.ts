/** The benchmark: its table, its two yardsticks, and the command from end to end. */
import { assert, assertAlmostEquals, assertEquals, assertStringIncludes } from "@std/assert";
import { ClockedBackend, emptyPlanSeconds, measureHostShare } from "../../lib/bench/host_share.ts";
import { measureLimit } from "../../lib/bench/limit.ts";
import { benchPyTorch } from "../../lib/bench/pytorch.ts";
import { type BenchRow, benchTable, compare } from "../../lib/tasks/bench.ts";
import { jit, setDevice, tensor } from "../../lib/tensor/mod.ts";
import { device, eachDevice } from "../tensor/devices.ts";

const row = (name: string, shape: string): BenchRow => ({
  name,
  shape,
  best: 0.002,
  median: 0.003,
  samples: 5,
  gflops: 40,
  ofLimit: 0.75,
  others: {},
});

Deno.test("rows are compared with another library's of the same name and shape", () => {
  const rows = [row("gemm", "8x8x8"), row("gemm", "9x9x9")];
  const found = [{ name: "gemm", shape: "8x8x8", seconds: 0.001 }];
  const [same, other] = compare(rows, "PyTorch", found) as [BenchRow, BenchRow];
  assertEquals(same.others, { PyTorch: { seconds: 0.001, ratio: 2 } });
  assertEquals(other, rows[1]);
  assertEquals(benchTable([same, other]).split("\n"), [
    "kernel  shape  best ms  median ms  GFLOP/s  of limit  PyTorch ms  ratio",
    "gemm    8x8x8    2.000      3.000     40.0    75.0 %       1.000  2.00x",
    "gemm    9x9x9    2.000      3.000     40.0    75.0 %",
  ]);
  assert(!benchTable(rows).includes("ratio"), "no column without a comparison");
});

eachDevice("the limit is measured", async (backend) => {
  for (const threads of [1, 2]) {
    const { flops } = await measureLimit(threads, { seconds: 0, backend });
    assert(flops > 1e7 && Number.isFinite(flops), `${flops}`);
  }
});

Deno.test("JavaScript's share of a step lies between nothing and all of it", async () => {
  const cpu = await device("cpu");
  const backend = new ClockedBackend(cpu);
  setDevice(backend);
  try {
    const step = jit((state: Record<never, never>, { x }: { x: ReturnType<typeof tensor> }) => ({
      state,
      result: x.matmul(x).exp(),
    }));
    const x = tensor(new Float32Array(64 * 64), [64, 64]);
    const run = async () => (await step({}, { x })).dispose();
    await run();
    const host = await measureHostShare(run, step.plan!.kernels, { backend, seconds: 0.01 });
    assert(host.outside > 0 && host.outside < host.step, JSON.stringify(host));
    assert(host.share > 0, JSON.stringify(host));
    assert(emptyPlanSeconds(backend, 100) > 0);
    step.dispose();
  } finally {
    setDevice(cpu);
  }
});

Deno.test("a Python that is missing or has no PyTorch is a note", async () => {
  const options = { threads: 1, seconds: 0, only: "", onRow: () => {} };
  // `deno -c ...` fails as a Python without PyTorch does.
  const without = await benchPyTorch({ ...options, python: "deno" });
  assertEquals(without.rows, []);
  assertStringIncludes(without.note!, "deno can't import it");
  assertStringIncludes(without.note!, "--python PATH");
  const missing = await benchPyTorch({ ...options, python: "no-such-python" });
  assertStringIncludes(missing.note!, "no-such-python can't be started");
});

async function bench(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", "bench", ...args],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  return { code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
}

Deno.test("deno task bench measures the rows asked for and writes them", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const json = `${folder}/bench.json`;
    const quick = ["--device", "cpu", "--threads", "1", "--seconds", "0"];
    const { code, stdout, stderr } = await bench(
      ...["--only", "groupnorm", "--python", "no-such-python", "--json", json, ...quick],
    );
    assertEquals(code, 0, stderr);
    assertStringIncludes(stdout, "groupnorm-silu  16x32x32x64");
    assertStringIncludes(stdout, "Limit: ");
    assertStringIncludes(stdout, "not compared with PyTorch: no-such-python can't be started");
    const { rows, limit, threads } = JSON.parse(await Deno.readTextFile(json));
    assertEquals(threads, 1);
    assertEquals(rows.length, 1);
    assertAlmostEquals(rows[0].ofLimit, rows[0].gflops / limit.gflops, 1e-9);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("deno task bench names the rows when a word fits none", async () => {
  const { code, stderr } = await bench("--only", "fft");
  assertEquals(code, 2);
  assertStringIncludes(stderr, "ncp-dpo-step");
});
