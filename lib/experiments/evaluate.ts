/**
 * A model is evaluated by drawing one image per held-out prompt and scoring it; prompt i starts from
 * the same noise for every model, so that differences are the models'.
 *
 * @module
 */
import sharp from "sharp";
import { generate, type Pipeline } from "../diffusion/mod.ts";
import { loadScorer, type Scorer } from "../evaluation/mod.ts";
import { judge, parseCaption } from "../nano/mod.ts";
import type { LoraAdapter } from "../nn/mod.ts";
import type { Materials } from "./materials.ts";
import { writeWhole } from "./run.ts";
import type { PromptScores } from "./table1.ts";

/** How images are drawn. */
export interface Sampling {
  readonly steps: number;
  readonly guidanceScale: number;
  /** With the prompt's index it determines the starting noise. */
  readonly seed: number;
}

/** Images drawn at once: enough to fill the machine, few enough for its memory. */
const batch = 10;

/** How many images of an evaluation are kept for the sample sheet. */
export const keptSamples = 4;

/** The file in an evaluation's folder with its first images, one below the other. */
export const samplesName = "samples.png";

/** Draws and scores; the networks are loaded and compiled once for all models. */
export class Evaluator implements Disposable {
  readonly #pipeline: Pipeline;
  readonly #scorers: Readonly<Record<"pickscore" | "hps", Scorer>>;
  readonly #oracle: boolean;

  private constructor(
    pipeline: Pipeline,
    scorers: Readonly<Record<"pickscore" | "hps", Scorer>>,
    oracle: boolean,
  ) {
    this.#pipeline = pipeline;
    this.#scorers = scorers;
    this.#oracle = oracle;
  }

  /**
   * Loads the scorers.
   *
   * @param pipeline The base model; it stays the caller's.
   * @param materials Which scorers, and whether the oracle can judge.
   */
  static async open(pipeline: Pipeline, materials: Materials): Promise<Evaluator> {
    return new Evaluator(
      pipeline,
      {
        pickscore: await loadScorer(materials.pickscore.path),
        hps: await loadScorer(materials.hps.path),
      },
      materials.oracle,
    );
  }

  /**
   * Evaluates the base model under a LoRA, or alone.
   *
   * @param prompts The prompts.
   * @param sampling How to draw.
   * @param options The LoRA; where to keep the first images; what to call after each batch.
   * @returns One score per prompt and scorer; the oracle's `utility`, `alignment` and `appeal` too,
   * where there is one.
   */
  async evaluate(
    prompts: readonly string[],
    sampling: Sampling,
    options: { lora?: LoraAdapter; folder?: string; onProgress?: (done: number) => void } = {},
  ): Promise<PromptScores> {
    const scores: Record<string, number[]> = { pickscore: [], hps: [] };
    if (this.#oracle) Object.assign(scores, { utility: [], alignment: [], appeal: [] });
    for (let at = 0; at < prompts.length; at += batch) {
      const some = prompts.slice(at, at + batch);
      const images = await generate(this.#pipeline, some, {
        seed: sampling.seed,
        firstIndex: at,
        batchSize: batch,
        steps: sampling.steps,
        guidanceScale: sampling.guidanceScale,
        ...(options.lora ? { lora: options.lora } : {}),
      });
      const { data, width, height } = images;
      const bytes = width * height * 3;
      for (const name of ["pickscore", "hps"] as const) {
        scores[name]!.push(...await this.#scorers[name].score(some, data, width));
      }
      if (this.#oracle) {
        some.forEach((prompt, i) => {
          const judgement = judge(data.subarray(i * bytes, (i + 1) * bytes), parseCaption(prompt));
          scores.utility!.push(judgement.utility);
          scores.alignment!.push(judgement.alignment);
          scores.appeal!.push(judgement.appeal);
        });
      }
      if (at === 0 && options.folder) {
        const kept = Math.min(keptSamples, images.count);
        const sheet = await sharp(data.subarray(0, kept * bytes), {
          raw: { width, height: height * kept, channels: 3 },
        }).png().toBuffer();
        await writeWhole(`${options.folder}/${samplesName}`, sheet);
      }
      options.onProgress?.(at + some.length);
    }
    return scores;
  }

  /** Gives the scorers' memory back. */
  [Symbol.dispose](): void {
    for (const scorer of Object.values(this.#scorers)) scorer[Symbol.dispose]();
  }
}
