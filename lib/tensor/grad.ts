/**
 * Reverse-mode differentiation: walk the graph from the loss backwards, newest node first, and let
 * each operation's VJP extend the graph with its gradient.
 *
 * @module
 */
import { show } from "./shape.ts";
import { constant, Tensor } from "./tensor.ts";
import { vjp } from "./vjp.ts";

/**
 * The gradients of a scalar with respect to tensors, as lazy tensors of the same shapes.
 *
 * A tensor that the loss does not depend on has a gradient of zeros.
 *
 * @example
 * ```ts
 * import { grad, tensor } from "./mod.ts";
 * const x = tensor([1, 2, 3], [3]);
 * const [dx] = grad(x.mul(x).sum(), [x]);
 * console.log(await dx!.data()); // Float32Array [2, 4, 6]
 * ```
 */
export function grad(loss: Tensor, params: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1) {
    throw new RangeError(`grad: the loss must be one number, but its shape is ${show(loss.shape)}`);
  }
  const wanted = new Set(params);
  const gradients = new Map<Tensor, Tensor>();
  const blocks = new Map<Tensor, (Tensor | undefined)[]>();
  const queue = new Newest();
  const add = (node: Tensor, gradient: Tensor) => {
    const sum = gradients.get(node);
    gradients.set(node, sum ? sum.add(gradient) : gradient);
    if (!sum) queue.push(node);
  };
  const reach = reachability(loss, wanted);
  const relevant = (node: Tensor) => wanted.has(node) || reach(node);

  add(loss, constant(1, loss.shape));
  for (let node = queue.pop(); node; node = queue.pop()) {
    if (blocks.has(node)) {
      replay(node, blocks.get(node)!, relevant, add);
      continue;
    }
    const gradient = gradients.get(node)!;
    const source = node.source;
    if (!source) continue;
    if (source.op === "project") {
      const group = node.inputs[0]!;
      let outputs = blocks.get(group);
      if (!outputs) {
        blocks.set(group, outputs = []);
        queue.push(group);
      }
      outputs[source.index] = gradient;
      continue;
    }
    if (wanted.has(node) && node.inputs.length === 0) continue;
    const needed = node.inputs.map(relevant);
    if (!needed.includes(true)) continue;
    vjp(source, gradient, node).forEach((g, i) => {
      if (g && needed[i]) add(node.inputs[i]!, g);
    });
  }
  return params.map((p) => gradients.get(p) ?? constant(0, p.shape));
}

/** Recomputes a checkpointed block from its inputs and starts the backward pass at its outputs. */
function replay(
  group: Tensor,
  outputs: readonly (Tensor | undefined)[],
  relevant: (node: Tensor) => boolean,
  add: (node: Tensor, gradient: Tensor) => void,
): void {
  const source = group.source;
  if (source?.op !== "checkpoint") throw new Error("replay: not a checkpoint");
  const inner = source.block(...group.inputs);
  inner.forEach((y, i) => {
    const gradient = outputs[i];
    if (gradient && relevant(y)) add(y, gradient);
  });
}

/** Whether a node depends on any wanted tensor; remembers its answers. */
function reachability(loss: Tensor, wanted: ReadonlySet<Tensor>): (node: Tensor) => boolean {
  const known = new Map<Tensor, boolean>();
  const visit = (root: Tensor): boolean => {
    // An explicit stack: a U-Net's graph is deeper than the call stack.
    const stack = [root];
    while (stack.length > 0) {
      const node = stack[stack.length - 1]!;
      if (known.has(node)) {
        stack.pop();
        continue;
      }
      const source = node.source;
      const blocked = source?.op === "stopGradient";
      const open = blocked ? [] : node.inputs.filter((x) => !known.has(x));
      // A checkpoint's weights are closed over, so look inside the block too.
      const inner = source?.op === "checkpoint" ? source.inner.filter((x) => !known.has(x)) : [];
      if (open.length + inner.length > 0 && !wanted.has(node)) {
        stack.push(...open, ...inner);
        continue;
      }
      const parts = blocked
        ? []
        : source?.op === "checkpoint"
        ? [...node.inputs, ...source.inner]
        : node.inputs;
      known.set(node, wanted.has(node) || parts.some((x) => known.get(x)));
      stack.pop();
    }
    return known.get(root)!;
  };
  visit(loss);
  return visit;
}

/** A heap of tensors, newest first. */
class Newest {
  #heap: Tensor[] = [];

  push(node: Tensor): void {
    const heap = this.#heap;
    let i = heap.push(node) - 1;
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (heap[up]!.id >= node.id) break;
      heap[i] = heap[up]!;
      i = up;
    }
    heap[i] = node;
  }

  pop(): Tensor | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (!top || !last || top === last) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]!.id > heap[child]!.id) child++;
      if (heap[child]!.id <= last.id) break;
      heap[i] = heap[child]!;
      i = child;
    }
    heap[i] = last;
    return top;
  }
}
