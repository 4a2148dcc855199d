"""diffusers' forward pass of a U-Net folder, for `deno task scale` to compare with.

    python forward_torch.py FOLDER INPUTS OUTPUT [--threads N]

INPUTS holds `sample` [N, C, H, W], `timestep` [N], `context` [N, L, D] and for SDXL `textEmbeds` and
`timeIds`; OUTPUT gets `output` [N, C, H, W]. Weights are widened to f32. Prints one JSON line.
"""

import argparse
import json
import resource
import time

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("inputs")
    parser.add_argument("output")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    unet = UNet2DConditionModel.from_pretrained(args.folder, torch_dtype=torch.float32)
    given = load_file(args.inputs)
    added = None
    if "textEmbeds" in given:
        added = {"text_embeds": given["textEmbeds"], "time_ids": given["timeIds"]}
    best = float("inf")
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            output = unet(
                given["sample"], given["timestep"], given["context"], added_cond_kwargs=added
            ).sample
            best = min(best, time.perf_counter() - start)
    save_file({"output": output.contiguous()}, args.output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": best, "torch": torch.__version__, "peak": peak}))
