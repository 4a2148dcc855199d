/**
 * The keys of diffusers' `scheduler_config.json`, read with the types and the choices that are known
 * here. Absent keys and null are the same, as in diffusers.
 *
 * @module
 */
import type { Json } from "./config.ts";

/** A value that a key may have. */
type Choice = string | number | boolean;

/** A parsed `scheduler_config.json`, of any scheduler class. */
export class SchedulerConfig {
  /**
   * @param json The file's content.
   * @param source The file's name, for messages.
   * @throws {Error} When the content is not an object.
   */
  constructor(readonly json: Json, readonly source: string) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new Error(`${source} holds ${JSON.stringify(json)?.slice(0, 40)}; expected an object`);
    }
  }

  /** The class that the file was written for, if it says. */
  get className(): string | undefined {
    const name = this.json._class_name;
    return typeof name === "string" ? name : undefined;
  }

  /** @throws {Error} When the value is not a finite number. */
  number(key: string, fallback: number): number {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "number" || !Number.isFinite(value)) this.#fail(key, value, "a number");
    return value;
  }

  /** @throws {Error} When the value is not a number above 0. */
  positive(key: string, fallback: number): number {
    const value = this.number(key, fallback);
    if (value <= 0) this.#fail(key, value, "a number above 0");
    return value;
  }

  /** @throws {Error} When the value is not an integer in the range. */
  integer(key: string, fallback: number, min: number, max: number): number {
    const value = this.json[key] ?? fallback;
    if (!Number.isInteger(value) || value as number < min || value as number > max) {
      this.#fail(key, value, `an integer from ${min} to ${max}`);
    }
    return value as number;
  }

  /** @throws {Error} When the value is neither true nor false. */
  boolean(key: string, fallback: boolean): boolean {
    const value = this.json[key] ?? fallback;
    if (typeof value !== "boolean") this.#fail(key, value, "true or false");
    return value;
  }

  /**
   * One of the values that are implemented.
   *
   * @param fallback What diffusers takes when the key is absent; default: the first of `known`.
   * @throws {Error} When the value is another one.
   */
  choice<const C extends readonly Choice[]>(
    key: string,
    known: C,
    fallback: Choice = known[0]!,
  ): C[number] {
    const value = this.json[key] ?? fallback;
    if (!known.includes(value as Choice)) {
      const absent = this.json[key] == null ? " (diffusers' default)" : "";
      throw new Error(
        `${this.source}: "${key}" is ${JSON.stringify(value)}${absent}; ` +
          `known ${known.length === 1 ? "is" : "are"} ${known.join(", ")}`,
      );
    }
    return value as C[number];
  }

  #fail(key: string, value: unknown, expected: string): never {
    const found = typeof value === "number" ? value : JSON.stringify(value);
    throw new Error(`${this.source}: "${key}" is ${found}; expected ${expected}`);
  }
}
