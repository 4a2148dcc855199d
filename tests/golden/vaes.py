"""AutoencoderKL: moments of the encoder and the decoder's image."""

import torch
from diffusers import AutoencoderKL

from common import case, roughen, save_model, save_tensors, seed

CONFIGS = {
    "sd": dict(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        norm_num_groups=8,
        scaling_factor=0.18215,
    ),
    "nano": dict(
        block_out_channels=(8, 16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.8,
    ),
    # What newer checkpoints switch off: attention in the middle, and the 1x1 convolutions around
    # the latents; and what they add: a shift.
    "plain": dict(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5,
        shift_factor=0.1,
    ),
}
IMAGES = {"sd": (2, 16, 24), "nano": (2, 16, 16), "plain": (1, 12, 10)}


def make() -> None:
    for name, config in CONFIGS.items():
        seed("vae/" + name)
        levels = len(config["block_out_channels"])
        vae = roughen(
            AutoencoderKL(
                in_channels=3,
                out_channels=3,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                sample_size=IMAGES[name][1],
                **config,
            )
        )
        batch, height, width = IMAGES[name]
        images = torch.rand(batch, 3, height, width) * 2 - 1
        posterior = vae.encode(images).latent_dist
        latents = torch.randn_like(posterior.mean)
        save_model(vae, f"vae/{name}")
        save_tensors(
            f"vae/{name}/golden-{name}.safetensors",
            {
                "images": images,
                "mean": posterior.mean,
                "logvar": posterior.logvar,
                "latents": latents,
                "decoded": vae.decode(latents).sample,
            },
        )
        case("vae", name, model=f"vae/{name}", golden=f"vae/{name}/golden-{name}.safetensors")
