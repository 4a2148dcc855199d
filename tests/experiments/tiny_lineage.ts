/**
 * A lineage that nobody trained: the nano networks' architecture at a fraction of their width with
 * random weights, and preferences between pictures of noise. Everything an experiment needs,
 * in a folder, in a second.
 *
 * @module
 */
import { encodeImage } from "../../lib/data/images.ts";
import { writePreferences } from "../../lib/data/preferences.ts";
import { choiceRow, type PreferenceRow } from "../../lib/data/schema.ts";
import { clipConfig, unetConfig, vaeConfig } from "../../lib/diffusion/config.ts";
import { initClip } from "../../lib/diffusion/clip.ts";
import { clipTextParameters } from "../../lib/diffusion/clip_text.ts";
import { NoiseSchedule } from "../../lib/diffusion/noise_schedule.ts";
import { Pipeline, type PipelineParts } from "../../lib/diffusion/pipeline.ts";
import { savePipeline } from "../../lib/diffusion/pipeline_files.ts";
import { initUNet } from "../../lib/diffusion/unet.ts";
import { initVae } from "../../lib/diffusion/vae.ts";
import { nanoTokenizer } from "../../lib/nano/pretrain/clip.ts";
import { CLIP_A, SCHEDULER, UNET, UNET_XL, VAE } from "../../lib/nano/pretrain/configs.ts";
import { saveClip } from "../../lib/nano/pretrain/store.ts";
import { promptSplits } from "../../lib/nano/prompts.ts";
import { initialise } from "../../lib/nn/init.ts";
import { Weights } from "../../lib/nn/weights.ts";
import { randomUniform } from "../../lib/tensor/random.ts";

/** Where the parts of a tiny lineage are. */
export interface TinyLineage {
  readonly folder: string;
  readonly base: string;
  /** A base model of SDXL's layout. */
  readonly baseXl: string;
  readonly data: string;
  readonly pickscore: string;
  readonly hps: string;
  readonly prompts: { readonly validation: readonly string[]; readonly test: readonly string[] };
}

const narrow = { hidden_size: 16, intermediate_size: 32, num_attention_heads: 2 };

/**
 * Makes the lineage in a new temporary folder.
 *
 * @param prompts Prompts with preferences; each has three images and two choices.
 */
export async function makeTinyLineage(prompts = 6): Promise<TinyLineage> {
  const folder = await Deno.makeTempDir();
  const splits = promptSplits(0, { preference: prompts, validation: 4, test: 4 });
  const clip = clipConfig({
    ...CLIP_A,
    text_config: { ...CLIP_A.text_config, ...narrow, num_hidden_layers: 1 },
    vision_config: { ...CLIP_A.vision_config, ...narrow, num_hidden_layers: 1, patch_size: 16 },
  });
  const vae = vaeConfig({ ...VAE, block_out_channels: [8, 8, 8], norm_num_groups: 4 });
  const unet = unetConfig({
    ...UNET,
    block_out_channels: [8, 8, 16],
    norm_num_groups: 4,
    attention_head_dim: 2,
    cross_attention_dim: narrow.hidden_size,
  });
  const unetXl = unetConfig({
    ...UNET_XL,
    block_out_channels: [8, 8, 16],
    norm_num_groups: 4,
    attention_head_dim: [1, 2, 2],
    cross_attention_dim: 2 * narrow.hidden_size,
  });
  const encoder = (projected: boolean) => {
    const config = { ...clip.text_config, with_projection: projected };
    const weights = new Weights(initialise(clipTextParameters(config), 1));
    return { config, weights, tokenizer: nanoTokenizer() };
  };
  const save = async (
    path: string,
    config: typeof unet,
    textEncoders: PipelineParts["textEncoders"],
  ) => {
    const pipeline = new Pipeline({
      unet: { config, weights: new Weights(initUNet(config, 1)) },
      vae: { config: vae, weights: new Weights(initVae(vae, 1)) },
      textEncoders,
      schedule: NoiseSchedule.fromConfig(SCHEDULER),
    });
    await savePipeline(path, pipeline, { dtype: "f16" });
    pipeline.dispose();
  };
  const base = `${folder}/base`, baseXl = `${folder}/base-xl`;
  await save(base, unet, [encoder(false)]);
  await save(baseXl, unetXl, [encoder(false), encoder(true)]);
  for (const [name, seed] of [["pickscore", 2], ["hps", 3]] as const) {
    await saveClip(`${folder}/${name}`, clip, initClip(clip, seed));
  }
  const data = `${folder}/preferences.parquet`;
  await writePreferences(data, await choices(splits.preference));
  return {
    folder,
    base,
    baseXl,
    data,
    pickscore: `${folder}/pickscore`,
    hps: `${folder}/hps`,
    prompts: { validation: splits.validation, test: splits.test },
  };
}

/** Image 0 wins over 1, and 1 over 2: full data of two pairs per prompt, filtered data of one. */
async function choices(prompts: readonly string[]): Promise<PreferenceRow[]> {
  const rows: PreferenceRow[] = [];
  for (const [p, caption] of prompts.entries()) {
    const images = await Promise.all([0, 1, 2].map(async (i) => ({
      uid: `image-${p}-${i}`,
      bytes: await encodeImage({ width: 64, height: 64, data: noise(3 * p + i) }),
      model: "tiny",
    })));
    for (const [winner, loser] of [[0, 1], [1, 2]] as const) {
      const time = new Date(Date.UTC(2024, 0, 1, 0, 0, rows.length));
      const pair = [images[winner]!, images[loser]!] as const;
      rows.push(choiceRow({ caption, images: pair, label0: 1, time, perPrompt: 2 }, rows.length));
    }
  }
  return rows;
}

function noise(step: number): Uint8Array {
  return Uint8Array.from(
    randomUniform({ seed: 5, stream: 0, step }, [64, 64, 3]),
    (u) => Math.floor(256 * u),
  );
}
