/** The test command's counting and its arguments. */
import { assert, assertEquals } from "@std/assert";
import { countResults, testArguments } from "../../lib/tasks/test.ts";

Deno.test("a report's results are counted; ignored tests count as neither", () => {
  const junit = `<testsuites><testsuite>
    <testcase name="a" time="0.002">
    </testcase>
    <testcase name="b"><failure message="x">Error: &lt;testcase&gt;</failure></testcase>
    <testcase name="c"><skipped/></testcase>
    <testcase name="a &gt; step"></testcase>
  </testsuite></testsuites>`;
  assertEquals(countResults(junit), { passed: 2, failed: 1 });
});

Deno.test("a report without results is a failure", () => {
  assertEquals(countResults(""), { passed: 0, failed: 1 });
});

Deno.test("extra arguments pass through, and a file takes the place of the whole suite", () => {
  const exists = (path: string) => path === "tests/nn";
  assertEquals(testArguments(["--filter", "lora"], "r", exists).slice(-3), [
    "--filter",
    "lora",
    "tests",
  ]);
  const named = testArguments(["tests/nn"], "r", exists);
  assertEquals(named.at(-1), "tests/nn");
  assert(!named.includes("tests"));
});
