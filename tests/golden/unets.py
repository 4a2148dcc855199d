"""UNet2DConditionModel: outputs and every encoder feature, for each layout that is supported."""

import torch
from diffusers import UNet2DConditionModel

from common import case, check_conditioning, roughen, save_model, save_tensors, seed

COMMON = dict(in_channels=4, out_channels=4, norm_num_groups=8, layers_per_block=1)

CONFIGS = {
    # Stable Diffusion 1.5: convolutional projections, attention_head_dim means the number of heads.
    "sd15": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(16, 24, 24),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
    ),
    # Stable Diffusion 1.5 with its two layers per block and 8 heads.
    "sd15-two-layers": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(16, 24),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=8,
    ),
    # Stable Diffusion 2: linear projections, a list of heads, upcast attention.
    "sd2": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(16, 24),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        upcast_attention=True,
    ),
    # SDXL: no attention at the top, deep transformers, pooled text and size embeddings.
    "sdxl": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(8, 16, 24),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 1, 2],
        cross_attention_dim=24,
        attention_head_dim=[2, 4, 6],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
    ),
    # The nano lineage's layout at smaller widths (32/64/96 at full size).
    "nano": dict(
        COMMON,
        sample_size=16,
        block_out_channels=(8, 16, 24),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        use_linear_projection=True,
    ),
    # Two levels of the nano layout: what the objectives are computed on.
    "objectives": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(16, 24),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        use_linear_projection=True,
    ),
    # No attention in the down and up blocks; cross-attention in the middle only. One channel per
    # group at the top, as in the nano lineage at full size.
    "mid-only": dict(
        COMMON,
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        attention_head_dim=4,
    ),
}

# (case, model, batch, height, width, context length, timesteps)
CASES = [
    ("sd15", "sd15", 2, 8, 8, 7, [1.0, 981.0]),
    ("sd15-odd", "sd15", 3, 10, 14, 7, [0.0, 500.25, 999.0]),
    ("sd15-two-layers", "sd15-two-layers", 2, 8, 8, 16, [20.0, 640.5]),
    ("sd2", "sd2", 1, 8, 12, 5, [301.0]),
    ("sdxl", "sdxl", 2, 8, 8, 7, [5.0, 750.0]),
    ("sdxl-odd", "sdxl", 1, 9, 7, 3, [999.0]),
    ("nano", "nano", 2, 16, 16, 16, [12.0, 900.0]),
    ("objectives", "objectives", 2, 8, 8, 6, [4.0, 998.0]),
    ("mid-only", "mid-only", 1, 8, 8, 4, [77.0]),
]


def build(name: str) -> UNet2DConditionModel:
    seed("unet/" + name)
    return roughen(UNet2DConditionModel(**CONFIGS[name]))


def features(unet: UNet2DConditionModel, *args, **kwargs) -> dict[str, torch.Tensor]:
    """One forward pass, with what passes between the blocks."""
    found: dict[str, torch.Tensor] = {}
    residuals: list[torch.Tensor] = []

    def conv_in(_module, _inputs, out):
        residuals.append(out)

    def down(_module, _inputs, out):
        found["last"] = out[0]
        residuals.extend(out[1])

    def mid(_module, _inputs, out):
        found["mid"] = out

    hooks = [unet.conv_in.register_forward_hook(conv_in)]
    hooks += [block.register_forward_hook(down) for block in unet.down_blocks]
    hooks += [unet.mid_block.register_forward_hook(mid)]
    try:
        found["output"] = unet(*args, **kwargs).sample
    finally:
        for hook in hooks:
            hook.remove()
    found.update({f"residual.{i}": r for i, r in enumerate(residuals)})
    return found


def make() -> None:
    models = {name: build(name) for name in CONFIGS}
    for name, model in models.items():
        # One model in f32, so that both storage types are read.
        save_model(model, f"unet/{name}", half=name != "mid-only")
    for name, model_name, batch, height, width, length, timesteps in CASES:
        seed("unet-case/" + name)
        unet = models[model_name]
        inputs = {
            "sample": torch.randn(batch, 4, height, width),
            "timestep": torch.tensor(timesteps),
            "context": torch.randn(batch, length, unet.config.cross_attention_dim),
        }
        added = None
        if unet.config.addition_embed_type == "text_time":
            inputs["text_embeds"] = torch.randn(batch, 20)
            inputs["time_ids"] = torch.randint(0, 1024, (batch, 6)).float()
            added = {k: inputs[k] for k in ("text_embeds", "time_ids")}
        out = features(
            unet, inputs["sample"], inputs["timestep"], inputs["context"], added_cond_kwargs=added
        )
        check_conditioning(name, unet, inputs, out["output"])
        save_tensors(f"unet/{model_name}/golden-{name}.safetensors", {**inputs, **out})
        case(
            "unet",
            name,
            model=f"unet/{model_name}",
            golden=f"unet/{model_name}/golden-{name}.safetensors",
            residuals=sum(k.startswith("residual.") for k in out),
        )
