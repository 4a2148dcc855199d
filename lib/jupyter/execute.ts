/**
 * A notebook run from its first cell to its last, as a person runs it.
 *
 * @module
 */
import type { Execution, KernelSession } from "./client.ts";
import { codeCells, type ErrorOutput, type Notebook } from "./notebook.ts";
import { kernelMetadata } from "./kernel_spec.ts";

/** How a notebook is run. */
export interface ExecuteOptions {
  /** Longest time that a cell may take, in seconds. Default: any. */
  readonly timeout?: number;
  /** Told before each code cell how many are done, and at the end. */
  readonly onCell?: (done: number, total: number) => void;
}

/** A cell that failed; the message names it by its number and its first line. */
export class CellError extends Error {
  override name = "CellError";
}

/**
 * Runs a notebook's code cells in order and puts their outputs in place of what they had.
 *
 * @param session A fresh kernel.
 * @param notebook The notebook; changed.
 * @param options How.
 * @throws {CellError} at the first cell that throws, takes too long or ends the kernel.
 */
export async function executeNotebook(
  session: KernelSession,
  notebook: Notebook,
  options: ExecuteOptions = {},
): Promise<void> {
  const cells = codeCells(notebook);
  for (const cell of cells) {
    cell.outputs = [];
    cell.execution_count = null;
  }
  for (const [i, cell] of cells.entries()) {
    options.onCell?.(i, cells.length);
    if (cell.source.trim() === "") continue;
    let execution: Execution;
    try {
      execution = await session.execute(cell.source, options.timeout);
    } catch (cause) {
      throw new CellError(`${cellTitle(i + 1, cell.source)}: ${(cause as Error).message}`, {
        cause,
      });
    }
    cell.outputs = execution.outputs;
    cell.execution_count = execution.count;
    if (!execution.succeeded) {
      throw new CellError(
        `${cellTitle(i + 1, cell.source)}\n${errorText(execution.outputs.at(-1) as ErrorOutput)}`,
      );
    }
  }
  options.onCell?.(cells.length, cells.length);
  notebook.metadata["kernelspec"] = { ...kernelMetadata };
  notebook.metadata["language_info"] = { ...session.languageInfo };
}

/**
 * A cell as messages name it: `cell 3 (const x = 1;)`.
 *
 * @param number The cell's number among the code cells, from 1.
 * @param source Its text.
 */
export function cellTitle(number: number, source: string): string {
  const first = source.split("\n").find((line) => line.trim() !== "")?.trim() ?? "";
  return `cell ${number} (${first.length > 60 ? first.slice(0, 57) + "..." : first})`;
}

/** The stack names the error already, where there is one. */
function errorText({ ename, evalue, traceback }: ErrorOutput): string {
  const stack = traceback.join("\n").trim();
  return stack.includes(evalue) && stack !== "" ? stack : `${ename}: ${evalue}\n${stack}`.trim();
}
