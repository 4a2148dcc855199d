/**
 * Activation functions under the names that configuration files give them.
 *
 * @module
 */
import type { Tensor } from "../tensor/mod.ts";

/** `x sigmoid(x)`. */
export function silu(x: Tensor): Tensor {
  return x.mul(x.sigmoid());
}

/** `x Phi(x)`, with the exact normal distribution function. */
export function gelu(x: Tensor): Tensor {
  return x.mul(x.mul(Math.SQRT1_2).erf().add(1).mul(0.5));
}

/** `x sigmoid(1.702 x)`, OpenAI CLIP's approximation of GELU. */
export function quickGelu(x: Tensor): Tensor {
  return x.mul(x.mul(1.702).sigmoid());
}

const ACTIVATIONS: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  silu,
  swish: silu,
  gelu,
  quick_gelu: quickGelu,
};

/**
 * The activation of a configuration's name.
 *
 * @throws {Error} When the name is not known, with those that are.
 */
export function activation(name: string): (x: Tensor) => Tensor {
  const found = ACTIVATIONS[name];
  if (!found) {
    throw new Error(
      `unknown activation "${name}": known are ${Object.keys(ACTIVATIONS).join(", ")}`,
    );
  }
  return found;
}
