/**
 * `@std/assert`, typed, from its npm copy: one line to change where JSR is reachable.
 *
 * @module
 */
// @ts-types="./assert.d.ts"
export * from "npm:deno-std@1.4.0/assert/mod.js";
