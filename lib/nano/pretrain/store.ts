/**
 * Where the stages leave their networks: folders in the formats of diffusers and transformers.
 *
 * @module
 */
import { type ClipConfig, clipConfig, readJson } from "../../diffusion/config.ts";
import type { TextEncoder } from "../../diffusion/conditions.ts";
import { loadUNet, loadVae } from "../../diffusion/pipeline_files.ts";
import { writeAtomically } from "../../nn/safetensors.ts";
import { loadWeights, saveWeights, Weights } from "../../nn/weights.ts";
import type { Tensor } from "../../tensor/mod.ts";
import { tokenizerFiles } from "../tokenizer_files.ts";

/** Writes a text file whole or not at all. */
export async function writeText(path: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  await writeAtomically(path, bytes.length, (write) => write(bytes));
}

/** Saves a network; `config.json` comes last and marks the folder as complete. */
export async function saveNetwork(
  folder: string,
  stem: "model" | "diffusion_pytorch_model",
  label: Readonly<Record<string, unknown>>,
  config: object,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  await saveWeights(`${folder}/${stem}.safetensors`, tensors, { dtype: "f16" });
  await writeText(`${folder}/config.json`, JSON.stringify({ ...label, ...config }, null, 2) + "\n");
}

/** Saves a CLIP with the nano lineage's tokenizer. */
export async function saveClip(
  folder: string,
  config: ClipConfig,
  tensors: ReadonlyMap<string, Tensor>,
): Promise<void> {
  await saveTokenizer(folder);
  const label = { architectures: ["CLIPModel"], model_type: "clip" };
  await saveNetwork(folder, "model", label, config, tensors);
}

/** Writes the tokenizer's files into a folder. */
export async function saveTokenizer(folder: string): Promise<void> {
  await Deno.mkdir(folder, { recursive: true });
  for (const [name, content] of Object.entries(tokenizerFiles())) {
    await writeText(`${folder}/${name}`, content);
  }
}

/** Loads a CLIP. */
export async function openClip(folder: string): Promise<{ weights: Weights; config: ClipConfig }> {
  const path = `${folder}/config.json`;
  return {
    weights: await loadWeights(folder, { dtype: "f32" }),
    config: clipConfig(await readJson(path), path),
  };
}

/**
 * The text tower of a CLIP as a network of its own, as the U-Net's pipeline wants it.
 *
 * @param projected Whether it ends in CLIP's projection, as SDXL's second text encoder does.
 */
export function textTower(
  { weights, config }: { weights: Weights; config: ClipConfig },
  projected: boolean,
): TextEncoder {
  const parts = ["text_model.", ...projected ? ["text_projection."] : []];
  const names = weights.names().filter((name) => parts.some((part) => name.startsWith(part)));
  return {
    weights: new Weights(new Map(names.map((name) => [name, weights.get(name)]))),
    config: { ...config.text_config, with_projection: projected },
  };
}

/** Loads a VAE. */
export const openVae = (folder: string) => loadVae(folder, { dtype: "f32" });
/** Loads a U-Net. */
export const openUNet = (folder: string) => loadUNet(folder, { dtype: "f32" });

/** Whether a stage has left its result. */
export async function isComplete(folder: string): Promise<boolean> {
  try {
    await Deno.stat(`${folder}/config.json`);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
