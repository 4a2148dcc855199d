/**
 * A mistake that the person at the keyboard can mend: shown as one message, never as a stack trace.
 *
 * @module
 */

/**
 * An error whose message says what was given, what was expected and what to do about it.
 * {@linkcode runCommand} prints it alone and ends with exit code 2.
 */
export class UserError extends Error {
  override name = "UserError";
}
