/**
 * A model is evaluated by drawing one image per held-out prompt and scoring it; prompt i starts from
 * the same noise for every model, so that differences are the models'.
 *
 * @module
 */
import { generate, type Images, imagesAtOnce, type Pipeline } from "../diffusion/mod.ts";
import { loadScorer, type Scorer as LoadedScorer } from "../evaluation/mod.ts";
import { judge, type Judgement, parseCaption } from "../nano/mod.ts";
import type { LoraAdapter } from "../nn/mod.ts";
import type { Materials } from "./materials.ts";

/** The scorers that a model is judged by. */
export const scorers = ["pickscore", "hps"] as const;
/** One of {@linkcode scorers}. */
export type Scorer = (typeof scorers)[number];

/** Scores of one model's images, one per prompt, by the name of the scorer. */
export type PromptScores = Readonly<Record<string, readonly number[]>>;

/** How images are drawn. */
export interface Sampling {
  readonly steps: number;
  readonly guidanceScale: number;
  /** With the prompt's index it determines the starting noise. */
  readonly seed: number;
}

/** Small images drawn at once: enough to fill the machine, few enough for its memory. */
const most = 10;

/**
 * Draws one image per prompt; prompt i starts from noise i of the seed.
 *
 * @param lora The adapter, if the base model is tuned.
 * @param onProgress Called with the number of images done.
 */
export async function drawImages(
  pipeline: Pipeline,
  prompts: readonly string[],
  sampling: Sampling,
  lora: LoraAdapter | undefined,
  onProgress?: (done: number) => void,
): Promise<Images> {
  const { seed, ...how } = sampling;
  const { resolution } = pipeline;
  const batch = Math.min(imagesAtOnce(resolution, resolution, most), prompts.length);
  const batches = Math.ceil(prompts.length / batch);
  return await generate(pipeline, prompts, {
    seed,
    ...how,
    batchSize: batch,
    ...(lora ? { lora } : {}),
    // A batch is done when its last evaluation is.
    onProgress: (done, total) => {
      const whole = done * batches / total;
      if (Number.isInteger(whole)) onProgress?.(Math.min(whole * batch, prompts.length));
    },
  });
}

/** Draws and scores; the networks are loaded and compiled once for all models. */
export class Evaluator implements Disposable {
  readonly #pipeline: Pipeline;
  readonly #scorers: Readonly<Record<Scorer, LoadedScorer>>;
  readonly #oracle: boolean;

  private constructor(
    pipeline: Pipeline,
    scorers: Readonly<Record<Scorer, LoadedScorer>>,
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
        pickscore: await loadScorer(materials.pickscore.path, materials.pickscore),
        hps: await loadScorer(materials.hps.path, materials.hps),
      },
      materials.oracle,
    );
  }

  /**
   * Evaluates the base model under a LoRA, or alone.
   *
   * @param prompts The prompts.
   * @param sampling How to draw.
   * @param lora The adapter, if the model is tuned.
   * @param onProgress Called with the number of images done.
   * @returns One score per prompt and scorer; the oracle's `utility`, `alignment` and `appeal` too,
   * where there is one.
   */
  async evaluate(
    prompts: readonly string[],
    sampling: Sampling,
    lora: LoraAdapter | undefined,
    onProgress?: (done: number) => void,
  ): Promise<PromptScores> {
    const { data, width, height } = await drawImages(
      this.#pipeline,
      prompts,
      sampling,
      lora,
      onProgress,
    );
    const scores: Record<string, readonly number[]> = {};
    for (const name of scorers) {
      scores[name] = Array.from(await this.#scorers[name].score(prompts, data, width));
    }
    if (!this.#oracle) return scores;
    const judgements = judgeImages(prompts, { data, width, height, count: prompts.length });
    for (const part of ["utility", "alignment", "appeal"] as const) {
      scores[part] = judgements.map((judgement) => judgement[part]);
    }
    return scores;
  }

  /** Gives the scorers' memory back. */
  [Symbol.dispose](): void {
    for (const scorer of Object.values(this.#scorers)) scorer[Symbol.dispose]();
  }
}

/** The oracle's judgement of every image, drawn for nano captions. */
export function judgeImages(prompts: readonly string[], images: Images): Judgement[] {
  const bytes = images.width * images.height * 3;
  return prompts.map((prompt, i) =>
    judge(images.data.subarray(i * bytes, (i + 1) * bytes), parseCaption(prompt))
  );
}
