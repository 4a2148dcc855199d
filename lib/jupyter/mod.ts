/**
 * A real Jupyter, driven from TypeScript: Deno's kernel installed for it, a server started, notebooks
 * read, type-checked, executed and written.
 *
 * @module
 */
export * from "./cleanup.ts";
export * from "./client.ts";
export * from "./execute.ts";
export * from "./expected_outputs.ts";
export * from "./kernel_spec.ts";
export * from "./notebook.ts";
export * from "./server.ts";
export * from "./type_check.ts";
