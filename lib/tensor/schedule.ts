/**
 * The scheduler: turns a lazy graph into a short list of kernels over slots.
 *
 * Elementwise work is never a kernel of its own if it can ride along: it becomes the prologue of the
 * reduction it feeds, the epilogue of the contraction or reduction that feeds it, or part of one
 * larger expression. Views cost nothing where the consumer can walk them. What is left gets a slot.
 *
 * @module
 */
import type { Access, DType, Epilogue, Expr, Kernel, Slot } from "./kernel.ts";
import { reads } from "./kernel.ts";
import type { Movement, Shape, View } from "./shape.ts";
import {
  collapse,
  contiguousStrides,
  contiguousView,
  isContiguous,
  moveView,
  sameShape,
} from "./shape.ts";
import { byteLength, type Source, type Tensor } from "./tensor.ts";

/** Kernels in order, their slots, and the tensors that the external slots stand for. */
export interface Schedule {
  readonly kernels: readonly Kernel[];
  readonly slots: readonly Slot[];
  /** One per external slot that is only read: a realised tensor, host data, or a step's input. */
  readonly leaves: readonly { readonly slot: number; readonly tensor: Tensor }[];
  /** The slot of each requested output: an external one of its own, or a leaf's. */
  readonly outputs: readonly number[];
}

/** What a scheduler may do. */
export interface ScheduleOptions {
  /** `false` gives every operation a kernel of its own, for debugging. */
  readonly fuse?: boolean;
  /** The most slots that a kernel may read. */
  readonly maxInputs?: number;
}

/** Inlining repeats work in every consumer, so only expressions up to this many operations are repeated. */
const CHEAP = 6;

/**
 * An expression is computed in one piece up to this many operations, and this many one after the
 * other, so that kernels stay compilable.
 */
const LARGEST = 160;

type Typed = "f32" | "i32";

const typeOf = (dtype: DType): Typed => dtype === "i32" || dtype === "u8" ? "i32" : "f32";

/** Operations that compute one output element from the same element of each input. */
function isMap(node: Tensor): boolean {
  switch (node.source?.op) {
    case "unary":
    case "binary":
    case "where":
    case "cast":
    case "take":
    case "stopGradient":
    case "project":
      return true;
    default:
      return false;
  }
}

const isLeaf = (node: Tensor) =>
  !node.source || node.source.op === "host" || node.source.op === "input";

/** Narrow storage rounds, so such values must really be stored. */
const rounds = (node: Tensor) =>
  node.source?.op === "cast" && (node.dtype === "f16" || node.dtype === "u8");

/** Contractions and reductions that can end in an epilogue. */
function isGuest(node: Tensor): boolean {
  const source = node.source;
  if (node.dtype !== "f32") return false;
  return source?.op === "matmul" || source?.op === "sum" || source?.op === "max" ||
    (source?.op === "conv2d" && source.variant !== "weight");
}

/** The nodes that a node's value is computed from. */
function sourcesOf(node: Tensor): readonly Tensor[] {
  return node.source?.op === "project" ? [node.inputs[1]!] : node.inputs;
}

/** Every node needed for the outputs, oldest first. */
function collect(outputs: readonly Tensor[]): Tensor[] {
  const seen = new Set<Tensor>(outputs);
  const stack = [...seen];
  while (stack.length > 0) {
    for (const input of sourcesOf(stack.pop()!)) {
      if (!seen.has(input)) {
        seen.add(input);
        stack.push(input);
      }
    }
  }
  return [...seen].sort((a, b) => a.id - b.id);
}

/** Where a value is wanted: the kernel it would ride in, and by which view; "buffer" wants memory. */
type Use = string;

class Scheduler {
  readonly kernels: Kernel[] = [];
  readonly slots: { external: boolean; bytes: number; first: number; last: number }[] = [];
  readonly leaves: { slot: number; tensor: Tensor }[] = [];
  readonly #slotOf = new Map<Tensor, number>();
  readonly #stored = new Set<Tensor>();
  /** Contractions and reductions that ride in the kernel of the map that follows them. */
  readonly #hosted = new Map<Tensor, Tensor>();
  readonly #guestOf = new Map<Tensor, Tensor>();
  readonly #fuse: boolean;
  readonly #maxInputs: number;

  constructor(nodes: readonly Tensor[], outputs: readonly Tensor[], options: ScheduleOptions) {
    this.#fuse = options.fuse ?? true;
    this.#maxInputs = options.maxInputs ?? Infinity;
    this.#decide(nodes, outputs);
  }

  /** Decides which nodes get memory, and which contractions and reductions take an epilogue. */
  #decide(nodes: readonly Tensor[], outputs: readonly Tensor[]): void {
    const cost = inlineCosts(nodes);
    const uses = new Map<Tensor, Set<Use>>();
    const use = (node: Tensor, as: Use) => {
      const set = uses.get(node);
      if (set) set.add(as);
      else uses.set(node, new Set([as]));
    };
    const wanted = new Set(outputs);
    for (const node of outputs) use(node, "buffer");
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]!;
      if (isLeaf(node)) continue;
      const source = node.source!;
      const mine = uses.get(node) ?? new Set<Use>();
      if (source.op === "move") {
        if (wanted.has(node)) this.#stored.add(node);
        for (const u of wanted.has(node) ? [`${node.id}`] : mine) {
          use(node.inputs[0]!, u === "buffer" ? u : `${u}/${node.id}`);
        }
        continue;
      }
      if (source.op === "constant") {
        if (wanted.has(node)) this.#stored.add(node);
        continue;
      }
      const alias = source.op === "stopGradient" || source.op === "project";
      const stored = mine.has("buffer") || !isMap(node) || rounds(node) ||
        isLong(cost.get(node)!) ||
        (!alias && (!this.#fuse || (mine.size > 1 && !isCheap(cost.get(node)!))));
      if (stored) this.#stored.add(node);
      for (const [k, input] of sourcesOf(node).entries()) {
        if (!isMap(node)) {
          const prologue = source.op === "sum" || source.op === "max" || source.op === "concat";
          use(input, prologue && this.#fuse ? `${node.id}:${k}` : "buffer");
        } else if (stored) {
          // The table of a `take` is read at computed places, so it must lie in memory.
          use(input, source.op === "take" && k === 0 ? "buffer" : `${node.id}`);
        } else {
          for (const u of mine) use(input, source.op === "take" && k === 0 ? "buffer" : u);
        }
      }
    }
    if (this.#fuse) this.#host(nodes, uses);
  }

  #host(nodes: readonly Tensor[], uses: ReadonlyMap<Tensor, ReadonlySet<Use>>): void {
    const byId = new Map(nodes.map((n) => [n.id, n]));
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]!;
      const mine = uses.get(node);
      if (!isGuest(node) || !mine || mine.size !== 1) continue;
      const root = byId.get(Number([...mine][0]!.split("/")[0]));
      if (!root || !isMap(root) || this.#hosted.has(root)) continue;
      if (root.size !== node.size || rounds(root) || root.dtype !== "f32") continue;
      this.#hosted.set(root, node);
      this.#guestOf.set(node, root);
      this.#stored.delete(node);
      // The epilogue walks the guest's own coordinates; where a view can't, the guest keeps its memory.
      if (!this.#epilogueOf(root, node).build()) this.#part(root, node);
    }
  }

  #epilogueOf(root: Tensor, guest: Tensor): Expression {
    const moves: Step[] = sameShape(root.shape, guest.shape)
      ? []
      : [{ move: { kind: "reshape", shape: guest.shape } }];
    return new Expression(this, guest.shape, root, { moves, self: true, acc: guest });
  }

  #part(root: Tensor, guest: Tensor): void {
    this.#hosted.delete(root);
    this.#guestOf.delete(guest);
    this.#stored.add(guest);
  }

  /** Whether a node's value lies in memory of its own. */
  stored(node: Tensor): boolean {
    return isLeaf(node) || this.#stored.has(node);
  }

  /** Forces a node into memory; for views that no kernel can walk. */
  store(node: Tensor): void {
    this.#stored.add(node);
  }

  hosted(root: Tensor): Tensor | undefined {
    return this.#hosted.get(root);
  }

  newSlot(bytes: number, external = false): number {
    return this.slots.push({ external, bytes, first: -1, last: -1 }) - 1;
  }

  /** The slot that holds a stored node's value, emitting its kernels first if they are missing. */
  slot(node: Tensor): number {
    const known = this.#slotOf.get(node);
    if (known !== undefined) return known;
    const slot = this.newSlot(byteLength(node.shape, node.dtype), isLeaf(node));
    this.#slotOf.set(node, slot);
    if (isLeaf(node)) this.leaves.push({ slot, tensor: node });
    else this.#emit(node, slot);
    return slot;
  }

  #emit(node: Tensor, slot: number): void {
    const guest = this.#hosted.get(node);
    if (guest) {
      // A view that turned out impossible after all parts the two again.
      const expression = this.#epilogueOf(node, guest);
      const built = expression.build();
      if (built && expression.inputs.length + 4 <= this.#maxInputs) {
        expression.place();
        const epilogue = { inputs: expression.accesses(), expr: built };
        this.#emitKernel(guest, slot, node.dtype, epilogue);
        return;
      }
      this.#part(node, guest);
    }
    const source = node.source!;
    if (isMap(node) || source.op === "constant" || source.op === "move") {
      const strides = contiguousStrides(node.shape);
      this.#emitMap(node, { slot, dtype: node.dtype, strides, offset: 0 }, true);
    } else this.#emitKernel(node, slot, node.dtype);
  }

  /** Builds an expression, forcing nodes into memory until every view can be walked. */
  #express(
    shape: Shape,
    root: Tensor,
    moves: readonly Step[],
    self: boolean,
    most = this.#maxInputs,
  ) {
    for (;;) {
      const expression = new Expression(this, shape, root, { moves, self });
      const expr = expression.build();
      if (!expr) continue;
      if (expression.inputs.length > most) {
        this.store(expression.middle());
        continue;
      }
      expression.place();
      return { expr, inputs: expression.accesses() };
    }
  }

  /** One elementwise kernel that writes a node's value; `self` when it is the node's own kernel. */
  #emitMap(node: Tensor, output: Access, self: boolean): void {
    const shape = node.shape;
    const { expr, inputs } = this.#express(shape, node, [], self);
    const merged = collapse(shape, [output.strides, ...inputs.map((a) => a.strides)]);
    const [out, ...ins] = merged.walks;
    this.#push({
      kind: "map",
      name: nameOf(node),
      shape: merged.shape,
      inputs: inputs.map((a, i) => ({ ...a, strides: ins[i]! })),
      output: { ...output, strides: out! },
      expr,
    });
  }

  #emitKernel(node: Tensor, slot: number, dtype: DType, epilogue?: Epilogue): void {
    const source = node.source!;
    const extra = epilogue ? { epilogue } : {};
    const whole = (shape: Shape): Access => ({
      slot,
      dtype,
      strides: contiguousStrides(shape),
      offset: 0,
    });
    const name = nameOf(node);
    switch (source.op) {
      case "sum":
      case "max": {
        this.#emitReduce(node, source.op, source.axes, whole(node.shape), epilogue);
        return;
      }
      case "matmul": {
        const [x, y] = node.inputs as [Tensor, Tensor];
        const a = this.operand(x);
        const b = this.operand(y);
        this.#push({
          kind: "matmul",
          name,
          batch: node.shape.slice(0, -2),
          m: node.shape.at(-2)!,
          n: node.shape.at(-1)!,
          k: x.shape.at(-1)!,
          a,
          b,
          output: whole(node.shape),
          ...extra,
        });
        return;
      }
      case "conv2d": {
        const [x, y] = node.inputs as [Tensor, Tensor];
        const a = this.operand(x, true);
        const b = this.operand(y, true);
        const { variant, conv } = source;
        this.#push({
          kind: "conv2d",
          name,
          variant,
          conv,
          a,
          b,
          output: whole(node.shape),
          ...extra,
        });
        return;
      }
      case "scatter": {
        const [x, y] = node.inputs as [Tensor, Tensor];
        this.#push({
          kind: "scatter",
          name,
          size: node.shape[0]!,
          width: node.shape[1]!,
          count: x.size,
          index: this.operand(x, true),
          values: this.operand(y, true),
          output: whole(node.shape),
        });
        return;
      }
      case "concat": {
        const strides = contiguousStrides(node.shape);
        let offset = 0;
        for (const part of node.inputs) {
          this.#emitMap(part, { slot, dtype, strides, offset }, false);
          offset += part.shape[source.axis]! * strides[source.axis]!;
        }
        return;
      }
      default:
        throw new Error(`schedule: "${source.op}" is no kernel`);
    }
  }

  #emitReduce(
    node: Tensor,
    combine: "sum" | "max",
    axes: readonly number[],
    output: Access,
    epilogue: Epilogue | undefined,
  ): void {
    const input = node.inputs[0]!;
    const kept = input.shape.flatMap((_, i) => axes.includes(i) ? [] : [i]);
    const order = [...kept, ...axes];
    const shape = order.map((i) => input.shape[i]!);
    const moves: Step[] = [{ move: { kind: "permute", axes: order } }];
    const most = this.#maxInputs - (epilogue?.inputs.length ?? 0);
    const { expr, inputs } = this.#express(shape, input, moves, false, most);
    // Kept axes must merge in step with the output and the epilogue, so they walk along.
    const reducedZeros = axes.map(() => 0);
    const outer = [output, ...epilogue?.inputs ?? []].map((a) => [...a.strides, ...reducedZeros]);
    const merged = collapse(shape, [...inputs.map((a) => a.strides), ...outer], kept.length);
    const ins = merged.walks.slice(0, inputs.length);
    const outs = merged.walks.slice(inputs.length).map((w) => w.slice(0, merged.keep));
    this.#push({
      kind: "reduce",
      name: nameOf(node),
      shape: merged.shape,
      reduced: merged.shape.length - merged.keep,
      combine,
      inputs: inputs.map((a, i) => ({ ...a, strides: ins[i]! })),
      expr,
      output: { ...output, strides: outs[0]! },
      ...epilogue
        ? {
          epilogue: {
            inputs: epilogue.inputs.map((a, i) => ({ ...a, strides: outs[i + 1]! })),
            expr: epilogue.expr,
          },
        }
        : {},
    });
  }

  /** The memory under a chain of views; a copy is forced where no view fits. */
  locate(node: Tensor, contiguous: boolean): { node: Tensor; view: View } {
    const chain: Tensor[] = [];
    let at = node;
    while (at.source?.op === "move" && !this.stored(at)) {
      chain.push(at);
      at = at.inputs[0]!;
    }
    let view = contiguousView(at.shape);
    for (let moved = chain.pop(); moved; moved = chain.pop()) {
      const { move } = moved.source as Source & { op: "move" };
      let next = moveView(view, move);
      if (!next) {
        // Copy what lies below the impossible view; above it the rest is free again.
        at = moved.inputs[0]!;
        this.store(at);
        next = moveView(contiguousView(at.shape), move)!;
      }
      view = next;
    }
    if (at.source?.op === "constant" || (contiguous && !isContiguous(view))) {
      this.store(node);
      return { node, view: contiguousView(node.shape) };
    }
    return { node: at, view };
  }

  /** A contraction's operand. */
  operand(node: Tensor, contiguous = false): Access {
    const { node: at, view } = this.locate(node, contiguous);
    return { slot: this.slot(at), dtype: at.dtype, strides: view.strides, offset: view.offset };
  }

  #push(kernel: Kernel): void {
    const at = this.kernels.push(kernel) - 1;
    for (const { slot } of [...reads(kernel), kernel.output]) {
      const life = this.slots[slot]!;
      if (life.first < 0) life.first = at;
      life.last = at;
    }
  }
}

/** A movement on the way from a kernel's coordinates to a source, and the node it belongs to. */
interface Step {
  readonly move: Movement;
  readonly node?: Tensor;
}

/** Builds the scalar expression of a kernel from the graph behind its root. */
class Expression {
  readonly inputs: { node: Tensor; view: View }[] = [];
  readonly #scheduler: Scheduler;
  readonly #shape: Shape;
  readonly #root: Tensor;
  readonly #moves: readonly Step[];
  readonly #self: boolean;
  readonly #acc: Tensor | undefined;
  readonly #memo = new Map<string, Expr>();
  readonly #inputOf = new Map<string, number>();
  readonly #inner: Tensor[] = [];
  #accesses: Access[] = [];
  #failed = false;

  /**
   * @param shape The kernel's coordinates.
   * @param root The value to compute there, seen through `moves`.
   * @param options.self Compute the root even though it has memory: that memory is being filled.
   * @param options.acc The contraction or reduction whose epilogue this is.
   */
  constructor(
    scheduler: Scheduler,
    shape: Shape,
    root: Tensor,
    options: { moves: readonly Step[]; self: boolean; acc?: Tensor },
  ) {
    this.#scheduler = scheduler;
    this.#shape = shape;
    this.#root = root;
    this.#moves = options.moves;
    this.#self = options.self;
    this.#acc = options.acc;
  }

  /** The expression; `undefined` where a view can't be walked (outside epilogues, the culprit is then stored). */
  build(): Expr | undefined {
    const expr = this.#visit(this.#root, this.#moves, "");
    return this.#failed ? undefined : expr;
  }

  /** Gives every input its slot, emitting what is missing. */
  place(): void {
    this.#accesses = this.inputs.map(({ node, view }) => ({
      slot: this.#scheduler.slot(node),
      dtype: node.dtype,
      strides: view.strides,
      offset: view.offset,
    }));
  }

  accesses(): Access[] {
    return this.#accesses;
  }

  /** The inlined node in the middle of the expression: storing it halves the kernel. */
  middle(): Tensor {
    return this.#inner[this.#inner.length >> 1]!;
  }

  #visit(node: Tensor, moves: readonly Step[], path: string): Expr {
    const key = `${node.id}${path}`;
    const known = this.#memo.get(key);
    if (known) return known;
    const expr = this.#make(node, moves, path);
    this.#memo.set(key, expr);
    return expr;
  }

  #make(node: Tensor, moves: readonly Step[], path: string): Expr {
    const type = typeOf(node.dtype);
    if (node === this.#acc) {
      const view = this.#view(node.shape, moves);
      if (!view || !isContiguous(view) || view.offset !== 0) this.#failed = true;
      return { kind: "acc", type: "f32" };
    }
    const source = node.source;
    if (source?.op === "constant") return { kind: "const", type, value: source.value };
    if (!source || (this.#scheduler.stored(node) && !(this.#self && node === this.#root))) {
      return this.#load(node, moves, type);
    }
    const arg = (i: number) => this.#visit(node.inputs[i]!, moves, path);
    switch (source.op) {
      case "move":
        return this.#visit(
          node.inputs[0]!,
          [...moves, { move: source.move, node }],
          `${path}/${node.id}`,
        );
      case "stopGradient":
        return arg(0);
      case "project":
        return arg(1);
    }
    this.#inner.push(node);
    switch (source.op) {
      case "unary":
        return { kind: "unary", type, op: source.fn, a: arg(0) };
      case "binary":
        return { kind: "binary", type, op: source.fn, a: arg(0), b: arg(1) };
      case "where":
        return { kind: "where", type, test: arg(0), a: arg(1), b: arg(2) };
      case "cast": {
        const a = arg(0);
        return a.type === type ? a : { kind: "cast", type, a };
      }
      case "take": {
        const { node: table, view } = this.#scheduler.locate(node.inputs[0]!, true);
        const strides = this.#shape.map(() => 0);
        const input = this.#input(table, { shape: this.#shape, strides, offset: view.offset });
        return { kind: "take", type, input, index: arg(1) };
      }
      default:
        throw new Error(`schedule: "${source.op}" can't be inlined`);
    }
  }

  #load(node: Tensor, moves: readonly Step[], type: Typed): Expr {
    const view = this.#view(node.shape, moves);
    if (!view) return { kind: "const", type, value: 0 };
    return { kind: "load", type, input: this.#input(node, view) };
  }

  /** The walk of this kernel over a source that is seen through `moves`, root's side first. */
  #view(shape: Shape, moves: readonly Step[]): View | undefined {
    let view = contiguousView(shape);
    for (let i = moves.length - 1; i >= 0; i--) {
      const next = moveView(view, moves[i]!.move);
      if (!next) {
        this.#failed = true;
        const culprit = moves[i]!.node?.inputs[0];
        if (culprit && !this.#acc) this.#scheduler.store(culprit);
        return undefined;
      }
      view = next;
    }
    return view;
  }

  #input(node: Tensor, view: View): number {
    const key = `${node.id}:${view.offset}:${view.strides.join()}`;
    const known = this.#inputOf.get(key);
    if (known !== undefined) return known;
    const index = this.inputs.push({ node, view }) - 1;
    this.#inputOf.set(key, index);
    return index;
  }
}

/** What it would take to compute a node inside a consumer. */
interface InlineCost {
  readonly operations: number;
  /** Nodes on the longest way to a value in memory. */
  readonly depth: number;
  /** Operands as large as the node itself. */
  readonly loads: number;
  /** A contraction or reduction could end in this node, which would make storing it free. */
  readonly ends: boolean;
}

/** What it takes to use a value that lies in memory. */
const STORED: InlineCost = { operations: 0, depth: 0, loads: 1, ends: false };

/** Whether an expression has grown so long that its value is better stored. */
const isLong = ({ operations, depth }: InlineCost) => operations > LARGEST || depth > LARGEST;

/** Whether to compute a value anew in each of several consumers. */
const isCheap = ({ operations, loads, ends }: InlineCost) =>
  operations <= CHEAP && loads <= 1 && !ends;

/** What it would take to compute each node inside a consumer. */
function inlineCosts(
  nodes: readonly Tensor[],
): Map<Tensor, InlineCost> {
  const consumers = new Map<Tensor, number>();
  for (const node of nodes) {
    for (const input of new Set(sourcesOf(node))) {
      consumers.set(input, (consumers.get(input) ?? 0) + 1);
    }
  }
  const costs = new Map<Tensor, InlineCost>();
  const asInput = (node: Tensor): InlineCost => {
    const cost = costs.get(node)!;
    const shared = isMap(node) && (consumers.get(node) ?? 0) > 1;
    if (isMap(node) && isLong(cost)) return STORED;
    // A value that several kernels want and that is dear to repeat will be stored. If it is one
    // kernel that wants it several times it will not: its depth still counts.
    return shared && !isCheap(cost) ? { ...STORED, depth: cost.depth } : cost;
  };
  for (const node of nodes) {
    const op = node.source?.op;
    let operations = 0;
    let depth = 0;
    let loads = 0;
    let ends = false;
    if (op === "move" || op === "stopGradient" || op === "project") {
      const input = sourcesOf(node)[0]!;
      const inner = asInput(input);
      operations = inner.operations;
      depth = inner.depth + 1;
      // A broadcast operand is small beside what it is broadcast to.
      loads = input.size * 4 <= node.size ? 0 : inner.loads;
      ends = inner.ends && input.size === node.size;
    } else if (isMap(node)) {
      const fn = node.source?.op === "unary" ? node.source.fn : undefined;
      operations = fn && fn !== "neg" && fn !== "abs" ? 8 : 1;
      for (const input of new Set(node.inputs)) {
        const inner = asInput(input);
        operations += inner.operations;
        depth = Math.max(depth, inner.depth + 1);
        loads += inner.loads;
        ends ||= inner.ends;
      }
    } else if (op !== "constant") {
      loads = 1;
      ends = isGuest(node) && consumers.get(node) === 1;
    }
    costs.set(node, { operations, depth, loads, ends });
  }
  return costs;
}

function nameOf(node: Tensor): string {
  const source = node.source ?? { op: "copy" as const };
  const fn = source.op === "unary" || source.op === "binary" ? source.fn : source.op;
  return `${fn}[${node.shape.join("x")}]`;
}

/** Schedules the kernels that compute the outputs. */
export function schedule(outputs: readonly Tensor[], options: ScheduleOptions = {}): Schedule {
  const nodes = collect(outputs);
  const scheduler = new Scheduler(nodes, outputs, options);
  // Oldest first, so that emitting never recurses deeper than one missing view.
  for (const node of nodes) {
    if (!isLeaf(node) && scheduler.stored(node)) scheduler.slot(node);
  }
  const slots = outputs.map((node) => scheduler.slot(node));
  const written = new Set(slots);
  return {
    kernels: scheduler.kernels,
    slots: scheduler.slots.map(({ external, bytes, first, last }, i) =>
      external || written.has(i)
        ? { kind: "external", bytes }
        : { kind: "arena", bytes, first, last }
    ),
    leaves: scheduler.leaves,
    outputs: slots,
  };
}
