/**
 * A number of bytes as a person reads it.
 *
 * @module
 */

/** `219.0 kB`, `5.5 MB`, `1.72 GB`: thousands, as disks and memory are sold. */
export function byteSize(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
