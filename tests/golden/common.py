"""What every golden case shares: seeded weights, files with plain names, and the manifest."""

import contextlib
import copy
import json
import pathlib
import sys
import zlib

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).parent
MANIFEST: list[dict] = []


def seed(name: str) -> None:
    """Makes every case independent of the order in which cases are made."""
    torch.manual_seed(zlib.crc32(name.encode()))


def roughen(model: torch.nn.Module) -> torch.nn.Module:
    """Moves norms and biases off 1 and 0, so that a forgotten one shows, and rounds to f16.

    Rounded weights can be stored in 16 bits and widen to exactly what PyTorch computed with.
    """
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim <= 1:
                p.add_(0.1 * torch.randn_like(p))
            p.copy_(p.half().float())
    return model.eval().requires_grad_(False)


def save_model(model, folder: str, half: bool = True) -> None:
    """Writes config.json and weights as the library itself does, in f16 where asked."""
    path = ROOT / folder
    path.mkdir(parents=True, exist_ok=True)
    if half:
        model.half()
    model.save_pretrained(path, safe_serialization=True)
    model.float()
    for extra in path.glob("generation_config.json"):
        extra.unlink()


def save_tensors(path: str, tensors: dict[str, torch.Tensor], metadata: dict | None = None) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    flat = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(flat, str(file), metadata=metadata)


def save_json(path: str, value) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def without_ftfy():
    """Loads transformers' CLIPTokenizer as a plain installation has it: it repairs text where ftfy is found."""
    hidden = sys.modules.get("ftfy")
    sys.modules["ftfy"] = None
    try:
        yield
    finally:
        del sys.modules["ftfy"]
        if hidden is not None:
            sys.modules["ftfy"] = hidden


def check_conditioning(name: str, unet, inputs: dict, output: torch.Tensor) -> None:
    """Refuses a case whose rounding errors would hide a real one."""
    exact = copy.deepcopy(unet).double()
    wide = {k: v.double() for k, v in inputs.items()}
    added = {k: wide[k] for k in ("text_embeds", "time_ids") if k in wide} or None
    with torch.no_grad():
        args = wide["sample"], wide["timestep"], wide["context"]
        reference = exact(*args, added_cond_kwargs=added).sample
    error = (reference - output).abs().max() / reference.abs().max()
    print(f"  {name}: f32 against f64 {error:.1e}")
    if error > 2e-5:
        raise ValueError(f"{name}: f32 differs from f64 by {error:.1e} of the largest output")


def case(kind: str, name: str, **fields) -> None:
    MANIFEST.append({"kind": kind, "name": name, **fields})
