"""LoRA through peft and diffusers: files as diffusers writes them, outputs, and gradients."""

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from common import ROOT, case, check_conditioning, save_tensors, seed
from unets import build

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
EVERYTHING = ATTENTION + ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"]


def add_lora(unet, rank: int, targets: list[str], alpha: float | None = None) -> None:
    """Adds an adapter whose two halves are both non-zero."""
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets, init_lora_weights="gaussian")
    )
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if "lora_" in name:
                size = 0.25 if "lora_B" in name else 1.0
                p.copy_(size * torch.randn_like(p) / p[0].numel() ** 0.5)


def adapter(unet) -> dict[str, torch.Tensor]:
    return get_peft_model_state_dict(unet)


def lora_gradients(unet, peft_names: bool = False) -> dict[str, torch.Tensor]:
    """Gradients under the names of the saved file (without its "unet." prefix)."""
    found = {}
    for name, p in unet.named_parameters():
        if "lora_" in name:
            found[name.replace(".default", "")] = p.grad
    return found if peft_names else convert_state_dict_to_diffusers(found)


def make() -> None:
    # (case, model, targets, rank, alpha, peft's own names). diffusers' older names exist for
    # attention only: it converts those and leaves the rest, and cannot load such a mixed file.
    cases = [
        ("attention", "sd15", ATTENTION, 4, 4, False),
        ("everything", "sd15", EVERYTHING, 2, 5, True),
        ("everything-linear-projection", "nano", EVERYTHING, 2, 2, True),
        ("attention-peft-names", "sd15", ATTENTION, 4, 4, True),
    ]
    for name, model, targets, rank, alpha, peft_names in cases:
        seed("lora/" + name.removesuffix("-peft-names"))
        unet = build(model)
        add_lora(unet, rank, targets, alpha)
        state = adapter(unet)
        layers = state if peft_names else convert_state_dict_to_diffusers(state)
        folder = f"lora/{name}"
        StableDiffusionPipeline.save_lora_weights(
            ROOT / folder,
            unet_lora_layers=layers,
            **({} if alpha == rank else _collate_lora_metadata({"unet": unet})),
        )
        seed("lora-inputs/" + model)
        inputs = {
            "sample": torch.randn(2, 4, 8, 8),
            "timestep": torch.tensor([33.0, 850.0]),
            "context": torch.randn(2, 7, unet.config.cross_attention_dim),
        }
        probe = torch.randn(2, 4, 8, 8)
        output = unet(inputs["sample"], inputs["timestep"], inputs["context"]).sample
        check_conditioning(name, unet, inputs, output)
        (output * probe).sum().backward()
        gradients = {f"grad.unet.{k}": v for k, v in lora_gradients(unet, peft_names).items()}
        save_tensors(
            f"{folder}/golden.safetensors",
            {**inputs, "probe": probe, "output": output, **gradients},
        )
        case(
            "lora",
            name,
            model=f"unet/{model}",
            lora=f"{folder}/pytorch_lora_weights.safetensors",
            golden=f"{folder}/golden.safetensors",
            rank=rank,
            alpha=alpha,
            targets=targets,
        )
