"""Checkpoints of torch.save: what training writes, every protocol, views, ZIP64, and hostile ones."""

import collections
import io
import os
import pathlib
import zipfile
from unittest import mock

import torch

from common import ROOT, case, save_tensors, seed

FOLDER = ROOT / "torch-checkpoints"


class Evil:
    """Runs a function when it is unpickled by Python."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def tensors() -> dict[str, torch.Tensor]:
    shared = torch.randn(4, 6)
    return {
        "f32": torch.randn(2, 3),
        "f16": torch.randn(3, 1, 2).half(),
        "bf16": torch.randn(5).bfloat16(),
        "f64": torch.randn(3).double(),
        "i64": torch.arange(4),
        "scalar": torch.tensor(4.6052),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        # Views of one storage: whole, a part, turned, with gaps and turned.
        "shared": shared,
        "rows": shared[1:3],
        "turned": shared.t(),
        "gaps": shared[1:, ::2].t(),
    }


def save(name: str, value, **options) -> None:
    torch.save(value, FOLDER / f"{name}.pt", **options)


def make() -> None:
    seed("checkpoints")
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = tensors()
    kept = {k: v for k, v in found.items() if k != "i64"}
    save_tensors(
        "torch-checkpoints/golden.safetensors",
        {k: v.detach().float() if v.dtype != torch.float16 else v for k, v in kept.items()},
    )
    for protocol in (2, 3, 4, 5):
        save(f"protocol-{protocol}", found, pickle_protocol=protocol)
    save("legacy", found, _use_new_zipfile_serialization=False)
    training()
    wide()
    hostile()
    names = sorted(path.stem for path in FOLDER.glob("*.pt"))
    case("torch-checkpoints", "torch-checkpoints", golden="torch-checkpoints/golden.safetensors", files=names)


def training() -> None:
    """What open_clip's training keeps: data-parallel names, an optimiser, a gradient scaler."""
    model = torch.nn.Sequential(collections.OrderedDict(linear=torch.nn.Linear(3, 2)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    prefixed = collections.OrderedDict((f"module.{k}", v) for k, v in state.items())
    prefixed._metadata = state._metadata
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0}
    save("training", {
        "epoch": 3, "name": "run", "state_dict": prefixed,
        "optimizer": optimizer.state_dict(), "scaler": scaler,
    })
    save_tensors("torch-checkpoints/training.safetensors", dict(state))


def wide() -> None:
    """The same archive with every size and offset in ZIP64 fields, as one over 4 GiB has them."""
    source = zipfile.ZipFile(FOLDER / "protocol-2.pt")
    with mock.patch.object(zipfile, "ZIP64_LIMIT", 0), mock.patch.object(
        zipfile, "ZIP_FILECOUNT_LIMIT", 0
    ), zipfile.ZipFile(FOLDER / "zip64.pt", "w") as out:
        for info in source.infolist():
            out.writestr(zipfile.ZipInfo(info.filename), source.read(info))


def hostile() -> None:
    harmless = {"state_dict": {"weight": torch.zeros(2)}}
    for name, evil, protocol in (
        ("os-system", Evil(os.system, "echo harm > harm.txt"), 2),
        ("eval", Evil(eval, "open('harm.txt', 'w')"), 4),
        ("getattr", Evil(getattr, "x", "upper"), 2),
        # A class's __setstate__ may run anything: opcodes NEWOBJ and BUILD.
        ("class", pathlib.PurePosixPath("a"), 2),
        ("instance", io.StringIO("a"), 4),
    ):
        save(f"hostile-{name}", {**harmless, "extra": evil}, pickle_protocol=protocol)
    compressed = zipfile.ZipFile(FOLDER / "hostile-compressed.pt", "w", zipfile.ZIP_DEFLATED)
    with compressed, zipfile.ZipFile(FOLDER / "protocol-2.pt") as source:
        for info in source.infolist():
            name = zipfile.ZipInfo(info.filename)
            name.compress_type = zipfile.ZIP_DEFLATED
            # A bomb: a storage of a mebibyte in a kilobyte.
            large = info.filename.endswith("data/0")
            compressed.writestr(name, bytes(2**20) if large else source.read(info))
