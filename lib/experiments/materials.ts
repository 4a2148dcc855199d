/**
 * What an experiment works on: a base model, preference data, prompts and scorers, each with the
 * digest that goes into the key of every run made with it.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { datasetFiles } from "../data/dataset_files.ts";
import { checkManifest, digestTree } from "../data/manifest.ts";
import { PreferenceFile } from "../data/preference_file.ts";
import { readPromptSet } from "../data/prompt_sets.ts";
import { openPipeline } from "../diffusion/mod.ts";
import type { ScorerKind } from "../evaluation/mod.ts";

/** Where the shipped nano lineage is. */
export const nanoFolder = "data/nano";
/** Where its model of SDXL's layout is. */
export const nanoXlFolder = "data/nano-xl";

/** Parquet files beyond this are large. */
const LARGE_BYTES = 2e9;

/** Paths given by the user; what is left out is taken from the nano lineage. */
export interface MaterialPaths {
  readonly base?: string | undefined;
  readonly data?: string | undefined;
  readonly prompts?: string | undefined;
  readonly pickscore?: string | undefined;
  readonly hps?: string | undefined;
}

/** A file or folder and the SHA-256 of its content. */
export interface Material {
  readonly path: string;
  readonly sha256: string;
}

/** A model to be tuned: a pipeline folder or a single file. */
export interface Backbone extends Material {
  /** Short, for tables and file names. */
  readonly name: string;
  /** Which of the paper's models it is built like. */
  readonly layout: "SD1.5" | "SDXL";
}

/** Preference data. */
export interface Dataset extends Material {
  /** Whether they are more than memory should hold once they are encoded. */
  readonly large: boolean;
}

/** A scorer's weights, and what its scores are. */
export interface ScorerMaterial extends Material {
  readonly kind: ScorerKind;
}

/** Everything an experiment works on. */
export interface Materials {
  /** The models to be tuned; an experiment with one takes the first. */
  readonly backbones: readonly [Backbone, ...Backbone[]];
  /** Preference data, Parquet. */
  readonly data: Dataset;
  readonly pickscore: ScorerMaterial;
  readonly hps: ScorerMaterial;
  /** Prompts to choose hyperparameters by, and prompts to compare the methods by; no prompt is in both. */
  readonly prompts: { readonly validation: readonly string[]; readonly test: readonly string[] };
  /** Whether the prompts are captions of the nano world, which its oracle can judge. */
  readonly oracle: boolean;
}

/**
 * Finds and checks the materials.
 *
 * @param paths What the user named.
 * @returns The materials, digests included.
 * @throws {Error} if a shipped file is damaged, or a named one is missing.
 */
export async function openMaterials(paths: MaterialPaths): Promise<Materials> {
  const { base, data, prompts, pickscore, hps } = paths;
  const shipped = [base, data, prompts, pickscore, hps].includes(undefined);
  if (shipped) await checkManifest(nanoFolder);
  if (base === undefined) await checkManifest(nanoXlFolder);
  const material = async (path: string, option: string): Promise<Material> => {
    try {
      return { path, sha256: await digestTree(path) };
    } catch (cause) {
      throw new Error(`--${option} ${path} could not be read: ${(cause as Error).message}`, {
        cause,
      });
    }
  };
  const scorer = async (path: string | undefined, name: "pickscore" | "hps") => ({
    ...await material(path ?? `${nanoFolder}/${name}`, name),
    kind: path === undefined ? "cosine" as const : name,
  });
  const dataset = async (path: string): Promise<Dataset> => {
    const files = await datasetFiles(path);
    const bytes = (await Promise.all(files.map((file) => Deno.stat(file))))
      .reduce((sum, { size }) => sum + size, 0);
    const large = bytes > LARGE_BYTES;
    return large
      ? { path, sha256: await digestFooters(files), large }
      : { ...await material(path, "data"), large };
  };
  const backbone = async (name: string, path: string): Promise<Backbone> => ({
    name,
    layout: await layoutOf(path),
    ...await material(path, "base"),
  });
  return {
    backbones: base === undefined
      ? [await backbone("nano", `${nanoFolder}/weak`), await backbone("nano-xl", nanoXlFolder)]
      : [await backbone(basename(base, ".safetensors"), base)],
    data: await dataset(data ?? `${nanoFolder}/preferences.parquet`),
    pickscore: await scorer(pickscore, "pickscore"),
    hps: await scorer(hps, "hps"),
    prompts: prompts ? await splitPrompts(prompts) : await nanoPrompts(),
    oracle: prompts === undefined,
  };
}

/** Of large data: their footers say what is in them, and reading hundreds of gigabytes takes an hour. */
async function digestFooters(files: readonly string[]): Promise<string> {
  const hash = createHash("sha256");
  for (const name of files) {
    await using file = await PreferenceFile.open(name);
    hash.update(await file.identity());
  }
  return hash.digest("hex");
}

/** SDXL's pipelines have a second text encoder. */
async function layoutOf(path: string): Promise<Backbone["layout"]> {
  return (await openPipeline(path)).textEncoders.length === 2 ? "SDXL" : "SD1.5";
}

async function nanoPrompts(): Promise<Materials["prompts"]> {
  const { validation, test } = JSON.parse(await Deno.readTextFile(`${nanoFolder}/prompts.json`));
  return { validation, test };
}

/** Of a user's own prompts every fifth serves to choose hyperparameters. */
async function splitPrompts(path: string): Promise<Materials["prompts"]> {
  const prompts = [...new Set((await readPromptSet(path)).prompts)];
  if (prompts.length < 10) {
    throw new Error(
      `--prompts ${path} holds ${prompts.length} different prompts: at least 10 are needed`,
    );
  }
  return {
    validation: prompts.filter((_, i) => i % 5 === 0),
    test: prompts.filter((_, i) => i % 5 !== 0),
  };
}

/**
 * The digest of a list of prompts.
 *
 * @param prompts The prompts.
 */
export function digestPrompts(prompts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(prompts)).digest("hex");
}
