/**
 * What a cell's messages amount to: the outputs that a front end would show, kept as a notebook
 * stores them.
 *
 * @module
 */
import type { MimeBundle } from "../notebook/kernel.ts";
import type { DisplayOutput, Output, ResultOutput } from "./notebook.ts";

/** The part of a kernel's message that says something about outputs. */
export interface OutputMessage {
  /** Such as `display_data`. */
  readonly type: string;
  // deno-lint-ignore no-explicit-any
  readonly content: any;
}

/**
 * Outputs that can be replaced, by display id. All cells of a kernel share one, since a cell may
 * update what an earlier one showed.
 */
export type Displays = Map<string, Set<DisplayOutput | ResultOutput>>;

/** Collects the outputs of one cell. */
export class OutputCollector {
  readonly outputs: Output[] = [];
  /** Whether the next output takes the place of all there are. */
  #clearFirst = false;
  readonly #displays: Displays;

  /** @param displays What the kernel's cells have shown under an id. */
  constructor(displays: Displays = new Map()) {
    this.#displays = displays;
  }

  /**
   * Takes a message; one that says nothing about outputs changes nothing.
   *
   * @param message The message, in the order of arrival.
   */
  accept({ type, content }: OutputMessage): void {
    switch (type) {
      case "stream":
        this.#print(content.name, content.text);
        break;
      case "display_data":
        this.#add({
          output_type: "display_data",
          data: content.data,
          metadata: content.metadata ?? {},
        }, content.transient?.display_id);
        break;
      case "execute_result":
        this.#add({
          output_type: "execute_result",
          data: content.data,
          metadata: content.metadata ?? {},
          execution_count: content.execution_count,
        }, content.transient?.display_id);
        break;
      case "update_display_data":
        this.#update(content.transient?.display_id, content.data, content.metadata ?? {});
        break;
      case "error":
        this.#add({
          output_type: "error",
          ename: content.ename,
          evalue: content.evalue,
          traceback: content.traceback ?? [],
        });
        break;
      case "clear_output":
        if (content.wait) this.#clearFirst = true;
        else this.outputs.length = 0;
    }
  }

  /** Text follows the text before it, as long as nothing else stands between. */
  #print(name: "stdout" | "stderr", text: string): void {
    const last = this.#clearFirst ? undefined : this.outputs.at(-1);
    if (last?.output_type === "stream" && last.name === name) last.text += text;
    else this.#add({ output_type: "stream", name, text });
  }

  #add(output: Output, displayId?: string): void {
    if (this.#clearFirst) this.outputs.length = 0;
    this.#clearFirst = false;
    this.outputs.push(output);
    if (displayId === undefined || !("data" in output)) return;
    const shown = this.#displays.get(displayId) ?? new Set();
    this.#displays.set(displayId, shown.add(output));
  }

  #update(displayId: string, data: MimeBundle, metadata: Record<string, unknown>): void {
    for (const output of this.#displays.get(displayId) ?? []) {
      Object.assign(output, { data, metadata });
    }
  }
}
