"""CLIP: text and vision towers with and without projection, the two ways of finding the end of
text, the whole model, and its tokenizer."""

import collections

import torch
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

from common import ROOT, case, roughen, save_json, save_model, save_tensors, seed

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


def make_tokenizer() -> None:
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

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
    save_json(
        "clip/tokenizer/tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 24,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "do_lower_case": True,
        },
    )
    slow = CLIPTokenizer.from_pretrained(folder)
    fast = CLIPTokenizerFast.from_pretrained(folder)
    options = dict(padding="max_length", truncation=True, max_length=24)
    rows = []
    for prompt in PROMPTS:
        ids = fast(prompt, **options).input_ids
        row = {"prompt": prompt, "ids": ids, "unpadded": fast(prompt).input_ids}
        # The two tokenizers differ on special tokens inside a text and on rare scripts.
        row["slow_agrees"] = slow(prompt, **options).input_ids == ids
        rows.append(row)
    rows_path = "clip/tokenizer/golden.json"
    save_json(rows_path, {"max_length": 24, "rows": rows})
    case("tokenizer", "tokenizer", model="clip/tokenizer", golden=rows_path)


def make() -> None:
    make_text()
    make_vision()
    make_whole()
    make_tokenizer()
