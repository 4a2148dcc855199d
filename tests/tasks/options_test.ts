/** The option parser: values, help and messages, from small declarations. */
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  choice,
  flag,
  HelpRequest,
  helpText,
  integer,
  nearest,
  number,
  parseOptions,
  text,
  texts,
} from "../../lib/tasks/options.ts";
import { UserError } from "../../lib/tasks/user_error.ts";

const command = {
  name: "train",
  summary: "Tune a LoRA.",
  positionals: [{
    name: "what",
    description: "what to do",
    choices: ["table1"],
    default: "table1",
  }],
  options: {
    method: choice(["dpo", "ncp-dpo"], { description: "the objective", default: "ncp-dpo" }),
    steps: integer({ description: "optimiser steps", default: 100, min: 1 }),
    lr: number({ description: "learning rate", min: 0 }),
    prompt: texts({ description: "a prompt" }),
    output: text({ description: "where the run goes", placeholder: "DIR" }),
    verbose: flag({ description: "say more" }),
  },
  examples: ["deno task train --method dpo"],
};

function message(args: string[]): string {
  return assertThrows(() => parseOptions(command, args), UserError).message;
}

Deno.test("options have their types, defaults and order", () => {
  const { options, positionals } = parseOptions(command, [
    "--steps=20",
    "--prompt",
    "a cat",
    "--prompt",
    "a dog",
    "--lr",
    "1e-3",
    "--verbose",
  ]);
  assertEquals(options, {
    method: "ncp-dpo",
    steps: 20,
    lr: 0.001,
    prompt: ["a cat", "a dog"],
    output: undefined,
    verbose: true,
  });
  assertEquals(positionals, ["table1"]);
});

Deno.test("an unknown option names the nearest known one and lists all", () => {
  assertStringIncludes(message(["--step", "3"]), "unknown option --step: did you mean --steps?");
  assertStringIncludes(message(["--mehtod=dpo"]), "did you mean --method?");
  assertStringIncludes(message(["--zzz"]), "--method, --steps, --lr");
});

Deno.test("a wrong value names the option and what is allowed", () => {
  assertStringIncludes(
    message(["--method", "ncp-dop"]),
    '--method is "ncp-dop", but it must be one of dpo, ncp-dpo: did you mean ncp-dpo?',
  );
  assertStringIncludes(message(["--steps", "0"]), "must be a whole number, at least 1");
  assertStringIncludes(message(["--steps", "1.5"]), '--steps is "1.5"');
  assertStringIncludes(message(["--lr", "fast"]), '--lr is "fast", but it must be a number');
  assertStringIncludes(message(["--lr", "-1"]), "at least 0");
  assertStringIncludes(message(["--method"]), "--method needs a value: dpo, ncp-dpo");
  assertStringIncludes(message(["--verbose=yes"]), "takes no value");
  assertStringIncludes(message(["--steps", "1", "--steps", "2"]), "given twice");
});

Deno.test("a wrong positional says what is known", () => {
  assertStringIncludes(message(["tabel1"]), "did you mean table1?");
  assertStringIncludes(message(["table1", "prompt"]), "did you mean --prompt?");
});

Deno.test("a repeated positional takes what there is, and its default when there is nothing", () => {
  const files = {
    name: "notebooks",
    summary: "Run notebooks.",
    positionals: [{ name: "path", description: "what to run", default: "all", repeated: true }],
    options: {},
  };
  const positionals = (...args: string[]) => parseOptions(files, args).positionals;
  assertEquals(positionals(), ["all"]);
  assertEquals(positionals("a", "b", "c"), ["a", "b", "c"]);
  assertStringIncludes(helpText(files), "Usage: deno task notebooks [path ...] [options]");
});

Deno.test("--help is asked for, and its text comes from the declaration", () => {
  assertThrows(() => parseOptions(command, ["--steps", "3", "--help"]), HelpRequest);
  assertThrows(() => parseOptions(command, ["-h"]), HelpRequest);
  const help = helpText(command);
  assertStringIncludes(help, "Usage: deno task train [what] [options]");
  assertStringIncludes(help, "the objective [dpo | ncp-dpo; default ncp-dpo]");
  assertStringIncludes(help, "a prompt (may be repeated)");
  assertStringIncludes(help, "deno task train --method dpo");
  assertEquals(help.split("\n").filter((line) => line.length > 100), []);
});

Deno.test("nearest proposes only what could have been meant", () => {
  assertEquals(nearest("guidence", ["guidance", "seed"]), "guidance");
  assertEquals(nearest("xyz", ["guidance", "seed"]), undefined);
});
