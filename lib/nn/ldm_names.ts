/**
 * A U-Net's modules as the original program (latent diffusion, LDM) names them: it numbers its blocks
 * through all resolutions. Single-file checkpoints and the LoRAs of some programs have these names.
 *
 * @module
 */

/** Beginnings of paths outside the blocks. */
const ENDS: Readonly<Record<string, string>> = {
  "conv_in": "input_blocks.0.0",
  "conv_norm_out": "out.0",
  "conv_out": "out.2",
  "time_embedding.linear_1": "time_embed.0",
  "time_embedding.linear_2": "time_embed.2",
  "add_embedding.linear_1": "label_emb.0.0",
  "add_embedding.linear_2": "label_emb.0.2",
};

const RESNET: Readonly<Record<string, string>> = {
  norm1: "in_layers.0",
  conv1: "in_layers.2",
  time_emb_proj: "emb_layers.1",
  norm2: "out_layers.0",
  conv2: "out_layers.3",
  conv_shortcut: "skip_connection",
};

/**
 * From diffusers' module paths of a U-Net to those of latent diffusion.
 *
 * @param modules All of the U-Net's module paths: how many layers its blocks have follows from them.
 */
export function ldmNames(modules: readonly string[]): (path: string) => string {
  const all = new Set(modules);
  /** How many layers the blocks before this one have. */
  const layersOf = (block: string) => {
    let n = 0;
    while (all.has(`${block}.resnets.${n}.conv1`)) n++;
    return n;
  };
  return (path) => {
    const parts = path.split(".");
    const [side, number, part, index, ...rest] = parts as [string, string, string, string];
    const inside = rest.join(".");
    if (side === "mid_block") {
      const [, kind, i, ...rest] = parts;
      return kind === "attentions"
        ? `middle_block.1.${rest.join(".")}`
        : `middle_block.${2 * Number(i)}.${RESNET[rest[0]!] ?? rest.join(".")}`;
    }
    if (side !== "down_blocks" && side !== "up_blocks") return ENDS[path] ?? path;
    const down = side === "down_blocks";
    const block = `${side}.${number}`;
    // conv_in is number 0. A downsampler has a number of its own, an upsampler that of the last layer.
    let first = down ? 1 : 0;
    for (let i = 0; i < Number(number); i++) first += layersOf(`${side}.${i}`) + (down ? 1 : 0);
    const stem = (layer: number) => `${down ? "input" : "output"}_blocks.${first + layer}`;
    switch (part) {
      case "resnets":
        return `${stem(Number(index))}.0.${RESNET[inside] ?? inside}`;
      case "attentions":
        return `${stem(Number(index))}.1.${inside}`;
      case "downsamplers":
        return `${stem(layersOf(block))}.0.op`;
      default: {
        const attends = all.has(`${block}.attentions.0.proj_in`);
        return `${stem(layersOf(block) - 1)}.${attends ? 2 : 1}.conv`;
      }
    }
  };
}
