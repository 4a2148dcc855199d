"""Images at another size: Pillow's resize of bytes, torchvision's of tensors."""

import hashlib

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from common import case, save_tensors, seed

# Width and height before and after.
SIZES = [
    ((37, 23), (16, 11)),
    ((19, 31), (27, 41)),
    ((40, 30), (40, 7)),
    ((30, 40), (9, 40)),
    ((24, 18), (5, 50)),
    ((120, 2), (3, 9)),
    ((2, 90), (7, 1)),
    ((1, 1), (6, 5)),
    ((1, 9), (4, 3)),
    ((15, 15), (14, 16)),
]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def pattern(side: int) -> np.ndarray:
    """An image that both sides can make: the high byte of a linear congruential generator."""
    state = np.empty(side * side * 3, dtype=np.uint32)
    value = 1
    for i in range(len(state)):
        value = (value * 1664525 + 1013904223) & 0xFFFFFFFF
        state[i] = value
    return (state >> 24).astype(np.uint8).reshape(side, side, 3)


def make() -> None:
    seed("resampling")
    tensors, sizes = {}, []
    for i, ((w, h), (to_w, to_h)) in enumerate(SIZES):
        # Half of the pixels at the ends of the range, where sums leave it.
        pixels = torch.randint(0, 256, (h, w, 3), dtype=torch.uint8)
        extremes = torch.randint(0, 2, (h, w, 3), dtype=torch.uint8) * 255
        pixels = torch.where(torch.rand(h, w, 1) < 0.5, pixels, extremes)
        tensors[f"{i}.input"] = pixels
        for name, kind in FILTERS.items():
            resized = Image.fromarray(pixels.numpy()).resize((to_w, to_h), kind)
            tensors[f"{i}.{name}"] = torch.from_numpy(np.array(resized))
        floats = pixels.permute(2, 0, 1).float() / 255
        for antialias in (False, True):
            out = resize(floats, [to_h, to_w], InterpolationMode.BICUBIC, antialias=antialias)
            tensors[f"{i}.tensor.{'antialiased' if antialias else 'plain'}"] = out.permute(1, 2, 0)
        sizes.append({"from": [w, h], "to": [to_w, to_h]})
    save_tensors("resampling/golden.safetensors", tensors)
    large = Image.fromarray(pattern(1024))
    hashes = {
        f"{name} {w}x{h}": hashlib.sha256(large.resize((w, h), kind).tobytes()).hexdigest()
        for name, kind in FILTERS.items()
        for w, h in ((224, 224), (512, 683))
    }
    case(
        "resampling", "resampling", golden="resampling/golden.safetensors",
        sizes=sizes, pattern=1024, sha256=hashes,
    )
