/**
 * PyTorch's times for the same work, where PyTorch is installed: `tests/golden/bench_torch.py` in a
 * Python of the user's.
 *
 * @module
 */

/** A row that the script prints. */
export interface PyTorchRow {
  readonly name: string;
  readonly shape: string;
  /** Best time. */
  readonly seconds: number;
  readonly gflops: number;
  readonly threads: number;
  /** PyTorch's version. */
  readonly torch: string;
}

/** What PyTorch did, or why there is nothing (more) to compare with. */
export interface PyTorchResult {
  readonly rows: readonly PyTorchRow[];
  readonly note?: string;
}

/** What {@linkcode benchPyTorch} runs. */
export interface PyTorchOptions {
  /** The interpreter. */
  readonly python: string;
  readonly threads: number;
  /** Time per row. */
  readonly seconds: number;
  /** Only rows whose name contains this. */
  readonly only: string;
  readonly onRow: (row: PyTorchRow) => void;
}

/** Runs the script. A Python that is missing or has no PyTorch gives a note, not an error. */
export async function benchPyTorch(options: PyTorchOptions): Promise<PyTorchResult> {
  const { python, threads, seconds, only, onRow } = options;
  const script = new URL("../../tests/golden/bench_torch.py", import.meta.url).pathname;
  try {
    const { success, stderr } = await new Deno.Command(python, {
      args: ["-c", "import torch"],
    }).output();
    if (!success) {
      return {
        rows: [],
        note: `not compared with PyTorch: ${python} can't import it (${lastLine(stderr)}). ` +
          `Name a Python that has it with --python PATH`,
      };
    }
  } catch (error) {
    return {
      rows: [],
      note: `not compared with PyTorch: ${python} can't be started (${
        error instanceof Error ? error.message : error
      })`,
    };
  }
  const args = [script, "--threads", `${threads}`, "--seconds", `${seconds}`, "--only", only];
  const child = new Deno.Command(python, { args, stdout: "piped", stderr: "piped" }).spawn();
  const errors = new Response(child.stderr).bytes();
  const rows: PyTorchRow[] = [];
  let rest = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("{")) continue;
      const row = JSON.parse(line) as PyTorchRow;
      rows.push(row);
      onRow(row);
    }
  }
  const { success } = await child.status;
  const why = lastLine(await errors);
  return success ? { rows } : { rows, note: `PyTorch's comparison ended early: ${why}` };
}

/** Where Python says what went wrong. */
function lastLine(stderr: Uint8Array): string {
  return new TextDecoder().decode(stderr).trim().split("\n").at(-1) ?? "";
}
