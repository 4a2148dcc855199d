/**
 * `jit`: record a step once, then replay it. The first call builds the graph, schedules it and plans
 * its memory; later calls only bind buffers and run the kernels.
 *
 * State (parameters, optimiser moments) is donated: the step writes the new values into the same
 * memory. Arguments are read. Results are new tensors that the caller owns.
 *
 * @module
 */
import type { Backend, DeviceBuffer, Program } from "./backend.ts";
import { getDevice } from "./device.ts";
import type { Kernel, Slot } from "./kernel.ts";
import { mapSlots, reads } from "./kernel.ts";
import { bindLeaves, externals, isDebugging, realize, runChecked, upload } from "./realize.ts";
import { type Schedule, schedule } from "./schedule.ts";
import { contiguousStrides, sameShape, show } from "./shape.ts";
import { byteLength, Tensor } from "./tensor.ts";

/** Tensors in arrays and records. */
export type Tree = Tensor | readonly Tree[] | { readonly [key: string]: Tree };

/** What a compiled step costs. */
export interface Plan {
  /** Kernels of one run. */
  readonly kernels: number;
  /** Bytes of intermediate values, on top of state, arguments and results. */
  readonly arenaBytes: number;
  /** The kernels themselves, for drawing and for tests. */
  readonly list: readonly Kernel[];
}

/** The memory that a step takes, in bytes. */
export interface Memory {
  /** Of the state and the arguments. */
  readonly inputs: number;
  /** Of tensors that the step closes over, weights and constants, whether they are on the device or not. */
  readonly closed: number;
  /** Of intermediate values. */
  readonly arena: number;
  /** Of the results. */
  readonly results: number;
}

/** A compiled step. */
export interface Jitted<S extends Tree, A extends Tree, R extends Tree> {
  /** Runs the step: `state` is updated in place. */
  (state: S, args: A): Promise<R>;
  /** The plan, once the first call has made it. */
  readonly plan: Plan | undefined;
  /** Plans the step for such a state and arguments without taking any memory, and says what it takes. */
  memory(state: S, args: A): Memory;
  /** Gives the plan's memory back. */
  dispose(): void;
}

/** The tensors of a tree, in order of their keys. */
export function leavesOf(tree: Tree): Tensor[] {
  if (tree instanceof Tensor) return [tree];
  if (Array.isArray(tree)) return tree.flatMap(leavesOf);
  return Object.keys(tree).sort().flatMap((key) => leavesOf((tree as Record<string, Tree>)[key]!));
}

/** A tree of the same form over other tensors, taken in order. */
export function mapTree<T extends Tree>(tree: T, fn: (leaf: Tensor, index: number) => Tensor): T {
  let index = 0;
  const walk = (t: Tree): Tree => {
    if (t instanceof Tensor) return fn(t, index++);
    if (Array.isArray(t)) return t.map(walk);
    const out: Record<string, Tree> = {};
    for (const key of Object.keys(t).sort()) out[key] = walk((t as Record<string, Tree>)[key]!);
    return out;
  };
  return walk(tree) as T;
}

/** Everything that can be found out without a device's memory. */
interface Planned<R extends Tree> {
  readonly schedule: Schedule;
  readonly kernels: readonly Kernel[];
  /** The schedule, with only those leaves that are neither state nor arguments. */
  readonly closed: Schedule;
  readonly inputSlots: readonly (number | undefined)[];
  readonly inputShapes: readonly Tensor[];
  readonly resultSlots: readonly number[];
  readonly result: R;
}

/** Everything that the first call finds out. */
interface Recording<R extends Tree> extends Planned<R> {
  readonly backend: Backend;
  readonly program: Program;
  /** Buffers of the closed-over leaves: host constants and weights. */
  readonly fixed: ReadonlyMap<number, DeviceBuffer>;
  readonly constants: readonly DeviceBuffer[];
}

/**
 * Compiles a step `(state, args) => { state, result }`.
 *
 * @example
 * ```ts
 * import { jit, tensor } from "./mod.ts";
 * const step = jit((state: { sum: Tensor }, args: { x: Tensor }) => ({
 *   state: { sum: state.sum.add(args.x) },
 *   result: { double: args.x.mul(2) },
 * }));
 * import type { Tensor } from "./mod.ts";
 * const state = { sum: tensor([0], [1]) };
 * await step(state, { x: tensor([1], [1]) });
 * await step(state, { x: tensor([2], [1]) });
 * console.log(await state.sum.item()); // 3
 * ```
 */
export function jit<S extends Tree, A extends Tree, R extends Tree>(
  fn: (state: S, args: A) => { state: S; result: R },
): Jitted<S, A, R> {
  let planned: Planned<R> | undefined;
  let recording: Recording<R> | undefined;

  const memory = (state: S, args: A): Memory => {
    const backend = getDevice();
    planned ??= planStep(fn, state, args, backend);
    const bytes = (tensors: readonly Tensor[]) =>
      tensors.reduce((sum, t) => sum + byteLength(t.shape, t.dtype), 0);
    return {
      inputs: bytes(planned.inputShapes),
      closed: bytes(planned.closed.leaves.map(({ tensor }) => tensor)),
      arena: backend.arenaBytes(planned.kernels, planned.schedule.slots),
      results: bytes(leavesOf(planned.result)),
    };
  };

  const run = async (state: S, args: A): Promise<R> => {
    const backend = getDevice();
    const stateLeaves = leavesOf(state);
    const argLeaves = leavesOf(args);
    await realize(...stateLeaves, ...argLeaves.filter((t) => t.source && t.source.op !== "host"));
    planned ??= planStep(fn, state, args, backend);
    const r = recording ??= record(planned, backend);
    const inputs = [...stateLeaves, ...argLeaves];
    checkInputs(inputs, r.inputShapes);
    const bound = new Map(r.fixed);
    const temporary: DeviceBuffer[] = [];
    const owned: DeviceBuffer[] = [];
    try {
      inputs.forEach((t, i) => {
        const slot = r.inputSlots[i];
        if (slot === undefined) return;
        if (t.storage) bound.set(slot, t.storage.buffer);
        else {
          const buffer = upload(backend, t);
          temporary.push(buffer);
          bound.set(slot, buffer);
        }
      });
      const results = leavesOf(r.result);
      r.resultSlots.forEach((slot, i) => {
        const buffer = backend.allocate(byteLength(results[i]!.shape, results[i]!.dtype));
        owned.push(buffer);
        bound.set(slot, buffer);
      });
      if (isDebugging()) {
        await runChecked(backend, { ...r.schedule, kernels: r.kernels }, bound);
      } else r.program.run(externals(r.schedule).map((slot) => bound.get(slot)!));
    } catch (error) {
      for (const buffer of owned) backend.free(buffer);
      throw error;
    } finally {
      for (const buffer of temporary) backend.free(buffer);
    }
    return mapTree(r.result, (leaf, i) => {
      const out = new Tensor({ op: "input" }, [], leaf.shape, leaf.dtype);
      out.settle({ backend, buffer: owned[i]! });
      return out;
    });
  };

  const dispose = () => {
    planned = undefined;
    if (!recording) return;
    recording.program.dispose();
    for (const buffer of recording.constants) recording.backend.free(buffer);
    recording = undefined;
  };
  const plan = (): Plan | undefined =>
    recording && {
      kernels: recording.kernels.length,
      arenaBytes: recording.program.arenaBytes,
      list: recording.kernels,
    };
  // A getter, since `Object.assign` would copy what the plan is now.
  return Object.defineProperty(Object.assign(run, { plan: plan(), memory, dispose }), "plan", {
    get: plan,
  });
}

function planStep<S extends Tree, A extends Tree, R extends Tree>(
  fn: (state: S, args: A) => { state: S; result: R },
  state: S,
  args: A,
  backend: Backend,
): Planned<R> {
  const placeholder = (t: Tensor) => new Tensor({ op: "input" }, [], t.shape, t.dtype);
  const stateIn = mapTree(state, placeholder);
  const argsIn = mapTree(args, placeholder);
  const out = fn(stateIn, argsIn);
  const before = leavesOf(stateIn);
  const after = leavesOf(out.state);
  if (after.length !== before.length) {
    throw new RangeError(
      `jit: the state has ${before.length} tensors, the new one ${after.length}`,
    );
  }
  after.forEach((t, i) => {
    const old = before[i]!;
    if (!sameShape(t.shape, old.shape) || t.dtype !== old.dtype) {
      throw new RangeError(
        `jit: state tensor ${i} was ${old.dtype} ${show(old.shape)}, the new one is ${t.dtype} ${
          show(t.shape)
        }`,
      );
    }
  });
  const results = leavesOf(out.result);
  const changed = after.flatMap((t, i) => t === before[i] ? [] : [i]);
  // Every output needs memory of its own: a value returned twice, or an input, is passed through a view.
  const seen = new Set<Tensor>();
  const own = (t: Tensor) => {
    const fresh = seen.has(t) || !t.source || t.source.op === "host" || t.source.op === "input";
    const unique = fresh ? new Tensor({ op: "stopGradient" }, [t], t.shape, t.dtype) : t;
    seen.add(unique);
    return unique;
  };
  const outputs = [...changed.map((i) => own(after[i]!)), ...results.map(own)];
  const plan = schedule(outputs, { fuse: !isDebugging(), maxInputs: backend.maxInputs });
  const slotOf = new Map(plan.leaves.map(({ slot, tensor }) => [tensor, slot]));
  const inputs = [...before, ...leavesOf(argsIn)];
  const donated = donate(
    plan,
    changed.map((i, k) => ({
      to: slotOf.get(before[i]!),
      from: plan.outputs[k]!,
      leaf: before[i]!,
    })),
  );
  const inputSlots = inputs.map((t) => donated.slotOf.get(t) ?? slotOf.get(t));
  const given = new Set(inputs);
  return {
    schedule: { ...plan, slots: donated.slots },
    kernels: donated.kernels,
    closed: { ...plan, leaves: plan.leaves.filter(({ tensor }) => !given.has(tensor)) },
    inputSlots,
    inputShapes: inputs,
    resultSlots: plan.outputs.slice(changed.length),
    result: out.result,
  };
}

function record<R extends Tree>(planned: Planned<R>, backend: Backend): Recording<R> {
  const constants: DeviceBuffer[] = [];
  const fixed = bindLeaves(backend, planned.closed, (leaf) => {
    if (leaf.source?.op === "input") {
      throw new Error(`jit: a tensor of shape ${show(leaf.shape)} belongs to another step`);
    }
    const buffer = upload(backend, leaf);
    constants.push(buffer);
    return buffer;
  });
  try {
    const program = backend.compile(planned.kernels, planned.schedule.slots);
    return { ...planned, backend, program, fixed, constants };
  } catch (error) {
    for (const buffer of constants) backend.free(buffer);
    throw error;
  }
}

/**
 * Lets new state land in the old state's memory: directly where every kernel from the first write on
 * reads the old value only at the element it writes, through a copy at the end otherwise.
 */
function donate(
  plan: Schedule,
  pairs: readonly { to: number | undefined; from: number; leaf: Tensor }[],
): { kernels: Kernel[]; slots: Slot[]; slotOf: Map<Tensor, number> } {
  const { kernels } = plan;
  const slots = [...plan.slots];
  const slotOf = new Map<Tensor, number>();
  const renamed = new Map<number, number>();
  const copies: Kernel[] = [];
  const readers = new Map<number, number[]>();
  const firstWrite = new Map<number, number>();
  kernels.forEach((k, i) => {
    for (const { slot } of reads(k)) {
      const list = readers.get(slot);
      if (list) list.push(i);
      else readers.set(slot, [i]);
    }
    if (!firstWrite.has(k.output.slot)) firstWrite.set(k.output.slot, i);
  });
  for (const { to, from, leaf } of pairs) {
    if (to === undefined) {
      // The old value is never read: the new one simply takes its place.
      slotOf.set(leaf, from);
      continue;
    }
    const first = firstWrite.get(from)!;
    const inPlace = (readers.get(to) ?? []).every((i) => {
      const k = kernels[i]!;
      return i < first ||
        (i === first && k.kind === "map" &&
          k.inputs.every((a) => a.slot !== to || sameWalk(a, k.output)));
    });
    if (inPlace) {
      renamed.set(from, to);
      slots[from] = { kind: "arena", bytes: 0, first: 0, last: 0 };
    } else {
      slots[from] = {
        kind: "arena",
        bytes: plan.slots[from]!.bytes,
        first,
        last: kernels.length + pairs.length,
      };
      const access = {
        dtype: leaf.dtype,
        strides: contiguousStrides([leaf.size]),
        offset: 0,
      };
      copies.push({
        kind: "map",
        name: `donate[${leaf.shape.join("x")}]`,
        shape: [leaf.size],
        inputs: [{ ...access, slot: from }],
        output: { ...access, slot: to },
        expr: {
          kind: "load",
          type: leaf.dtype === "i32" || leaf.dtype === "u8" ? "i32" : "f32",
          input: 0,
        },
      });
    }
  }
  const moved = kernels.map((k) => mapSlots(k, (slot) => renamed.get(slot) ?? slot));
  const all = [...moved, ...copies];
  const trimmed = slots.map((s) =>
    s.kind === "arena" && s.last >= all.length ? { ...s, last: all.length - 1 } : s
  );
  return { kernels: all, slots: trimmed, slotOf };
}

function sameWalk(
  a: { strides: readonly number[]; offset: number },
  b: { strides: readonly number[]; offset: number },
): boolean {
  return a.offset === b.offset && a.strides.every((s, i) => s === b.strides[i]);
}

function checkInputs(given: readonly Tensor[], expected: readonly Tensor[]): void {
  if (given.length !== expected.length) {
    throw new RangeError(
      `jit: the step was recorded with ${expected.length} tensors, got ${given.length}`,
    );
  }
  given.forEach((t, i) => {
    const e = expected[i]!;
    if (!sameShape(t.shape, e.shape) || t.dtype !== e.dtype) {
      throw new RangeError(
        `jit: tensor ${i} was recorded as ${e.dtype} ${show(e.shape)}, got ${t.dtype} ${
          show(t.shape)
        }; make another step for other shapes`,
      );
    }
  });
}
