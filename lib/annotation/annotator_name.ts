/**
 * The name under which a person votes. It is what tells people apart, so that the same person on
 * another device, whose keyboard writes capitals, must not become a second one.
 *
 * @module
 */

const most = 60;

/**
 * A name as it is stored: lower case, in one Unicode form, with single spaces.
 *
 * @param text As typed.
 * @throws {RangeError} if nothing is left of it, it is longer than 60 characters, or it has control
 * characters; the message is fit for the person.
 */
export function annotatorName(text: string): string {
  const name = text.normalize("NFC").toLowerCase().trim().replace(/ +/g, " ");
  if (name === "") throw new RangeError("Please enter a name: it is empty");
  if (name.length > most) {
    throw new RangeError(`Please enter a shorter name: ${most} characters at most`);
  }
  if (/[\p{Cc}\p{Zl}\p{Zp}]/u.test(name)) {
    throw new RangeError("Please enter a name without line breaks or control characters");
  }
  return name;
}
