/**
 * `deno task bench`: how fast the engine is, beside the machine's limit and beside PyTorch.
 *
 * @module
 */
import { cpus } from "node:os";
import { ClockedBackend, type HostShare, measureHostShare } from "../bench/host_share.ts";
import { benchJaxJs, countJaxRows, jaxJsDescription } from "../bench/jax_js.ts";
import { type Limit, measureLimit } from "../bench/limit.ts";
import { measure, type Timing } from "../bench/measure.ts";
import { benchPyTorch, type PyTorchResult } from "../bench/pytorch.ts";
import { type Workload, workloads } from "../bench/workloads.ts";
import { provenance, writeWhole } from "../experiments/run.ts";
import { type Backend, openDevice, setDevice } from "../tensor/mod.ts";
import { deviceOption, flag, integer, number, text } from "./options.ts";
import { Progress } from "../notebook/progress.ts";
import { runCommand } from "./run_command.ts";
import { UserError } from "./user_error.ts";

const command = {
  name: "bench",
  summary: "Measure kernels and one training step, beside the machine's limit and PyTorch.",
  options: {
    only: text({ description: "only rows whose name contains this", placeholder: "WORD" }),
    seconds: number({ description: "time per row", default: 1, min: 0, max: 3600 }),
    threads: integer({
      description: "threads, PyTorch's too; default: as many as there are processors",
      min: 1,
      max: 1024,
    }),
    python: text({
      description: "a Python with PyTorch (and diffusers and peft, for the training step)",
      placeholder: "PATH",
      default: "python3",
    }),
    "jax-js": flag({ description: "compare with jax-js too, fetched from npm" }),
    json: text({ description: "file for the numbers", placeholder: "FILE" }),
    device: deviceOption,
  },
  examples: [
    "deno task bench",
    "deno task bench --only gemm --jax-js --python .venv/bin/python --json bench.json",
  ],
};

/** Another library's time for a row. */
export interface Other {
  /** Its best time. */
  readonly seconds: number;
  /** Our best time over its: below 1 is faster. */
  readonly ratio: number;
}

/** One line of the table. */
export interface BenchRow extends Timing {
  readonly name: string;
  readonly shape: string;
  readonly gflops: number;
  /** Part of the machine's limit that was reached. */
  readonly ofLimit: number;
  /** Other libraries' times, by the libraries' names. */
  readonly others: Readonly<Record<string, Other>>;
}

/** Adds what another library needed for the same names and shapes. */
export function compare(
  rows: readonly BenchRow[],
  library: string,
  found: readonly { readonly name: string; readonly shape: string; readonly seconds: number }[],
): BenchRow[] {
  return rows.map((row) => {
    const same = found.find(({ name, shape }) => name === row.name && shape === row.shape);
    if (!same) return row;
    const other = { seconds: same.seconds, ratio: row.best / same.seconds };
    return { ...row, others: { ...row.others, [library]: other } };
  });
}

/** The table, columns aligned. */
export function benchTable(rows: readonly BenchRow[]): string {
  const libraries = [...new Set(rows.flatMap((row) => Object.keys(row.others)))];
  const cells = [
    [
      ...["kernel", "shape", "best ms", "median ms", "GFLOP/s", "of limit"],
      ...libraries.flatMap((library) => [`${library} ms`, "ratio"]),
    ],
    ...rows.map((row) => [
      row.name,
      row.shape,
      milliseconds(row.best),
      milliseconds(row.median),
      row.gflops.toFixed(1),
      percent(row.ofLimit),
      ...libraries.flatMap((library) => {
        const other = row.others[library];
        return other ? [milliseconds(other.seconds), `${other.ratio.toFixed(2)}x`] : ["", ""];
      }),
    ]),
  ];
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  return cells
    .map((row) =>
      row.map((cell, i) => i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ")
        .trimEnd()
    )
    .join("\n");
}

/** What JavaScript costs, in a sentence. */
export function hostShareLine({ step, outside, loop, share }: HostShare): string {
  return `JavaScript: ${percent(share)} of a replayed step of ${milliseconds(step)} ms ` +
    `(${milliseconds(outside)} ms outside the compiled plan, ` +
    `${milliseconds(loop)} ms its loop over the kernels)`;
}

function milliseconds(seconds: number): string {
  return (1000 * seconds).toFixed(3);
}

function percent(part: number): string {
  return `${(100 * part).toFixed(1)} %`;
}

/** Measures every workload on the current device. */
async function measureRows(
  chosen: readonly Workload[],
  options: { backend: ClockedBackend; limit: Limit; seconds: number },
  onRow: (done: number, name: string) => void,
): Promise<{ rows: BenchRow[]; host?: HostShare }> {
  const { backend, limit, seconds } = options;
  const rows: BenchRow[] = [];
  let host: HostShare | undefined;
  for (const [i, { name, shape, prepare }] of chosen.entries()) {
    onRow(i, name);
    const { run, flops, kernels, dispose } = await prepare();
    const timing = await measure(run, { seconds, backend });
    // On a GPU, running a plan is all JavaScript, beside which the kernels run.
    if (name === "ncp-dpo-step" && backend.name === "cpu") {
      host = await measureHostShare(run, kernels, { backend, seconds });
    }
    dispose();
    const speed = flops / timing.best;
    rows.push({
      name,
      shape,
      ...timing,
      gflops: speed / 1e9,
      ofLimit: speed / limit.flops,
      others: {},
    });
  }
  return { rows, ...host && { host } };
}

async function open(name: "auto" | "webgpu" | "cpu", threads: number): Promise<Backend> {
  try {
    return await openDevice(name, { threads });
  } catch (cause) {
    throw new UserError(`--device ${name}: ${(cause as Error).message}`, { cause });
  }
}

if (import.meta.main) {
  await runCommand(command, async ({ options }) => {
    const { only = "", seconds, python, json } = options;
    const threads = options.threads ?? navigator.hardwareConcurrency;
    const chosen = workloads.filter(({ name }) => name.includes(only));
    if (chosen.length === 0) {
      const names = [...new Set(workloads.map(({ name }) => name))];
      throw new UserError(
        `--only is "${only}", but no row has that in its name; there are ${names.join(", ")}`,
      );
    }
    const startedAt = new Date();
    const backend = new ClockedBackend(await open(options.device, threads));
    setDevice(backend);
    const processor = cpus()[0]?.model.trim() ?? "unknown processor";
    console.error(`Device: ${backend.name}, ${backend.description}; ${processor}`);

    // The others compute on the processor here, so a GPU has nothing to be compared with.
    const comparable = backend.name === "cpu";
    const jaxRows = comparable && options["jax-js"] ? countJaxRows(only) : 0;
    const total = 1 + chosen.length + jaxRows + (comparable ? chosen.length : 0);
    const progress = new Progress("bench", { unit: "rows" });
    progress.update(0, total, "the machine's limit");
    const limit = await measureLimit(threads, { seconds, backend });
    const { rows: measured, host } = await measureRows(
      chosen,
      { backend, limit, seconds },
      (done, name) => progress.update(1 + done, total, name),
    );
    backend.close();

    let done = 1 + chosen.length;
    let rows = measured;
    let torch: PyTorchResult = { rows: [] };
    const notes: string[] = [];
    if (comparable) {
      const follow = (library: string) => ({
        seconds,
        only,
        onRow: ({ name }: { readonly name: string }) =>
          progress.update(++done, total, `${library} ${name}`),
      });
      torch = await benchPyTorch({ python, threads, ...follow("PyTorch") });
      rows = compare(rows, "PyTorch", torch.rows);
      if (torch.note) notes.push(torch.note);
      // Last, as its threads stay.
      if (jaxRows > 0) {
        const jax = await benchJaxJs(follow("jax-js"));
        rows = compare(rows, "jax-js", jax.rows);
        if (jax.note) notes.push(jax.note);
      }
    } else {
      notes.push("not compared with other libraries: that is done on the cpu device only");
    }
    progress.update(total, total);

    console.log(benchTable(rows));
    console.log(`\nLimit: ${(limit.flops / 1e9).toFixed(1)} GFLOP/s: ${limit.description}`);
    if (host) console.log(hostShareLine(host));
    if (torch.rows.length > 0) {
      console.log(`PyTorch: ${torch.rows[0]!.torch}, ${threads} thread${threads === 1 ? "" : "s"}`);
    }
    const others = rows.flatMap((row) => Object.keys(row.others));
    if (others.includes("jax-js")) console.log(`jax-js: ${jaxJsDescription}`);
    if (others.length > 0) {
      console.log("Ratio: the best time over the other library's, below 1 is faster");
    }
    for (const note of notes) console.log(`Note: ${note}`);
    if (json) {
      const record = {
        provenance: provenance(backend.description, startedAt),
        processor,
        threads,
        limit: { gflops: limit.flops / 1e9, description: limit.description },
        ...host && { javascript: host },
        torch: torch.rows[0]?.torch ?? null,
        notes,
        rows,
      };
      await writeWhole(json, JSON.stringify(record, null, 2) + "\n");
      console.log(`Numbers in ${json}`);
    }
  });
}
