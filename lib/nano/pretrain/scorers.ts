/**
 * Stages `pickscore` and `hps`: CLIPs tuned to say which of two images an annotator prefers.
 *
 * @module
 */
import { clipEmbeddings } from "../../diffusion/clip.ts";
import { eosPositions } from "../../diffusion/clip_text.ts";
import type { ClipConfig } from "../../diffusion/config.ts";
import { loadScorer } from "../../evaluation/scorer.ts";
import type { Weights } from "../../nn/weights.ts";
import { generator, stream, type Tensor, tensor } from "../../tensor/mod.ts";
import type { Choice } from "../annotator.ts";
import { IMAGE_SIZE, IMAGE_VALUES } from "../world.ts";
import { nanoTokenizer, normaliseColours } from "./clip.ts";
import { type Fit, fit } from "./fit.ts";
import {
  choicesOf,
  openImages,
  PER_PROMPT,
  type PreferenceImages,
  utilitiesOf,
} from "./preferences.ts";

const BATCH = 48;
const EPOCHS = 4;
/** Where the logit scale starts: preferences are far less certain than which caption belongs to a picture. */
const SCALE = 30;
/** The largest shift of an image in pixels, so that the scorer does not learn places by heart. */
const SHIFT = 3;
const ORDER = stream("nano.pretrain.scorer.order");

/** Tunes a CLIP on the judgements of a collection: cross-entropy of `exp(s) (cos_0 - cos_1)` with 1, 0.5 or 0. */
export async function trainScorer(
  name: "pickscore" | "hps",
  clip: { readonly weights: Weights; readonly config: ClipConfig },
  output: string,
  options: Pick<Fit, "directory" | "seed" | "onProgress">,
): Promise<Map<string, Tensor>> {
  const collection = name === "hps" ? "hps" : "preference";
  const data = await openImages(output, collection, options.seed);
  const choices = choicesOf(data, collection, options.seed);
  const steps = Math.floor(choices.length / BATCH) * EPOCHS;
  const perEpoch = Math.floor(choices.length / BATCH);
  const tokenizer = nanoTokenizer();
  const { config } = clip;
  const initial = new Map(clip.weights.tensors);
  initial.set("logit_scale", tensor([Math.log(SCALE)], []));
  let order: Choice[] = [];
  let epoch = -1;

  return await fit({
    ...options,
    name,
    initial,
    steps,
    learningRate: 3e-4,
    warmup: 30,
    floor: 0.02,
    weightDecay: 0.05,
    average: 0.99,
    batch: (step) => {
      const now = Math.floor((step - 1) / perEpoch);
      if (now !== epoch) {
        epoch = now;
        order = generator({ seed: options.seed, stream: ORDER, step: epoch }).shuffle([...choices]);
      }
      const at = (step - 1) % perEpoch;
      const some = order.slice(at * BATCH, (at + 1) * BATCH);
      const random = generator({ seed: options.seed + 1, stream: ORDER, step });
      const pixels = new Float32Array(2 * BATCH * IMAGE_VALUES);
      some.forEach(({ prompt, image0, image1 }, i) => {
        for (const [side, image] of [image0, image1].entries()) {
          const dx = random.int(2 * SHIFT + 1) - SHIFT, dy = random.int(2 * SHIFT + 1) - SHIFT;
          const row = (side * BATCH + i) * IMAGE_VALUES;
          shifted(data, prompt, image, dx, dy, pixels.subarray(row, row + IMAGE_VALUES));
        }
      });
      const { ids, count, length } = tokenizer.encodeBatch(
        some.map(({ prompt }) => data.prompts[prompt]!),
      );
      return {
        pixels: tensor(normaliseColours(pixels), [2 * BATCH, IMAGE_SIZE, IMAGE_SIZE, 3]),
        ids: tensor(ids, [count, length]),
        eos: tensor(eosPositions(config.text_config, ids, length), [count]),
        target: tensor(Float32Array.from(some, ({ label0 }) => label0), [BATCH]),
      };
    },
    loss: (w, { pixels, ids, eos, target }) => {
      const { text, image } = clipEmbeddings(w, config, { ids, eos }, pixels);
      const [first, second] = image.split(0, 2) as [Tensor, Tensor];
      const logit = first.sub(second).mul(text).sum(-1).mul(w.get("logit_scale").exp());
      // -t log s(x) - (1 - t) log s(-x) = log(1 + e^-|x|) + max(x, 0) - t x
      const entropy = logit.abs().neg().exp().add(1).log()
        .add(logit.maximum(0)).sub(target.mul(logit));
      const agreed = logit.gt(0).eq(target.gt(0.5)).mean();
      return { loss: entropy.mean(), agreed };
    },
  });
}

/** One image in [0, 1], moved by some pixels; what comes in repeats the edge. */
function shifted(
  { images }: PreferenceImages,
  prompt: number,
  image: number,
  dx: number,
  dy: number,
  out: Float32Array,
): void {
  const from = (prompt * PER_PROMPT + image) * IMAGE_VALUES;
  const inside = (v: number) => Math.min(Math.max(v, 0), IMAGE_SIZE - 1);
  for (let y = 0; y < IMAGE_SIZE; y++) {
    const row = from + inside(y + dy) * IMAGE_SIZE * 3;
    for (let x = 0; x < IMAGE_SIZE; x++) {
      const at = row + inside(x + dx) * 3;
      const to = (y * IMAGE_SIZE + x) * 3;
      for (let c = 0; c < 3; c++) out[to + c] = images[at + c]! / 255;
    }
  }
}

/** How often a scorer agrees with decided held-out judgements, and how often the true utility does; shares. */
export async function scorerAccuracy(
  folder: string,
  output: string,
  seed: number,
): Promise<{ noisy: number; ceiling: number }> {
  const data = await openImages(output, "scorerValidation", seed);
  const choices = choicesOf(data, "scorerValidation", seed).filter((c) => c.label0 !== 0.5);
  using scorer = await loadScorer(folder);
  const prompts = data.prompts.flatMap((p) => new Array<string>(PER_PROMPT).fill(p));
  const scores = await scorer.score(prompts, data.images, IMAGE_SIZE);
  const utilities = utilitiesOf(data);
  let right = 0;
  let best = 0;
  for (const { prompt, image0, image1, label0 } of choices) {
    const at = (i: number) => scores[prompt * PER_PROMPT + i]!;
    if ((at(image0) > at(image1)) === (label0 === 1)) right++;
    if ((utilities[prompt]![image0]! > utilities[prompt]![image1]!) === (label0 === 1)) best++;
  }
  return { noisy: right / choices.length, ceiling: best / choices.length };
}
