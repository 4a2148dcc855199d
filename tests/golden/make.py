"""Makes every golden file: `python make.py [part ...]` (all parts when none is named)."""

import importlib
import json
import os
import sys
from importlib.metadata import version

import torch

import common

PARTS = [
    "unets",
    "vaes",
    "clips",
    "clip_tokens",
    "loras",
    "lora_layouts",
    "written_loras",
    "objectives",
    "schedulers",
    "optimizers",
    "checkpoints",
    "torch_checkpoints",
    "resampling",
    "scorers",
    "preprocessing",
    "parquets",
]


def main() -> None:
    # peft keeps targets in a set, whose order in the LoRA file's metadata follows the hash seed.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    parts = sys.argv[1:] or PARTS
    path = common.ROOT / "manifest.json"
    old = json.loads(path.read_text())["cases"] if path.exists() else []
    for part in parts:
        importlib.import_module(part).make()
        print(part, "made")
    made = {c["kind"] for c in common.MANIFEST}
    cases = [c for c in old if c["kind"] not in made] + common.MANIFEST
    packages = ["torch", "diffusers", "transformers", "peft", "numpy", "safetensors"]
    versions = {p: version(p) for p in packages}
    common.save_json("manifest.json", {"versions": versions, "cases": cases})


if __name__ == "__main__":
    main()
