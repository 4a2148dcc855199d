"""LoRA files in every layout that is read, and what the originals compute with them.

An adapter of a few layers of each kind is written in each layout, and, where the original program is
at hand, loaded with it: diffusers for its own, its older and kohya's layout, peft for its own. All
files of an adapter must give one output. `written_loras.py` closes the circle for files that we write.
"""

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from common import ROOT, case, check_conditioning, save_tensors, seed
from unets import build

TRANSFORMER = "attentions.0.transformer_blocks.0"
LAYERS = {
    "sd15": [
        "down_blocks.0.downsamplers.0.conv",
        "down_blocks.1.resnets.0.conv1",
        "down_blocks.1.resnets.0.time_emb_proj",
        "down_blocks.1.attentions.0.proj_in",
        f"down_blocks.1.{TRANSFORMER}.attn1.to_q",
        f"down_blocks.1.{TRANSFORMER}.attn1.to_out.0",
        f"down_blocks.1.{TRANSFORMER}.attn2.to_v",
        f"down_blocks.1.{TRANSFORMER}.ff.net.0.proj",
        f"down_blocks.1.{TRANSFORMER}.ff.net.2",
        "mid_block.resnets.1.conv2",
        f"mid_block.{TRANSFORMER}.attn2.to_k",
        "up_blocks.1.resnets.0.conv_shortcut",
        "up_blocks.1.attentions.1.proj_out",
        "up_blocks.1.upsamplers.0.conv",
        f"up_blocks.2.{TRANSFORMER}.attn1.to_k",
    ],
    "sdxl": [
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.1.attentions.0.proj_in",
        "down_blocks.2.attentions.0.transformer_blocks.1.attn1.to_q",
        f"down_blocks.2.{TRANSFORMER}.attn2.to_out.0",
        f"mid_block.{TRANSFORMER}.ff.net.0.proj",
        "mid_block.resnets.0.conv1",
        "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v",
        "up_blocks.1.resnets.1.conv_shortcut",
        "up_blocks.2.resnets.1.conv2",
    ],
}


def inputs_of(model: str, unet) -> dict[str, torch.Tensor]:
    seed("lora-layouts-inputs/" + model)
    found = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([33.0, 850.0]),
        "context": torch.randn(2, 7, unet.config.cross_attention_dim),
    }
    if unet.config.addition_embed_type == "text_time":
        found["text_embeds"] = torch.randn(2, 20)
        found["time_ids"] = torch.tensor([[64.0, 48.0, 0.0, 0.0, 64.0, 48.0]] * 2)
    return found


def run(unet, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    added = {k: inputs[k] for k in ("text_embeds", "time_ids") if k in inputs} or None
    with torch.no_grad():
        return unet(inputs["sample"], inputs["timestep"], inputs["context"], added_cond_kwargs=added).sample


def pipeline(unet):
    """Enough of a pipeline to load LoRA files into it."""
    parts = dict(vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=None)
    if unet.config.addition_embed_type == "text_time":
        return StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def with_diffusers(model: str, file: Path, inputs) -> torch.Tensor:
    unet = build(model)
    pipeline(unet).load_lora_weights(file.parent, weight_name=file.name)
    return run(unet, inputs)


def with_peft(model: str, folder: Path, inputs) -> torch.Tensor:
    return run(PeftModel.from_pretrained(build(model), folder), inputs)


def save_with_peft(model: str, config: LoraConfig, state, folder: Path) -> None:
    wrapped = get_peft_model(build(model), copy.deepcopy(config))
    names = {k: f"base_model.model.{k.removesuffix('.weight')}.default.weight" for k in state}
    wrapped.load_state_dict({names[k]: v for k, v in state.items()}, strict=False)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink()
    config_file = folder / "adapter_config.json"
    config_file.write_text(config_file.read_text() + "\n")


def agrees(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    error = ((found - expected).norm() / expected.norm()).item()
    print(f"  {name}: {error:.1e}")
    assert error < 1e-5, name


# --- the layouts, by hand --------------------------------------------------------------------


def kohya(state, alphas, ldm=None, prefix="lora_unet_") -> dict[str, torch.Tensor]:
    files = {}
    for key, value in state.items():
        module, half, _ = key.rsplit(".", 2)
        stem = prefix + (ldm(module) if ldm else module).replace(".", "_")
        files[f"{stem}.lora_{'down' if half == 'lora_A' else 'up'}.weight"] = value
        files[f"{stem}.alpha"] = torch.tensor(float(alphas[module]))
    return files


def older_diffusers(state) -> dict[str, torch.Tensor]:
    """Of 2023: attention processors held the adapters of attention layers."""
    files = {}
    for key, value in state.items():
        module, half, _ = key.rsplit(".", 2)
        block, layer = module.replace(".to_out.0", ".to_out").rsplit(".", 1)
        files[f"unet.{block}.processor.{layer}_lora.{'down' if half == 'lora_A' else 'up'}.weight"] = value
    return files


LDM = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}


def sdxl_ldm(module: str) -> str:
    """The original name, for the small U-Net's one layer per block (two on the way up)."""
    parts = module.split(".")
    if parts[0] == "mid_block":
        kind, i, rest = parts[1], int(parts[2]), parts[3:]
        number = 1 if kind == "attentions" else 2 * i
        path = f"middle_block.{number}"
    else:
        block, kind, i, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
        number = 1 + 2 * block + i if parts[0] == "down_blocks" else 2 * block + i
        path = f"{'input' if parts[0] == 'down_blocks' else 'output'}_blocks.{number}.{int(kind == 'attentions')}"
    return ".".join([path, *(LDM.get(p, p) if kind == "resnets" else p for p in rest)])


def make_adapter(name: str, model: str, layers, alpha, rank_pattern=None, alpha_pattern=None):
    """An adapter by peft: its state, every layer's alpha, its configuration, its output."""
    seed("lora-layouts/" + name)
    unet = build(model)
    config = LoraConfig(
        r=2,
        lora_alpha=alpha,
        target_modules=layers,
        rank_pattern=rank_pattern or {},
        alpha_pattern=alpha_pattern or {},
    )
    unet.add_adapter(config)
    with torch.no_grad():
        for key, p in unet.named_parameters():
            if "lora_" in key:
                p.copy_((0.5 * torch.randn_like(p) / p[0].numel() ** 0.5).half().float())
    state = {k: v.detach().clone() for k, v in get_peft_model_state_dict(unet).items()}
    alphas = {layer: (alpha_pattern or {}).get(layer, alpha) for layer in layers}
    inputs = inputs_of(model, unet)
    output = run(unet, inputs)
    check_conditioning(name, unet, inputs, output)
    plain = run(build(model), inputs)
    change = ((output - plain).norm() / plain.norm()).item()
    assert change > 0.02, f"{name} changes the output by {change}"
    save_tensors(f"lora-layouts/{name}/golden.safetensors", {**inputs, "output": output})
    return unet, config, state, alphas, inputs, output


def make_layout(adapter: str, model: str, file: str, **fields) -> None:
    case(
        "lora-layout",
        f"{adapter}/{file}",
        model=f"unet/{model}",
        lora=f"lora-layouts/{adapter}/{file}",
        golden=f"lora-layouts/{adapter}/golden.safetensors",
        text_encoder_layers=fields.pop("text_encoder_layers", 0),
        **fields,
    )


def cast(files, dtype):
    return {k: v.to(dtype) for k, v in files.items()}


def make() -> None:
    # One rank and one alpha, layers of every kind.
    name, model = "sd15", "sd15"
    unet, config, state, alphas, inputs, output = make_adapter(name, model, LAYERS[model], 5)
    folder = ROOT / "lora-layouts" / name
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state, weight_name="diffusers.safetensors", **_collate_lora_metadata({"unet": unet})
    )
    te = {f"lora_te_text_model_encoder_layers_{i}_mlp_fc1": torch.ones(2, 2) for i in range(2)}
    with_te = {f"{k}.lora_{half}.weight": v for k, v in te.items() for half in ("down", "up")}
    with_te.update({f"{k}.alpha": torch.tensor(1.0) for k in te})
    files = {
        "kohya": kohya(state, alphas),
        "kohya-f16": cast(kohya(state, alphas), torch.float16),
        "kohya-with-text-encoder": {**with_te, **kohya(state, alphas)},
    }
    for file, tensors in files.items():
        save_tensors(f"lora-layouts/{name}/{file}.safetensors", tensors)
    for file in ("diffusers", "kohya", "kohya-f16"):
        agrees(f"{name}/{file} with diffusers", with_diffusers(model, folder / f"{file}.safetensors", inputs), output)
    save_with_peft(model, config, state, folder / "peft")
    agrees(f"{name}/peft with peft", with_peft(model, folder / "peft", inputs), output)
    for file in ("diffusers", "kohya", "kohya-f16"):
        make_layout(name, model, f"{file}.safetensors")
    make_layout(name, model, "kohya-with-text-encoder.safetensors", text_encoder_layers=2)
    make_layout(name, model, "peft/adapter_model.safetensors")

    # Attention only, alpha equal to the rank: the layouts that keep no alpha.
    name = "sd15-attention"
    layers = [layer for layer in LAYERS[model] if ".to_" in layer]
    unet, config, state, alphas, inputs, output = make_adapter(name, model, layers, 2)
    unet_names = {f"unet.{k}": v for k, v in state.items()}
    files = {
        "diffusers": {f"unet.{k}": v for k, v in convert_state_dict_to_diffusers(state).items()},
        "diffusers-older": older_diffusers(state),
        "diffusers-adapter-name": {k.replace(".weight", ".default.weight"): v for k, v in unet_names.items()},
        "peft-names-bf16": cast(unet_names, torch.bfloat16),
    }
    folder = ROOT / "lora-layouts" / name
    for file, tensors in files.items():
        save_tensors(f"lora-layouts/{name}/{file}.safetensors", tensors)
        if file != "peft-names-bf16":
            make_layout(name, model, f"{file}.safetensors")
    for file in ("diffusers", "diffusers-older"):
        agrees(f"{name}/{file} with diffusers", with_diffusers(model, folder / f"{file}.safetensors", inputs), output)
    # bf16 keeps 8 bits of the weights, so this file has an output of its own.
    rounded = with_diffusers(model, folder / "peft-names-bf16.safetensors", inputs)
    save_tensors(f"lora-layouts/{name}-bf16/golden.safetensors", {**inputs, "output": rounded})
    case(
        "lora-layout",
        f"{name}/peft-names-bf16",
        model=f"unet/{model}",
        lora=f"lora-layouts/{name}/peft-names-bf16.safetensors",
        golden=f"lora-layouts/{name}-bf16/golden.safetensors",
        text_encoder_layers=0,
    )

    # Ranks and alphas of their own.
    name = "sd15-patterns"
    some = LAYERS[model][4], LAYERS[model][1], LAYERS[model][8]
    unet, config, state, alphas, inputs, output = make_adapter(
        name, model, LAYERS[model], 2, {some[0]: 3, some[1]: 1}, {some[0]: 1.5, some[2]: 7.0}
    )
    folder = ROOT / "lora-layouts" / name
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=state, weight_name="diffusers.safetensors", **_collate_lora_metadata({"unet": unet})
    )
    save_tensors(f"lora-layouts/{name}/kohya.safetensors", kohya(state, alphas))
    save_with_peft(model, config, state, folder / "peft")
    agrees(f"{name}/diffusers with diffusers", with_diffusers(model, folder / "diffusers.safetensors", inputs), output)
    agrees(f"{name}/peft with peft", with_peft(model, folder / "peft", inputs), output)
    kohya_found = with_diffusers(model, folder / "kohya.safetensors", inputs)
    print("  kohya, alphas of their own, diffusers is off by", ((kohya_found - output).norm() / output.norm()).item())
    for file in ("diffusers.safetensors", "kohya.safetensors", "peft/adapter_model.safetensors"):
        make_layout(name, model, file)

    # SDXL, with the original program's block names as kohya's scripts write them.
    name, model = "sdxl", "sdxl"
    unet, config, state, alphas, inputs, output = make_adapter(name, model, LAYERS[model], 2)
    folder = ROOT / "lora-layouts" / name
    save_tensors(f"lora-layouts/{name}/kohya.safetensors", kohya(state, alphas))
    save_tensors(f"lora-layouts/{name}/kohya-ldm.safetensors", kohya(state, alphas, sdxl_ldm))
    for file in ("kohya", "kohya-ldm"):
        agrees(f"{name}/{file} with diffusers", with_diffusers(model, folder / f"{file}.safetensors", inputs), output)
        make_layout(name, model, f"{file}.safetensors")
