"""Checkpoints as users have them: single files in the original (LDM) layout, and a folder of sharded
fp16 variants. For a single file there are no weights here but a list of its tensors: their elements
follow from a formula, and what diffusers' own converters make of them is kept as checksums."""

import gzip
import json
import re
import shutil
import zlib

import numpy
import torch
from diffusers import (
    AutoencoderKL,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    infer_diffusers_model_type,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from common import ROOT, case

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"


def unet_config(channels, attends, layers, **others) -> dict:
    down = [CROSS if a else PLAIN for a in attends]
    up = [d.replace("Down", "Up") for d in reversed(down)]
    return dict(
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=layers,
        **others,
    )


def vae_config(channels, layers, **others) -> dict:
    return dict(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=layers,
        **others,
    )


def text_config(width, layers, vocabulary, positions, act, projection) -> dict:
    return dict(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=positions,
        hidden_act=act,
        projection_dim=projection,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )


SD_VAE = dict(sample_size=512, scaling_factor=0.18215)
XL_VAE = dict(sample_size=1024, scaling_factor=0.13025)
XL_UNET = dict(sample_size=128, use_linear_projection=True, addition_embed_type="text_time")

# The real models' configurations, and small ones of the same kind.
MODELS = {
    "sd15": dict(
        unet=unet_config(
            [320, 640, 1280, 1280],
            [True, True, True, False],
            2,
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
        ),
        vae=vae_config([128, 256, 512, 512], 2, **SD_VAE),
        text_encoder=text_config(768, 12, 49408, 77, "quick_gelu", 768),
    ),
    "sdxl": dict(
        unet=unet_config(
            [320, 640, 1280],
            [False, True, True],
            2,
            cross_attention_dim=2048,
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            **XL_UNET,
        ),
        vae=vae_config([128, 256, 512, 512], 2, **XL_VAE),
        text_encoder=text_config(768, 12, 49408, 77, "quick_gelu", 768),
        text_encoder_2=text_config(1280, 32, 49408, 77, "gelu", 1280),
    ),
    "sd15-small": dict(
        unet=unet_config(
            [32, 64, 64],
            [True, True, False],
            2,
            sample_size=64,
            cross_attention_dim=64,
            attention_head_dim=8,
        ),
        vae=vae_config([32, 64], 2, **SD_VAE),
        text_encoder=text_config(64, 2, 700, 24, "quick_gelu", 768),
    ),
    "sdxl-small": dict(
        unet=unet_config(
            [64, 64, 128],
            [False, True, True],
            1,
            cross_attention_dim=192,
            transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[1, 1, 2],
            addition_time_embed_dim=16,
            projection_class_embeddings_input_dim=6 * 16 + 96,
            **XL_UNET,
        ),
        vae=vae_config([32, 64], 1, **XL_VAE),
        text_encoder=text_config(64, 1, 700, 24, "quick_gelu", 768),
        text_encoder_2=text_config(128, 2, 700, 24, "gelu", 96),
    ),
}
# The numbers of parameters that are told of the real models.
PARAMETERS = {
    "sd15": dict(unet=859_520_964, vae=83_653_863, text_encoder=123_060_480),
    "sdxl": dict(unet=2_567_463_684, vae=83_653_863, text_encoder=123_060_480, text_encoder_2=694_659_840),
}
CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
# Tensors that the published files carry beside the model's.
TABLES = [
    *("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod"),
    *("sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod"),
    *("sqrt_recipm1_alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped"),
    *("posterior_mean_coef1", "posterior_mean_coef2"),
]


def values(name: str, shape, dtype: torch.dtype) -> torch.Tensor:
    """Multiples of 2^-14 between -1/16 and 1/16, which f16 holds exactly, as the name has them."""
    count = int(numpy.prod(shape))
    i = numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(zlib.crc32(name.encode()))
    hashed = (i * numpy.uint64(2654435761) % numpy.uint64(2**32)) >> numpy.uint64(21)
    numbers = (hashed.astype(numpy.float64) - 1024) / 2**14
    return torch.from_numpy(numbers).reshape(tuple(shape)).to(dtype)


def build(part: str, config: dict) -> torch.nn.Module:
    if part in CLASSES:
        return CLASSES[part](**config)
    kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    return kind(CLIPTextConfig(**config))


RESNET = dict(
    norm1="in_layers.0",
    conv1="in_layers.2",
    time_emb_proj="emb_layers.1",
    norm2="out_layers.0",
    conv2="out_layers.3",
    conv_shortcut="skip_connection",
)
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_to_ldm(state: dict, config: dict) -> dict:
    """The original names, by walking through the blocks in the order in which LDM numbers them."""
    modules = dict(UNET)

    def resnet(ours: str, ldm: str) -> None:
        modules.update({f"{ours}.{k}": f"{ldm}.{v}" for k, v in RESNET.items()})

    layers, number = config["layers_per_block"], 1
    for i in range(len(config["block_out_channels"])):
        for j in range(layers):
            resnet(f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0")
            modules[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        modules[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
        number += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    modules["mid_block.attentions.0"] = "middle_block.1"
    resnet("mid_block.resnets.1", "middle_block.2")
    number = 0
    for i, kind in enumerate(config["up_block_types"]):
        for j in range(layers + 1):
            resnet(f"up_blocks.{i}.resnets.{j}", f"output_blocks.{number}.0")
            modules[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        place = 2 if kind.startswith("Cross") else 1
        modules[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"

    found = {}
    for name, tensor in state.items():
        parts = name.split(".")
        end = next(k for k in range(len(parts), 0, -1) if ".".join(parts[:k]) in modules)
        found[".".join([modules[".".join(parts[:end])], *parts[end:]])] = tensor
    return found


def vae_to_ldm(state: dict, config: dict) -> dict:
    top = len(config["block_out_channels"]) - 1
    found = {}
    for name, tensor in state.items():
        ldm = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        ldm = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", ldm)
        ldm = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{top - int(m[1])}.block", ldm)
        ldm = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{top - int(m[1])}.upsample", ldm)
        ldm = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", ldm)
        if "mid_block.attentions.0" in ldm:
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
            ldm = ldm.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            ldm = re.sub(r"to_([qkv])", r"\1", ldm).replace("to_out.0", "proj_out")
        ldm = ldm.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        found[ldm] = tensor
    return found


def clip_to_open_clip(state: dict) -> dict:
    names = [
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("text_model.embeddings.token_embedding", "token_embedding"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("layer_norm", "ln_"),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("self_attn.out_proj", "attn.out_proj"),
    ]
    found = {}
    for name, tensor in state.items():
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
            continue
        ldm = name
        for ours, theirs in names:
            ldm = ldm.replace(ours, theirs)
        if "k_proj" in ldm or "v_proj" in ldm:
            continue
        if "q_proj" in ldm:
            ldm = ldm.replace("self_attn.q_proj.", "attn.in_proj_")
            tensor = torch.cat([state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"])
        found[ldm] = tensor
    return found


def original(name: str, states: dict) -> dict:
    """A whole file in the original layout."""
    config = MODELS[name]
    xl = "text_encoder_2" in states
    clip = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
    file = {f"model.diffusion_model.{k}": v for k, v in unet_to_ldm(states["unet"], config["unet"]).items()}
    file |= {f"first_stage_model.{k}": v for k, v in vae_to_ldm(states["vae"], config["vae"]).items()}
    file |= {clip + k: v for k, v in states["text_encoder"].items()}
    if xl:
        second = clip_to_open_clip(states["text_encoder_2"])
        file |= {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}
    return file


def converted(name: str, file: dict, models: dict) -> dict:
    """What diffusers' converters make of it."""
    config = MODELS[name]
    found = {
        "unet": convert_ldm_unet_checkpoint(dict(file), config["unet"]),
        "vae": convert_ldm_vae_checkpoint(dict(file), config["vae"]),
        "text_encoder": convert_ldm_clip_checkpoint(dict(file)),
    }
    if "text_encoder_2" in models:
        prefix = "conditioner.embedders.1.model."
        second = convert_open_clip_checkpoint(models["text_encoder_2"], dict(file), prefix)
        found["text_encoder_2"] = second
    return found


def extras(name: str) -> dict:
    """Tensors that no part needs."""
    if name.startswith("sdxl"):
        clip = "conditioner.embedders.0.transformer."
        found = {"conditioner.embedders.1.model.logit_scale": ["F32", []], "denoiser.sigmas": ["F32", [1000]]}
    else:
        clip = "cond_stage_model.transformer."
        found = {table: ["F32", [1000]] for table in TABLES}
        found["model_ema.decay"] = ["F32", []]
        found["model_ema.num_updates"] = ["I32", []]
        found["model_ema.diffusion_modelinput_blocks00weight"] = ["F32", [2, 4, 3, 3]]
    positions = MODELS[name]["text_encoder"]["max_position_embeddings"]
    found[f"{clip}text_model.embeddings.position_ids"] = ["I64", [1, positions]]
    return found


def save_gzip(path: str, content) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"))
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().tobytes())


def make_single_file(name: str) -> None:
    small = name.endswith("-small")
    with torch.device("meta"):
        models = {part: build(part, config) for part, config in MODELS[name].items()}
    for part, count in PARAMETERS.get(name, {}).items():
        assert count == sum(p.numel() for p in models[part].parameters()), (name, part)
    states = {part: model.half().state_dict() for part, model in models.items()}
    file = original(name, states)
    if small:
        # U-Net and text encoders in f16, as most files have them, and the VAE in f32.
        dtype = lambda key: torch.float32 if key.startswith("first_stage_model.") else torch.float16
        file = {key: values(key, t.shape, dtype(key)) for key, t in file.items()}
    parts = converted(name, file, models)
    expected_kind = "xl_base" if name == "sdxl" else "v1"
    if not small:
        assert infer_diffusers_model_type(file) == expected_kind, name
    for part, state in states.items():
        shapes = {key: list(t.shape) for key, t in state.items()}
        assert shapes == {key: list(parts[part][key].shape) for key in shapes}, (name, part)
        assert parts[part].keys() == shapes.keys(), (name, part, parts[part].keys() ^ shapes.keys())
    content = {
        "config": MODELS[name],
        "file": {
            **{key: ["F32" if t.dtype == torch.float32 else "F16", list(t.shape)] for key, t in file.items()},
            **extras(name),
        },
        "parts": {
            part: {
                key: [list(t.shape), *([checksum(t)] if small else [])]
                for key, t in parts[part].items()
            }
            for part in states
        },
    }
    path = f"checkpoint/{name}.json.gz"
    save_gzip(path, content)
    case("single-file", name, golden=path)


FOLDER = dict(
    unet=unet_config(
        [4, 8],
        [True, False],
        1,
        sample_size=8,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
    ),
    vae=vae_config([4, 8], 1, sample_size=16, norm_num_groups=2),
    text_encoder={
        **text_config(64, 1, 700, 24, "quick_gelu", 8),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
    },
)


def make_folder() -> None:
    """A pipeline as `save_pretrained(variant="fp16")` writes it, in shards."""
    models = {part: build(part, config) for part, config in FOLDER.items()}
    sums = {}
    for part, model in models.items():
        state = {key: values(f"{part}.{key}", t.shape, torch.float16) for key, t in model.state_dict().items()}
        model.half().load_state_dict(state)
        sums[part] = {key: checksum(t) for key, t in state.items()}
    folder = ROOT / "checkpoint/fp16-shards"
    shutil.rmtree(folder, ignore_errors=True)
    StableDiffusionPipeline(
        **models,
        tokenizer=CLIPTokenizer.from_pretrained(ROOT / "clip/tokenizer"),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, variant="fp16", max_shard_size="10KB")
    # The tests take that of clip/tokenizer.
    shutil.rmtree(folder / "tokenizer")
    save_gzip("checkpoint/fp16-shards.json.gz", sums)
    case("pipeline-folder", "fp16-shards", model="checkpoint/fp16-shards", golden="checkpoint/fp16-shards.json.gz")


def make() -> None:
    for name in MODELS:
        make_single_file(name)
    make_folder()
