/**
 * Half precision as storage: conversion between f16 bits and f32.
 *
 * @module
 */

/** f16 bits to f32 values. */
export function decodeF16(bits: Uint16Array): Float32Array {
  return Float32Array.from(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
}

/** f32 values to f16 bits, rounded to nearest even. */
export function encodeF16(values: Float32Array): Uint16Array {
  const half = Float16Array.from(values);
  return new Uint16Array(half.buffer);
}
