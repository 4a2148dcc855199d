"""CLIP: text and vision towers with and without projection, the two ways of finding the end of
text, the whole model, and its tokenizer."""

import collections

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPTokenizerFast,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from transformers.models.clip.tokenization_clip import bytes_to_unicode

from common import ROOT, case, roughen, save_json, save_model, save_tensors, seed, without_ftfy
from unets import build

TEXT = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=12,
    projection_dim=24,
    bos_token_id=62,
)
VISION = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=24,
    patch_size=8,
    projection_dim=24,
)
# The legacy value 2 means "the first highest id"; ids end with 63 and are padded with it.
LEGACY_IDS = [
    [62, 5, 9, 40, 63, 63, 63, 63, 63, 63, 63, 63],
    [62, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 63],
    [62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63],
]
# A real end id (61): higher ids occur before it, padding is 0, and a second end follows the first.
END_IDS = [
    [62, 5, 9, 63, 61, 0, 0, 0, 0, 0],
    [62, 2, 3, 4, 5, 6, 7, 8, 9, 61],
    [62, 61, 61, 61, 61, 61, 61, 61, 61, 61],
]


def text_outputs(model, ids) -> dict[str, torch.Tensor]:
    out = model(torch.tensor(ids), output_hidden_states=True)
    inner = model.text_model(torch.tensor(ids))
    found = {
        "ids": torch.tensor(ids, dtype=torch.int32),
        "last_hidden_state": inner.last_hidden_state,
        "pooler_output": inner.pooler_output,
    }
    found.update({f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)})
    if "text_embeds" in out:
        found["text_embeds"] = out.text_embeds
    return found


def make_text() -> None:
    cases = [
        ("quick-gelu-legacy-end", CLIPTextModel, "quick_gelu", 2, LEGACY_IDS),
        ("gelu-end", CLIPTextModel, "gelu", 61, END_IDS),
        ("gelu-projection-end", CLIPTextModelWithProjection, "gelu", 61, END_IDS),
        ("quick-gelu-projection-legacy-end", CLIPTextModelWithProjection, "quick_gelu", 2, LEGACY_IDS),
    ]
    for name, kind, act, end, ids in cases:
        seed("clip-text/" + name)
        config = CLIPTextConfig(**TEXT, hidden_act=act, eos_token_id=end, pad_token_id=0)
        model = roughen(kind(config))
        folder = f"clip/text-{name}"
        save_tensors(f"{folder}/golden.safetensors", text_outputs(model, ids))
        save_model(model, folder)
        case("clip-text", name, model=folder, golden=f"{folder}/golden.safetensors")


def make_vision() -> None:
    for name, act in (("quick-gelu", "quick_gelu"), ("gelu", "gelu")):
        seed("clip-vision/" + name)
        model = roughen(CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, hidden_act=act)))
        pixels = torch.randn(2, 3, 24, 24)
        out = model(pixels, output_hidden_states=True)
        folder = f"clip/vision-{name}"
        tensors = {
            "pixels": pixels,
            "image_embeds": out.image_embeds,
            "last_hidden_state": out.last_hidden_state,
            "pooler_output": model.vision_model(pixels).pooler_output,
        }
        tensors.update({f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)})
        save_tensors(f"{folder}/golden.safetensors", tensors)
        save_model(model, folder)
        case("clip-vision", name, model=folder, golden=f"{folder}/golden.safetensors")


def make_whole() -> None:
    seed("clip/model")
    config = CLIPConfig(
        text_config=dict(TEXT, hidden_act="quick_gelu", eos_token_id=2),
        vision_config=dict(VISION, hidden_act="quick_gelu"),
        projection_dim=24,
    )
    model = roughen(CLIPModel(config))
    pixels, ids = torch.randn(2, 3, 24, 24), torch.tensor(LEGACY_IDS)
    out = model(input_ids=ids, pixel_values=pixels)
    save_tensors(
        "clip/model/golden.safetensors",
        {
            "ids": ids.int(),
            "pixels": pixels,
            "text_features": model.get_text_features(ids),
            "image_features": model.get_image_features(pixels),
            "text_embeds": out.text_embeds,
            "image_embeds": out.image_embeds,
            "logits_per_image": out.logits_per_image,
            "logit_scale": model.logit_scale,
        },
    )
    save_model(model, "clip/model")
    case("clip-model", "model", model="clip/model", golden="clip/model/golden.safetensors")


CORPUS = (
    "a small red circle above a large blue square on a dark background . a photo of a cat , "
    "a painting of the astronaut riding horses in the rain , highly detailed , 4k , artstation . "
    "it isn't what they're saying ; we'll see that i'm the one you've been waiting for , i'd say . "
)

PROMPTS = [
    "",
    "a photo of a cat",
    "A Small RED circle above a large blue square on a dark background",
    "the astronaut's horses aren't riding; they're waiting",
    "highly detailed, 4k, artstation, 1920x1080",
    "  spaces \t and\nnewlines   collapse  ",
    "it isn't what i'd say, we'll see, you've been, i'm",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe",
    "\u4e00\u53ea\u732b and a \u72ac",
    "emoji \U0001f431 cat!!! (((masterpiece)))",
    "hyphen-ated under_score a/b a\\b #tag @name 100% $5",
    "<|startoftext|> in the text <|endoftext|> after",
    "DON'T SHOUT 'quoted' \"double\"",
    "a cat " * 40,
]


def learn_bpe(words: list[str], merges: int) -> list[tuple[str, str]]:
    """Byte-pair merges by frequency, ties by first occurrence."""
    counts = collections.Counter(words)
    split = {w: tuple(w[:-1]) + (w[-1] + "</w>",) for w in counts}
    found = []
    while len(found) < merges:
        pairs = collections.Counter()
        for word, n in counts.items():
            for pair in zip(split[word], split[word][1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = pairs.most_common(1)[0][0]
        found.append(best)
        for word, parts in split.items():
            merged, i = [], 0
            while i < len(parts):
                if parts[i : i + 2] == best:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            split[word] = tuple(merged)
    return found


TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 24,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "do_lower_case": True,
}


def make_tokenizer() -> None:
    """A small vocabulary, once as `vocab.json` and `merges.txt` and once as `tokenizer.json` alone."""
    folder = ROOT / "clip/tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_bpe([w.replace("'", " '").split()[0] for w in CORPUS.split()], 120)
    letters = list(bytes_to_unicode().values())
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    save_json("clip/tokenizer/vocab.json", vocab)
    lines = ["#version: 0.2"] + [" ".join(m) for m in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    save_json("clip/tokenizer/tokenizer_config.json", TOKENIZER)

    fast = CLIPTokenizerFast.from_pretrained(folder, pad_token="!").backend_tokenizer
    fast.enable_truncation(24)
    fast.enable_padding(pad_id=vocab["!"], pad_token="!", length=24)
    alone = ROOT / "clip/tokenizer-json"
    alone.mkdir(exist_ok=True)
    fast.save(str(alone / "tokenizer.json"), pretty=False)

    with without_ftfy():
        slow = CLIPTokenizer.from_pretrained(folder)
    rows = []
    for prompt in PROMPTS:
        ids = slow(prompt, padding="max_length", truncation=True, max_length=24).input_ids
        row = {"prompt": prompt, "ids": ids, "unpadded": slow(prompt).input_ids}
        row["tokenizer_json"] = fast.encode(prompt).ids
        rows.append(row)
    save_json("clip/tokenizer/golden.json", {"max_length": 24, "rows": rows})
    case("tokenizer", "tokenizer", model="clip/tokenizer", golden="clip/tokenizer/golden.json")


def make_sdxl_prompts() -> None:
    """What StableDiffusionXLPipeline tells its U-Net about prompts, with and without zeros for no prompt."""
    seed("clip/sdxl")
    folder = "clip/sdxl"
    with without_ftfy():
        tokenizer = CLIPTokenizer.from_pretrained(ROOT / "clip/tokenizer")
        tokenizer_2 = CLIPTokenizer.from_pretrained(ROOT / "clip/tokenizer", pad_token="!")
    shared = dict(TEXT, vocab_size=len(tokenizer), max_position_embeddings=24, eos_token_id=2)
    narrow = dict(shared, hidden_size=8, intermediate_size=16, hidden_act="quick_gelu")
    wide = dict(shared, hidden_size=16, intermediate_size=32, hidden_act="gelu", projection_dim=20)
    first = roughen(CLIPTextModel(CLIPTextConfig(**narrow)))
    second = roughen(CLIPTextModelWithProjection(CLIPTextConfig(**wide)))
    unet = build("sdxl")
    prompts = ["a photo of a cat!", "", "a cat " * 40]
    negatives = ["rain!", "", "highly detailed"]
    tensors = {}
    for zeros in (True, False):
        pipe = StableDiffusionXLPipeline(
            vae=None,
            text_encoder=first,
            text_encoder_2=second,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=DDIMScheduler(),
            force_zeros_for_empty_prompt=zeros,
        )
        for name, negative in (("none", None), ("given", negatives)):
            context, negative_context, pooled, negative_pooled = pipe.encode_prompt(
                prompts, device="cpu", do_classifier_free_guidance=True, negative_prompt=negative
            )
            tensors.update(
                {
                    "context": context,
                    "text_embeds": pooled,
                    f"context.{name}.zeros-{zeros}".lower(): negative_context,
                    f"text_embeds.{name}.zeros-{zeros}".lower(): negative_pooled,
                }
            )
    tensors["time_ids"] = pipe._get_add_time_ids((48, 64), (0, 0), (48, 64), torch.float32, 20).repeat(3, 1)
    save_tensors(f"{folder}/golden.safetensors", tensors)
    save_model(first, f"{folder}/text_encoder")
    save_model(second, f"{folder}/text_encoder_2")
    case(
        "sdxl-prompts",
        "sdxl",
        model=folder,
        golden=f"{folder}/golden.safetensors",
        prompts=prompts,
        negatives=negatives,
    )


def make() -> None:
    make_text()
    make_vision()
    make_whole()
    make_tokenizer()
    make_sdxl_prompts()
