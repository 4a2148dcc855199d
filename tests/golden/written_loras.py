"""LoRA files that this project writes, loaded by the programs they are meant for.

Runs `tests/nn/written_loras.ts` with Deno (the command in the variable DENO, default `deno`), loads
its files with diffusers or peft, and keeps what those compute and the files' digests: the TypeScript
test writes the files again, and has to get these bytes and these outputs.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from safetensors.torch import load_file

from common import ROOT, case, save_tensors
from lora_layouts import agrees, with_diffusers, with_peft


def make() -> None:
    deno = os.environ.get("DENO", "deno").split()
    script = ROOT.parent / "nn" / "written_loras.ts"
    with tempfile.TemporaryDirectory() as folder:
        command = [*deno, "run", "--no-prompt", "-A", str(script), folder]
        out = subprocess.run(command, cwd=ROOT.parent.parent, check=True, stdout=subprocess.PIPE)
        for lora in json.loads(out.stdout):
            golden = load_file(ROOT / lora["golden"])
            expected = golden.pop("output")
            file = Path(lora["files"][0])
            if lora["format"] == "peft":
                found = with_peft(lora["model"], file.parent, golden)
            else:
                found = with_diffusers(lora["model"], file, golden)
            agrees(f"{lora['name']}, written here", found, expected)
            digest = hashlib.sha256(b"".join(Path(f).read_bytes() for f in lora["files"])).hexdigest()
            path = f"lora-written/{lora['name']}.safetensors"
            save_tensors(path, {"output": found})
            case("lora-written", lora["name"], model=f"unet/{lora['model']}", golden=path, sha256=digest)
