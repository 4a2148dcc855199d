/**
 * A thread of the measurement of the machine's limit: does its share of every round.
 *
 * @module
 */
/// <reference lib="deno.worker" />
import { takeUnits, type Task } from "./limit.ts";

let task: Task;

self.onmessage = ({ data }: MessageEvent<Task | "round">) => {
  if (data === "round") takeUnits(task);
  else task = data;
  self.postMessage("done");
};
