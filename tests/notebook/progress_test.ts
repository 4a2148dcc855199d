/** The progress line, on a clock and a display of the test's own. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { duration, Progress } from "../../lib/notebook/progress.ts";

function recorder(interval: number) {
  const lines: { line: string; last: boolean }[] = [];
  return {
    lines,
    interval,
    show(line: string, last: boolean) {
      lines.push({ line, last });
    },
  };
}

Deno.test("the line has the share, the rate, the time left and the note", () => {
  let time = 0;
  const display = recorder(0);
  const progress = new Progress("dpo", { unit: "steps", display, now: () => time });
  time = 1000;
  progress.update(5, 100);
  time = 5000;
  progress.update(25, 100, "loss 0.693");
  assertEquals(display.lines.map(({ line }) => line), [
    "dpo [#...................] 5/100",
    "dpo [#####...............] 25/100  5.0 steps/s  15 s left  loss 0.693",
  ]);
  time = 20_000;
  progress.update(100, 100);
  assertEquals(display.lines[2]!.last, true);
  assertStringIncludes(display.lines[2]!.line, "took 20 s");
  progress.update(100, 100);
  assertEquals(display.lines.length, 3);
});

Deno.test("what an earlier process did is not part of the rate", () => {
  let time = 0;
  const display = recorder(0);
  const progress = new Progress("x", { unit: "steps", display, now: () => time });
  progress.update(90, 100);
  time = 10_000;
  progress.update(95, 100);
  assertStringIncludes(display.lines[1]!.line, "2.0 s per step  10 s left");
});

Deno.test("lines come no faster than the display wants, but the last one always comes", () => {
  let time = 0;
  const display = recorder(10_000);
  const progress = new Progress("x", { display, now: () => time });
  for (let i = 1; i <= 50; i++) {
    time = i * 1000;
    progress.update(i, 50);
  }
  assertEquals(display.lines.length, 6);
  assert(display.lines.at(-1)!.line.includes("50/50"));
});

Deno.test("a job that is over before the delay says nothing, a longer one tells its whole rate", () => {
  let time = 0;
  const display = recorder(0);
  const options = { unit: "MB", display, delay: 2000, now: () => time };
  const short = new Progress("x", options);
  const long = new Progress("y", options);
  time = 1000;
  short.update(1, 1);
  long.update(1, 3);
  assertEquals(display.lines, []);
  time = 2000;
  long.update(2, 3);
  assertStringIncludes(display.lines[0]!.line, "2/3  1.0 MB/s  1 s left");
  time = 9000;
  short.update(1, 1);
  long.update(3, 3);
  assertEquals(display.lines.map(({ line }) => line[0]), ["y", "y"]);
});

Deno.test("durations are words", () => {
  assertEquals([42.4, 185, 7800].map(duration), ["42 s", "3 min 05 s", "2 h 10 min"]);
});
