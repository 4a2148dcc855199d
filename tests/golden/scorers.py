"""Scorers: prompts and pictures of several sizes through the whole of PickScore's and HPSv2's code.

PickScore's is transformers' processor and CLIPModel. HPSv2's is the `hpsv2` package's own fork of
open_clip: its tokenizer, its transform (the picture whole, its long side made 224, padded with
black) and its model. Both models are small and random, with the features of ViT-H/14: exact GELU, a
vision tower whose heads are not as wide as the text tower's, argmax pooling.
"""

import functools
import gzip
import importlib
import importlib.util
import io
import json
import pathlib
import sys
import types
from unittest import mock

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

from common import ROOT, case, roughen, save_json, save_model, seed

SIDE, CONTEXT, EMBEDDING = 28, 24, 16
TEXT = dict(width=16, heads=4, layers=2)
VISION = dict(width=24, heads=2, layers=2, patch=7)
# Width and height: the model's own side, both orientations, too small, long side equal to the
# model's, a long strip whose short side is odd after the resize.
SIZES = [(28, 28), (60, 41), (33, 90), (19, 20), (28, 17), (151, 23)]
PROMPTS = [
    "a small red circle above a large blue square on a dark background",
    "the astronaut's horses aren't riding; they're waiting, highly detailed, 4k, artstation",
    "a photo of a cat",
    "",
    "A Painting &amp; a &quot;photo&quot; of \u201cthe cat\u201d, it isn\u2019t 100%",
    "a cat " * 40,
]


def pictures() -> None:
    """A gradient, a disc and noise, so that every kind of resize shows."""
    for i, (w, h) in enumerate(SIZES):
        y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
        color, back = torch.rand(3), torch.stack([x, y, 1 - x * y], -1)
        disc = ((x - 0.3 - 0.1 * i) ** 2 + (y - 0.5) ** 2 < 0.05)[..., None]
        pixels = torch.where(disc, color, back) + 0.15 * torch.randn(h, w, 3)
        data = (pixels.clamp(0, 1) * 255).round().byte().numpy()
        path = ROOT / f"scorers/images/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data).save(path, optimize=True)


def opened() -> list[Image.Image]:
    return [Image.open(ROOT / f"scorers/images/{i}.png") for i in range(len(SIZES))]


def clip_config() -> dict:
    """Both models' sizes as transformers writes them."""
    vocab = len(json.loads((ROOT / "clip/tokenizer/vocab.json").read_text()))
    return dict(
        projection_dim=EMBEDDING,
        logit_scale_init_value=4.6052,
        text_config=dict(
            vocab_size=vocab,
            hidden_size=TEXT["width"],
            intermediate_size=4 * TEXT["width"],
            num_hidden_layers=TEXT["layers"],
            num_attention_heads=TEXT["heads"],
            max_position_embeddings=CONTEXT,
            hidden_act="gelu",
            bos_token_id=vocab - 2,
            eos_token_id=2,
            projection_dim=EMBEDDING,
        ),
        vision_config=dict(
            hidden_size=VISION["width"],
            intermediate_size=4 * VISION["width"],
            num_hidden_layers=VISION["layers"],
            num_attention_heads=VISION["heads"],
            image_size=SIDE,
            patch_size=VISION["patch"],
            hidden_act="gelu",
            projection_dim=EMBEDDING,
        ),
    )


def make_pickscore() -> None:
    seed("scorers/pickscore")
    model = roughen(CLIPModel(CLIPConfig(**clip_config())))
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    tokenizer = CLIPTokenizerFast.from_pretrained(ROOT / "clip/tokenizer")
    pixels = processor(opened(), return_tensors="pt").pixel_values
    options = dict(padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    images = model.get_image_features(pixel_values=pixels)
    texts = model.get_text_features(**tokenizer(PROMPTS, **options))
    images = images / images.norm(dim=-1, keepdim=True)
    texts = texts / texts.norm(dim=-1, keepdim=True)
    scores = model.logit_scale.exp() * (images * texts).sum(-1)
    save_model(model, "scorers/pickscore")
    processor.save_pretrained(ROOT / "scorers/pickscore")
    case(
        "scorer", "pickscore", model="scorers/pickscore", prompts=PROMPTS,
        scale=model.logit_scale.exp().item(),
        scores={"pickscore": scores.tolist()},
    )


def hpsv2_part(name: str) -> types.ModuleType:
    """A module of the package's open_clip, without the package's own imports of training code."""
    package = "hpsv2_open_clip"
    if package not in sys.modules:
        root = pathlib.Path(importlib.util.find_spec("hpsv2").submodule_search_locations[0])
        sys.modules[package] = types.ModuleType(package)
        sys.modules[package].__path__ = [str(root / "src/open_clip")]
    return importlib.import_module(f"{package}.{name}")


def make_hps() -> None:
    seed("scorers/hps")
    # The wheel lacks its vocabulary, which the module reads when it is imported: it gets ours.
    merges = (ROOT / "clip/tokenizer/merges.txt").read_bytes()
    with mock.patch("gzip.open", lambda path: io.BytesIO(merges.rstrip(b"\n"))):
        tokenizer = hpsv2_part("tokenizer")
    transform, clip = hpsv2_part("transform"), hpsv2_part("model")
    model = roughen(clip.CLIP(
        embed_dim=EMBEDDING,
        vision_cfg=dict(
            image_size=SIDE, layers=VISION["layers"], width=VISION["width"],
            head_width=VISION["width"] // VISION["heads"], patch_size=VISION["patch"],
        ),
        text_cfg=dict(
            context_length=CONTEXT, vocab_size=tokenizer._tokenizer.vocab_size,
            width=TEXT["width"], heads=TEXT["heads"], layers=TEXT["layers"],
        ),
    ))
    ids = tokenizer.tokenize(PROMPTS, context_length=CONTEXT)
    scores = {}
    for antialias in (False, True):
        resize = functools.partial(transform.F.resize, antialias=antialias)
        with mock.patch.object(transform.F, "resize", resize):
            process = transform.image_transform(SIDE, is_train=False, resize_longest_max=True)
            pixels = []
            for image in opened():
                x = process(image)
                # A long side of its own size leaves the transform unpadded, which no model takes.
                assert x.shape[1:] == (SIDE, SIDE) or max(image.size) == SIDE
                if x.shape[1:] != (SIDE, SIDE):
                    x = padded(transform, image)
                pixels.append(x)
        images, texts, _ = model(torch.stack(pixels), ids)
        name = "antialiased" if antialias else "plain"
        scores[name] = (100 * (images * texts).sum(-1)).tolist()
    folder = ROOT / "scorers/hps"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 2, "state_dict": model.half().state_dict()}, folder / "hps.pt")
    save_json("scorers/hps/config.json", clip_config())
    case(
        "scorer", "hps", model="scorers/hps/hps.pt", prompts=PROMPTS, scores=scores,
        cleaned=[tokenizer.whitespace_clean(tokenizer.basic_clean(p)) for p in PROMPTS],
        ids=ids.tolist(),
    )


def padded(transform, image: Image.Image) -> torch.Tensor:
    """What the transform's other sizes get: black around the picture, then the normalisation."""
    x = transform.ToTensor()(image.convert("RGB"))
    right, below = SIDE - x.shape[2], SIDE - x.shape[1]
    x = transform.F.pad(x, [right // 2, below // 2, right - right // 2, below - below // 2], 0)
    return transform.Normalize(transform.OPENAI_DATASET_MEAN, transform.OPENAI_DATASET_STD)(x)


def make_full_size() -> None:
    """Names and shapes of ViT-H/14 in both libraries, made without memory for the weights."""
    clip = hpsv2_part("model")
    root = pathlib.Path(hpsv2_part("model").__file__).parent
    sizes = json.loads((root / "model_configs/ViT-H-14.json").read_text())
    towers = dict(hidden_act="gelu", projection_dim=1024)
    config = CLIPConfig(
        projection_dim=1024,
        text_config=dict(
            towers, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16,
        ),
        vision_config=dict(
            towers, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
            num_attention_heads=16, patch_size=14,
        ),
    )
    with torch.device("meta"):
        models = {"transformers": CLIPModel(config), "openClip": clip.CLIP(**sizes)}
    shapes = {
        k: {name: list(p.shape) for name, p in m.named_parameters()} for k, m in models.items()
    }
    packed = gzip.compress(json.dumps(shapes, sort_keys=True).encode(), mtime=0)
    (ROOT / "scorers/vit_h_14.json.gz").write_bytes(packed)


def make() -> None:
    seed("scorers")
    pictures()
    make_pickscore()
    make_hps()
    make_full_size()
