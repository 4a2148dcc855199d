/** What a cell's messages amount to. */
import { assertEquals } from "@std/assert";
import type { Output } from "../../lib/jupyter/notebook.ts";
import { OutputCollector, type OutputMessage } from "../../lib/jupyter/outputs.ts";

const print = (text: string, name = "stdout") => ({ type: "stream", content: { name, text } });
const display = (text: string, display_id?: string, type = "display_data") => ({
  type,
  content: { data: { "text/plain": text }, metadata: {}, transient: { display_id } },
});

function collect(...messages: OutputMessage[]): Output[] {
  const collector = new OutputCollector();
  for (const message of messages) collector.accept(message);
  return collector.outputs;
}

/** The words of outputs, for short comparisons. */
const words = (outputs: readonly Output[]) =>
  outputs.map((output) =>
    output.output_type === "stream"
      ? output.text
      : "data" in output
      ? output.data["text/plain"]
      : output.ename
  );

Deno.test("text follows text of the same stream until something stands between", () => {
  assertEquals(
    words(collect(print("a"), print("b"), print("c", "stderr"), print("d"), display("e"))),
    ["ab", "c", "d", "e"],
  );
});

Deno.test("results and errors are kept as nbformat has them", () => {
  const outputs = collect(
    { type: "status", content: { execution_state: "busy" } },
    { type: "execute_result", content: { data: { "text/plain": "2" }, execution_count: 3 } },
    { type: "error", content: { ename: "E", evalue: "bad", traceback: ["E: bad"] } },
  );
  assertEquals(outputs, [
    {
      output_type: "execute_result",
      data: { "text/plain": "2" },
      metadata: {},
      execution_count: 3,
    },
    { output_type: "error", ename: "E", evalue: "bad", traceback: ["E: bad"] },
  ]);
});

Deno.test("an update replaces every output of its id, those of earlier cells too", () => {
  const displays = new Map();
  const first = new OutputCollector(displays), second = new OutputCollector(displays);
  first.accept(display("1", "a"));
  second.accept(display("2", "a"));
  second.accept(display("3", "b"));
  second.accept(display("4", "a", "update_display_data"));
  second.accept(display("5", "unknown", "update_display_data"));
  assertEquals([words(first.outputs), words(second.outputs)], [["4"], ["4", "3"]]);
});

Deno.test("clearing happens at once, or waits for what comes next", () => {
  const clear = (wait: boolean) => ({ type: "clear_output", content: { wait } });
  assertEquals(words(collect(print("a"), clear(false))), []);
  assertEquals(words(collect(print("a"), clear(true))), ["a"]);
  assertEquals(words(collect(print("a"), clear(true), print("b"), print("c"))), ["bc"]);
});
