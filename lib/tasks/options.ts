/**
 * Command-line options as declarations: one record gives the parser, its types, the `--help` text
 * and the error messages.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { UserError } from "./user_error.ts";

/** One option: how its text becomes a value, and what `--help` says about it. */
export interface Option<T> {
  readonly description: string;
  /** What stands for the value in `--help`, such as `DIR`; a switch has none. */
  readonly placeholder?: string;
  /** The only accepted values, where there is a closed list. */
  readonly choices?: readonly string[];
  /** The default as `--help` shows it. */
  readonly shownDefault?: string;
  /** Whether the option may be given several times. */
  readonly multiple: boolean;
  /** The value of the option from all its occurrences; `name` is for error messages. */
  readonly read: (texts: readonly string[], name: string) => T;
}

/** The options of a command, by name without the dashes. */
// deno-lint-ignore no-explicit-any
export type OptionTable = Readonly<Record<string, Option<any>>>;

/** The values that an option table yields. */
export type Values<O extends OptionTable> = {
  readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never;
};

/** A positional argument of a command. */
export interface Positional {
  readonly name: string;
  readonly description: string;
  readonly choices?: readonly string[];
  /** Used when the argument is left out; without it the argument is required. */
  readonly default?: string;
  /** Whether further arguments are taken too; only the last positional may. */
  readonly repeated?: boolean;
}

/** A command: what `--help` prints and what {@linkcode parseOptions} accepts. */
export interface Command<O extends OptionTable = OptionTable> {
  readonly name: string;
  readonly summary: string;
  readonly positionals?: readonly Positional[];
  readonly options: O;
  /** Ready-to-run lines shown at the end of `--help`. */
  readonly examples?: readonly string[];
}

/** What a command line says. */
export interface Parsed<O extends OptionTable> {
  readonly options: Values<O>;
  readonly positionals: readonly string[];
}

/** Thrown by {@linkcode parseOptions} when the command line asks for `--help`. */
export class HelpRequest extends Error {
  override name = "HelpRequest";
}

interface Common<T> {
  readonly description: string;
  readonly placeholder?: string;
  readonly default?: T;
}

interface Range {
  /** Smallest accepted value. */
  readonly min?: number;
  /** Largest accepted value. */
  readonly max?: number;
}

/** Reads the last occurrence, or the default. */
function single<T>(fallback: T | undefined, parse: (text: string, name: string) => T) {
  return (texts: readonly string[], name: string): T =>
    texts.length > 0 ? parse(texts[texts.length - 1]!, name) : fallback as T;
}

/** An option that takes any text: a path, a prompt. */
export function text(spec: Common<string> & { default: string }): Option<string>;
export function text(spec: Common<string>): Option<string | undefined>;
export function text(spec: Common<string>): Option<string | undefined> {
  return {
    description: spec.description,
    placeholder: spec.placeholder ?? "TEXT",
    ...(spec.default === undefined ? {} : { shownDefault: spec.default }),
    multiple: false,
    read: single<string | undefined>(spec.default, (value, name) => {
      if (value === "") throw new UserError(`--${name} needs a value: it was given an empty one`);
      return value;
    }),
  };
}

/** An option that may be repeated; the values keep their order. */
export function texts(spec: Common<never>): Option<readonly string[]> {
  return {
    description: spec.description,
    placeholder: spec.placeholder ?? "TEXT",
    multiple: true,
    read: (values) => values,
  };
}

/** A number, in the range given. */
export function number(spec: Common<number> & Range & { default: number }): Option<number>;
export function number(spec: Common<number> & Range): Option<number | undefined>;
export function number(spec: Common<number> & Range): Option<number | undefined> {
  return numeric(spec, "a number", (value) => Number.isFinite(value));
}

/** A whole number, in the range given. */
export function integer(spec: Common<number> & Range & { default: number }): Option<number>;
export function integer(spec: Common<number> & Range): Option<number | undefined>;
export function integer(spec: Common<number> & Range): Option<number | undefined> {
  return numeric(spec, "a whole number", Number.isSafeInteger);
}

function numeric(
  spec: Common<number> & Range,
  kind: string,
  accepts: (value: number) => boolean,
): Option<number | undefined> {
  const bounds = [
    ...(spec.min === undefined ? [] : [`at least ${spec.min}`]),
    ...(spec.max === undefined ? [] : [`at most ${spec.max}`]),
  ].join(" and ");
  const expected = bounds ? `${kind}, ${bounds}` : kind;
  return {
    description: spec.description,
    placeholder: spec.placeholder ?? "N",
    ...(spec.default === undefined ? {} : { shownDefault: String(spec.default) }),
    multiple: false,
    read: single<number | undefined>(spec.default, (text, name) => {
      const value = text.trim() === "" ? NaN : Number(text);
      const inRange = value >= (spec.min ?? -Infinity) && value <= (spec.max ?? Infinity);
      if (!accepts(value) || !inRange) {
        throw new UserError(`--${name} is "${text}", but it must be ${expected}`);
      }
      return value;
    }),
  };
}

/** One value of a closed list. */
export function choice<const C extends readonly string[]>(
  choices: C,
  spec: Common<C[number]> & { default: C[number] },
): Option<C[number]>;
export function choice<const C extends readonly string[]>(
  choices: C,
  spec: Common<C[number]>,
): Option<C[number] | undefined>;
export function choice(
  choices: readonly string[],
  spec: Common<string>,
): Option<string | undefined> {
  return {
    description: spec.description,
    placeholder: spec.placeholder ?? "NAME",
    choices,
    ...(spec.default === undefined ? {} : { shownDefault: spec.default }),
    multiple: false,
    read: single<string | undefined>(spec.default, (value, name) => {
      if (!choices.includes(value)) throw new UserError(wrongChoice(`--${name}`, value, choices));
      return value;
    }),
  };
}

/** A switch: off unless given. */
export function flag(spec: { readonly description: string }): Option<boolean> {
  return {
    description: spec.description,
    multiple: false,
    read: (values) => values.length > 0,
  };
}

/** The device option that every computing command shares. */
export const deviceOption: Option<"auto" | "webgpu" | "cpu"> = choice(["auto", "webgpu", "cpu"], {
  description: "where to compute: auto takes a hardware GPU when there is one, else the CPU",
  default: "auto",
});

/**
 * Parses a command line.
 *
 * @param command The declaration.
 * @param args The arguments, without the program's name.
 * @throws {UserError} on an unknown option, a wrong or missing value, or a wrong positional.
 * @throws {HelpRequest} when `--help` or `-h` is among the arguments.
 *
 * @example
 * ```ts
 * import { choice, integer, parseOptions } from "./options.ts";
 *
 * const parsed = parseOptions({
 *   name: "train",
 *   summary: "Tune a LoRA",
 *   options: {
 *     method: choice(["dpo", "ncp-dpo"], { description: "the objective", default: "ncp-dpo" }),
 *     steps: integer({ description: "optimiser steps", default: 100, min: 1 }),
 *   },
 * }, ["--steps", "20"]);
 * console.log(parsed.options.steps + 1, parsed.options.method); // 21 "ncp-dpo"
 * ```
 */
export function parseOptions<O extends OptionTable>(
  command: Command<O>,
  args: readonly string[],
): Parsed<O> {
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      Object.entries(command.options).map(([name, option]) => [
        name,
        { type: isSwitch(option) ? "boolean" as const : "string" as const, multiple: true },
      ]),
    ),
    allowPositionals: true,
    strict: false,
    tokens: true,
  });
  const given = new Map<string, string[]>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") {
      positionals.push(token.value);
    } else if (token.kind === "option") {
      if (token.name === "help" || token.rawName === "-h") throw new HelpRequest();
      const option = Object.hasOwn(command.options, token.name)
        ? command.options[token.name]
        : undefined;
      if (!option) throw new UserError(unknownOption(token.rawName, command));
      if (isSwitch(option)) {
        if (token.value !== undefined) {
          throw new UserError(`--${token.name} is a switch: it takes no value ("${token.value}")`);
        }
      } else if (token.value === undefined) {
        const example = option.choices?.join(", ") ?? option.placeholder;
        throw new UserError(`--${token.name} needs a value: ${example}`);
      }
      const seen = given.get(token.name) ?? [];
      if (seen.length > 0 && !option.multiple) {
        throw new UserError(`--${token.name} is given twice: say it once`);
      }
      given.set(token.name, [...seen, token.value ?? ""]);
    }
  }
  const options = Object.fromEntries(
    Object.entries(command.options).map(([name, option]) => [
      name,
      option.read(given.get(name) ?? [], name),
    ]),
  );
  return { options: options as Values<O>, positionals: readPositionals(command, positionals) };
}

function isSwitch(option: Option<unknown>): boolean {
  return option.placeholder === undefined;
}

function readPositionals(command: Command, found: readonly string[]): readonly string[] {
  const declared = command.positionals ?? [];
  const further = declared.at(-1)?.repeated ? found.slice(declared.length) : [];
  if (found.length > declared.length + further.length) {
    const extra = found[declared.length]!;
    const options = Object.keys(command.options);
    const near = nearest(extra, options);
    throw new UserError(
      `unexpected argument "${extra}"` + (near ? `: did you mean --${near}?` : "") +
        `\n\n${usage(command)}`,
    );
  }
  const first = declared.map((positional, i) => {
    const value = found[i] ?? positional.default;
    if (value === undefined) {
      const among = positional.choices ? `: one of ${positional.choices.join(", ")}` : "";
      throw new UserError(`<${positional.name}> is missing${among}\n\n${usage(command)}`);
    }
    if (positional.choices && !positional.choices.includes(value)) {
      throw new UserError(wrongChoice(`<${positional.name}>`, value, positional.choices));
    }
    return value;
  });
  return [...first, ...further];
}

/**
 * The `--help` text of a command, made from its declaration.
 *
 * @param command The declaration.
 */
export function helpText(command: Command): string {
  const positionals = (command.positionals ?? []).map((p) => ({
    left: `<${p.name}>`,
    right: describe(p.description, p.choices, p.default),
  }));
  const options = Object.entries(command.options).map(([name, option]) => ({
    left: `--${name}${option.placeholder ? ` ${option.placeholder}` : ""}`,
    right: describe(
      option.description + (option.multiple ? " (may be repeated)" : ""),
      option.choices,
      option.shownDefault,
    ),
  }));
  const help = { left: "--help", right: "show this text" };
  const width = Math.max(...[...positionals, ...options, help].map((row) => row.left.length)) + 2;
  const rows = (list: { left: string; right: string }[]) =>
    list.map((row) => `  ${row.left.padEnd(width)}${wrap(row.right, 98 - width, width + 2)}`);
  return [
    command.summary,
    "",
    usage(command),
    ...(positionals.length ? ["", "Arguments:", ...rows(positionals)] : []),
    "",
    "Options:",
    ...rows([...options, help]),
    ...(command.examples?.length
      ? ["", "Examples:", ...command.examples.map((e) => `  ${e}`)]
      : []),
  ].join("\n");
}

function usage(command: Command): string {
  const positionals = (command.positionals ?? []).map((p) => {
    const name = p.repeated ? `${p.name} ...` : p.name;
    return p.default === undefined ? ` <${name}>` : ` [${name}]`;
  });
  return `Usage: deno task ${command.name}${positionals.join("")} [options]`;
}

function describe(description: string, choices?: readonly string[], fallback?: string): string {
  const notes = [
    ...(choices ? [choices.join(" | ")] : []),
    ...(fallback === undefined ? [] : [`default ${fallback}`]),
  ];
  return description + (notes.length ? ` [${notes.join("; ")}]` : "");
}

function wrap(words: string, width: number, indent: number): string {
  const lines = [""];
  for (const word of words.split(" ")) {
    const last = lines.length - 1;
    if (lines[last] === "") lines[last] = word;
    else if (lines[last]!.length + 1 + word.length <= width) lines[last] += ` ${word}`;
    else lines.push(word);
  }
  return lines.join(`\n${" ".repeat(indent)}`);
}

function unknownOption(raw: string, command: Command): string {
  const names = [...Object.keys(command.options), "help"];
  const near = nearest(raw.replace(/^-+/, ""), names);
  return `unknown option ${raw}` + (near ? `: did you mean --${near}?` : "") +
    `\nOptions of "${command.name}": ${names.map((n) => `--${n}`).join(", ")}`;
}

function wrongChoice(what: string, value: string, choices: readonly string[]): string {
  const near = nearest(value, choices);
  return `${what} is "${value}", but it must be one of ${choices.join(", ")}` +
    (near ? `: did you mean ${near}?` : "");
}

/**
 * The candidate with the smallest edit distance to a mistyped word, if it is close enough to be what
 * was meant.
 *
 * @param word The word as typed.
 * @param candidates The known words.
 */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: { candidate: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const begins = word.length > 1 && candidate.startsWith(word);
    const distance = begins ? 0.5 : editDistance(word, candidate);
    if (!best || distance < best.distance) best = { candidate, distance };
  }
  return best && best.distance <= Math.max(1, Math.floor(word.length / 3))
    ? best.candidate
    : undefined;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, substitution));
    }
    row = next;
  }
  return row[b.length]!;
}
