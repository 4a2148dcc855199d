/**
 * `deno task test`: runs the tests with the permissions they need and ends with one line of counts.
 *
 * @module
 */

/** How many tests passed and failed. */
export interface TestCounts {
  readonly passed: number;
  readonly failed: number;
}

/**
 * What the tests may do: read the repository, write where temporary files go, run `deno` for the
 * tests of whole commands and `jupyter` for those of notebooks, load sharp's native library, talk to
 * the servers that they start.
 */
const permissions = [
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys",
  "--allow-ffi",
  "--allow-run=deno,jupyter",
  "--allow-net=127.0.0.1",
];

/**
 * Counts the results in a JUnit report; ignored tests count as neither, test steps as tests.
 *
 * @param junit The report's XML.
 * @returns The counts; a report without test cases counts as one failure, since something that kept
 * the tests from running (a type error, a missing file) is not a success.
 */
export function countResults(junit: string): TestCounts {
  let passed = 0, failed = 0;
  for (const [, body = ""] of junit.matchAll(/<testcase\b[^>]*>([\s\S]*?)<\/testcase>/g)) {
    if (/<(failure|error)\b/.test(body)) failed++;
    else if (!/<skipped\b/.test(body)) passed++;
  }
  return passed + failed === 0 ? { passed, failed: 1 } : { passed, failed };
}

/**
 * Arguments for `deno test`: what the caller gave, and the whole suite unless a file was among it.
 *
 * @param args The arguments of the task.
 * @param report Where the JUnit report goes.
 * @param exists Whether a path exists.
 */
export function testArguments(
  args: readonly string[],
  report: string,
  exists: (path: string) => boolean,
): string[] {
  const named = args.some((arg) => !arg.startsWith("-") && exists(arg));
  return ["test", ...permissions, `--junit-path=${report}`, ...args, ...(named ? [] : ["tests"])];
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}

async function main(): Promise<number> {
  if (Deno.args.includes("--help") || Deno.args.includes("-h")) {
    console.log(
      "Run the tests.\n\nUsage: deno task test [FILE or FOLDER ...] [options of deno test]\n\n" +
        "Examples:\n  deno task test\n  deno task test tests/nn --filter lora\n\n" +
        "The last line counts the results: N passed, N failed.",
    );
    return 0;
  }
  const report = await Deno.makeTempFile({ suffix: ".xml" });
  try {
    const { code } = await new Deno.Command("deno", {
      args: testArguments(Deno.args, report, exists),
    }).spawn().status;
    const counts = countResults(await Deno.readTextFile(report));
    // A failure outside every test (an import that does not load) shows only in the exit code.
    const failed = code !== 0 && counts.failed === 0 ? 1 : counts.failed;
    console.log(`${counts.passed} passed, ${failed} failed`);
    return failed > 0 ? 1 : 0;
  } finally {
    await Deno.remove(report);
  }
}

if (import.meta.main) Deno.exit(await main());
