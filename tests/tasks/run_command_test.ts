/** What a person sees of an error. */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { errorText } from "../../lib/tasks/run_command.ts";
import { UserError } from "../../lib/tasks/user_error.ts";

Deno.test("a user's error is its message and the way to the help", () => {
  assertEquals(
    errorText(new UserError("--steps is wrong"), "train"),
    "error: --steps is wrong\nSee: deno task train --help",
  );
});

Deno.test("a failure shows its message and causes, no stack", () => {
  const error = new Error("unet.safetensors is truncated", {
    cause: new Error("12 bytes missing"),
  });
  assertEquals(
    errorText(error, "train"),
    "error: unet.safetensors is truncated\n  because: 12 bytes missing",
  );
  const quoting = new Error("a.parquet: no such file", { cause: new Error("no such file") });
  assertEquals(errorText(quoting, "train"), "error: a.parquet: no such file");
});

Deno.test("a fault of the code keeps its stack", () => {
  try {
    (undefined as unknown as { x: number }).x;
  } catch (error) {
    assertStringIncludes(errorText(error, "train"), "run_command_test.ts");
  }
  assert(!errorText(new TypeError("expected f32, found i64"), "train").includes("    at "));
});
