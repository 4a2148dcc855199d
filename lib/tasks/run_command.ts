/**
 * What surrounds every command: `--help`, exit codes, and errors a person can act on.
 *
 * @module
 */
import { type Command, HelpRequest, helpText, type OptionTable } from "./options.ts";
import { type Parsed, parseOptions } from "./options.ts";
import { UserError } from "./user_error.ts";

/** Faults in this code, as opposed to faults in what it was given: these keep their stack trace. */
const programmingErrors: readonly string[] = ["ReferenceError", "AssertionError"];

/**
 * Parses the arguments, runs the command and ends the process: 0 when it succeeded, 1 when it
 * failed, 2 when the command line was wrong.
 *
 * @param command The declaration of the command.
 * @param main What the command does; a number that it returns becomes the exit code.
 * @param args The arguments; those of the process unless given.
 */
export async function runCommand<O extends OptionTable>(
  command: Command<O>,
  main: (parsed: Parsed<O>) => Promise<number | void> | number | void,
  args: readonly string[] = Deno.args,
): Promise<never> {
  try {
    // Figures keep a DOM with timers alive, device backends keep threads: end explicitly.
    Deno.exit(await main(parseOptions(command, args)) ?? 0);
  } catch (error) {
    if (error instanceof HelpRequest) {
      console.log(helpText(command));
      Deno.exit(0);
    }
    console.error(errorText(error, command.name));
    Deno.exit(error instanceof UserError ? 2 : 1);
  }
}

/**
 * The text shown for an error: its message and the messages of its causes; the stack only when the
 * error is a fault of this code.
 *
 * @param error What was thrown.
 * @param name The command's name, for the hint at `--help`.
 */
export function errorText(error: unknown, name: string): string {
  if (error instanceof UserError) {
    return `error: ${error.message}\nSee: deno task ${name} --help`;
  }
  if (!(error instanceof Error)) return `error: ${String(error)}`;
  if (programmingErrors.includes(error.name) || isInternalTypeError(error)) {
    return `error: ${error.stack ?? error.message}`;
  }
  let text = `error: ${error.message}`;
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    // Many messages quote their cause already.
    if (!text.includes(cause.message)) text += `\n  because: ${cause.message}`;
  }
  return text;
}

/** V8's own wording ("x is not a function", "Cannot read properties of undefined") is never ours. */
function isInternalTypeError(error: Error): boolean {
  return error instanceof TypeError &&
    /is not a function|is not iterable|is not a constructor|^Cannot (read|set) prop|is not defined/
      .test(error.message);
}
