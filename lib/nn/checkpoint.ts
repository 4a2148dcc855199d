/**
 * A training's state in one file, replaced as a whole: a tree of tensors by path, and in the metadata
 * the step and the options that the run was started with.
 *
 * @module
 */
import { openSafetensors, type SafetensorsTensor, writeSafetensors } from "./safetensors.ts";
import { leavesOf, mapTree, type Tensor, tensor, type Tree } from "../tensor/mod.ts";

/** Options that determine what a run computes. */
export type RunIdentity = Readonly<Record<string, unknown>>;

const DTYPES = { f32: "F32", f16: "F16", i32: "I32", u8: "U8" } as const;

/**
 * Writes a checkpoint atomically.
 *
 * @param step Steps done.
 * @param state The state after them.
 */
export async function saveCheckpoint(
  path: string,
  step: number,
  state: Tree,
  identity: RunIdentity,
): Promise<void> {
  const entries = leavesOf(state).map((leaf, i): [string, SafetensorsTensor] => [
    `${i}`,
    { dtype: DTYPES[leaf.dtype], shape: leaf.shape, data: () => leaf.data() },
  ]);
  await writeSafetensors(path, new Map(entries), {
    step: `${step}`,
    options: JSON.stringify(identity),
  });
}

/**
 * Reads a checkpoint.
 *
 * @param like The state that a fresh run would start with: its form, shapes and types are expected.
 * @param identity The options asked for now.
 * @returns Nothing if there is no checkpoint.
 * @throws {Error} If the checkpoint is of a run with other options, which are named.
 */
export async function loadCheckpoint<S extends Tree>(
  path: string,
  like: S,
  identity: RunIdentity,
): Promise<{ step: number; state: S } | undefined> {
  try {
    await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
  const file = await openSafetensors(path);
  const started: RunIdentity = JSON.parse(file.metadata.options ?? "{}");
  const wanted: RunIdentity = JSON.parse(JSON.stringify(identity));
  const differing = [...new Set([...Object.keys(started), ...Object.keys(wanted)])]
    .filter((key) => JSON.stringify(started[key]) !== JSON.stringify(wanted[key]));
  if (differing.length > 0) {
    const list = differing.map((key) =>
      `${key} was ${JSON.stringify(started[key])} and is now ${JSON.stringify(wanted[key])}`
    );
    throw new Error(
      `${path} belongs to a run with other options (${list.join("; ")}): ` +
        `choose another folder, or delete this one to start again`,
    );
  }
  const leaves: Tensor[] = [];
  for (const [i, leaf] of leavesOf(like).entries()) {
    const entry = file.entries.get(`${i}`);
    if (entry?.dtype !== DTYPES[leaf.dtype] || `${entry.shape}` !== `${leaf.shape}`) {
      throw new Error(
        `${path}: tensor ${i} is ${entry?.dtype} [${entry?.shape}], ` +
          `but the model needs ${DTYPES[leaf.dtype]} [${leaf.shape}]: ` +
          `the run was started with another base model, so choose another folder`,
      );
    }
    const data = await file.read(`${i}`) as Float32Array | Uint8Array;
    leaves.push(tensor(data, leaf.shape, leaf.dtype));
  }
  return { step: Number(file.metadata.step), state: mapTree(like, (_, i) => leaves[i]!) };
}
