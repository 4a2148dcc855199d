"""Token ids of CLIP's real vocabulary for a hard corpus, from both tokenizers of transformers.

`clip/vocabulary/merges.txt.gz` holds the merges of OpenAI's CLIP (MIT licence) as transformers'
`merges.txt` has them: a version line and the first 48,894 merges of `bpe_simple_vocab_16e6.txt.gz`
from open_clip_torch 3.3.0. The vocabulary follows from them.
"""

import gzip
import hashlib
import json
import random
import tempfile
import unicodedata
from pathlib import Path

from transformers import CLIPTokenizer, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from common import ROOT, case, without_ftfy

FOLDER = "clip/vocabulary"
MERGES = 49408 - 2 * 256 - 2

# Written by hand, one group for each thing that is easily got wrong.
GROUPS = {
    "plain": [
        "a photo of an astronaut riding a horse on mars",
        "A Small RED circle above a large blue square on a dark background",
        "highly detailed, 4k, artstation, 1920x1080, octane render, by greg rutkowski",
        "portrait of a woman, oil on canvas, dramatic lighting, f/1.8, 85mm",
        "mixedCASE wORDS iPhone McDonald's USA",
        "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    ],
    "blank": ["", " ", "   ", "\t", "\n\n", " \t\r\n ", "\u00a0", "\u3000\u2003", "\u200b", "\u2028"],
    "contractions": [
        "it isn't what they're saying; we'll see that i'm the one you've been, i'd say it's",
        "IT ISN'T WHAT THEY'RE SAYING; WE'LL SEE I'M THE ONE YOU'VE BEEN, I'D SAY IT'S",
        "it isn\u2019t what they\u2019re saying; we\u2019ll see that i\u2019m it\u2019s",
        "\u2018single\u2019 \u201cdouble\u201d \u00abguillemets\u00bb \u201elow\u201c",
        "'s 't 're 've 'm 'll 'd", "'S'T'RE'VE'M'LL'D", "'sun 'tis 'red 'very 'moon 'llama 'day",
        "rock'n'roll o'clock y'all'd've 'twas", "''s ''' 's's", "dogs' cats' kids'", "can`t won\u00b4t",
        "it'\u017f a '\u017fun", "<|\u017ftartoftext|> long s",
    ],
    "accents": [
        "caf\u00e9 na\u00efve \u00fcber r\u00e9sum\u00e9", "cafe\u0301 nai\u0308ve u\u0308ber",
        "\u00c9COLE \u00c0 C\u00d4T\u00c9", "E\u0301COLE A\u0300", "\u1e69 s\u0323\u0307 s\u0307\u0323", "\u212b \u00c5 A\u030a",
        "\u01c4 \u01c5 \u01c6 \ufb01ligree \ufb00 \ufb03 \ufb06", "\u1e9b\u0323 \u1e9e STRASSE stra\u00dfe", "vi\u1ec7t nam Ti\u1ebfng Vi\u1ec7t",
        "a\u0300\u0301\u0302\u0303\u0304 zalgo t\u0335\u0321e\u0336x\u0337t", "\u0344 \u0385 \u0387", "\u0345\u0399 \u1fb3 \u1fbc",
    ],
    "case": [
        "\u0130stanbul I\u015eIK \u0131\u015f\u0131k", "\u0391\u03a3 \u03a3\u0391\u03a3 \u03a3 \u039f\u0394\u039f\u03a3, \u03a3\u03a3.", "\u039f\u0394\u039f\u03a3\u2019 \u0391\u03a3\u00ad \u0391\u03a3\u0301 \u03a3\u0301\u03a3", "\u0391\u03a3'\u0391 \u0391\u03a3:", "a\u03a3b A\u03a3 1\u03a3 \u03a31",
        "GRO\u1e9e gro\u00df", "\u212aelvin \u2126hm \u2160\u2161\u2162 \u2170\u2171", "\u24b6\u24b7\u24d0", "\ud835\udc00\ud835\udc01".encode("utf-16", "surrogatepass").decode("utf-16"),
        "\u10a0\u10a1 \u1c90\u1c91 \u10d0\u10d1", "\u13a0\u13a1 \uab70\uab71", "\ua64a\u1c88", "\u0401\u0416 \u0451\u0436 \u0422\u0415\u041a\u0421\u0422", "\U00010400\U00010401 \U0001e900",
        "\uff21\uff22\uff23 \uff41\uff42\uff43", "\u0149 \u01f0 \u0390 \u0587",
    ],
    "scripts": [
        "\u4e00\u53ea\u732b and a \u72ac", "\u732b\u732b\u732b", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\u3072\u3089\u304c\u306a\u30ab\u30bf\u30ab\u30ca", "\uff76\uff9e\uff77\uff9e \u304b\u3099 \u304c",
        "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u064b\u0627", "\ufdfa \ufefb",
        "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \ufb2a", "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0915\u094d\u0937 \u0929 \u0928\u093c \u0958",
        "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u0e81\u0eb3\u0ea5\u0eb1\u0e87", "\u1019\u103c\u1014\u103a\u1019\u102c", "\u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51",
        "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "\u03b3\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5", "\u0531\u0550\u0535\u0532 \u0561\u0580\u0565\u0582", "\u1200\u1208\u1210", "\u1820\u180b\u1821\u180e", "\U00020000\U0002a6df \u3400 \uf900 \U0002f800 \U0002b740",
        "\u3005\u3006\u3007 \u31f0 \u2f00 \u2e80 \u3021", "\U00030000 \U0002ebf0", "\u16a0\u16a1 \u2c80\u2c81 \U00013000",
    ],
    "emoji": [
        "emoji \U0001f431 cat!!!", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family", "\U0001f44d\U0001f3fd \U0001f44d\U0001f3ff", "\U0001f1fa\U0001f1f8\U0001f1eb\U0001f1f7",
        "\u2764\ufe0f \u2764\ufe0e \u2764", "1\ufe0f\u20e3 #\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f600\U0001f600\U0001f600",
        "cat\U0001f431dog\U0001f436", "\u2603\u2604\u263a", "\U0001f9d1\U0001f3fb\u200d\U0001f680 in space", "(\u256f\u00b0\u25a1\u00b0)\u256f\ufe35 \u253b\u2501\u253b", "\u00af\\_(\u30c4)_/\u00af",
    ],
    "controls": [
        "a\u0000b", "a\u0001b\u001fc", "a\u000bb\u000cc", "a\u001cb\u001db\u001eb\u001fb", "a\u0085b", "a\u007fb\u009fc", "bell\u0007 esc\u001b[31mred\u001b[0m",
        "zero\u200bwidth\u200cnon\u200djoiner", "\ufeffbom in\ufefffront", "soft\u00adhyphen", "word\u2060joiner", "\u202eright to left\u202c", "\ufffd replacement\ufffd", "\ue000 private \U000f0000", "\ufff9a\ufffab\ufffb",
        "\u2066isolate\u2069", "a\u034fb", "\uffff\ufdd0 noncharacters",
    ],
    "spaces": [
        "  spaces \t and\nnewlines\r\ncollapse  ", "nbsp\u00a0here", "ogham\u1680mark", "en\u2000em\u2003thin\u2009hair\u200a", "line\u2028paragraph\u2029end", "narrow\u202fmedium\u205fideographic\u3000end",
        "mongolian\u180evowel", "tab\tseparated\tvalues", "trailing ", " leading",
    ],
    "numbers": [
        "0123456789", "1920x1080 4k 8K 3d 2.5d", "1,000,000.00", "x\u00b2 + y\u00b3 = z\u2074", "\u00bd \u00bc \u2153 1\u00bd", "\u2160 \u2163 \u216b Henry \u2167", "\u2460\u2461\u2462 \u2776", "\u0661\u0662\u0663 \u0967\u0968\u0969 \u0e51",
        "\uff11\uff12\uff13", "\u2081\u2082 H\u2082O CO\u2082", "\U0001d7d8\U0001d7d9", "\u09f4\u0bf0\u0d70", "year2023model", "1st 2nd 3rd", "\u4e00\u4e8c\u4e09 \u5341", "\u3280\u3289", "\u12470 \u1369",
    ],
    "punctuation": [
        "hyphen-ated under_score a/b a\\b #tag @name 100% $5", "((((masterpiece)))), [[low]], {{best}}", "(a:1.2), (b cat:0.8), [from:to:0.5], <lora:thing:0.7>", "wow!!! really??? no...", "!", "!!", "!!!!!!!!!!!!!!!!!!!!", "a!b !c d!", "! ! !",
        "\u2026 \u2013 \u2014 \u2015 \u00b7 \u2022", "\u3001\u3002\u300c\u300d\uff01\uff1f", "\u00bfqu\u00e9? \u00a1s\u00ed!", "a.b.c ... .a", "~`!@#$%^&*()_+-={}|[]\\:\";'<>?,./", "\u00a9 \u00ae \u2122 \u20ac \u00a3 \u00a5", "\u2200x\u2208\u211d: x\u00b2\u22650", "\u2190\u2191\u2192", "__init__ _ __ a_b",
        "--no-stop-words --ar 16:9 --v 5", "*bold* _italic_ `code`", "\u061f\u060c \u066a", "a;b:c,d.e", "\u00ba\u00aa N\u00ba 1\u00aa",
    ],
    "web": [
        "https://example.com/path?q=cat&n=1#top", "www.example.org user@example.com", "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &quot;q&quot; &#39;s", "fish &amp; chips", "<p>paragraph</p><br/>", "caf\u00c3\u00a9 mojibake \u00e2\u20ac\u2122s", "%20 %E2%80%99 \\u0041 \\n",
    ],
    "special": [
        "<|startoftext|>", "<|endoftext|>", "<|startoftext|> in the text <|endoftext|> after", "glued<|endoftext|>words", "<|ENDOFTEXT|> <|StartOfText|>", "<|endoftext|><|endoftext|>", "< |endoftext| >", "<|endoftext|", "|>endoftext<|", "<|end\u200boftext|>", "<|endoftext|>\u0301a", "a photo <|endoftext|>!", "[CLS] </w> <pad> <s> <unk>", "a</w> b</w>",
        "\u0391\u03a3<|endoftext|>\u0391",
    ],
    "long": [
        "cat " * 74, "cat " * 75, "cat " * 76, "cat " * 200, "the quick brown fox jumps over the lazy dog " * 60, "a" * 1000, "ab" * 500, "z" * 77, "!" * 300, "\u732b" * 100, "\U0001f431" * 60, "supercalifragilistic" * 20, "loremipsumdolor" * 100, "1" * 80, "1 " * 75, "word, " * 37 + "end", "aaaa'aaaa" * 30,
    ],
}

WORDS = (
    "astronaut horse cinematic caf\u00e9 don't 35mm CAT's dragon, (glowing:1.3) masterpiece \u2014 8k \u732b Na\u00efve "
    "\U0001f525 trending! #art @user hyper-realistic \u00bd it\u2019s \u00dcber M\u0101ori \u00e9l\u00e8ve !! <b> &amp; _x_ VI \u2163 ISN'T"
).split()


def random_prompts() -> list[str]:
    """Code points of whole planes, of the blocks of living scripts, and mixtures of words."""
    rng = random.Random(20240617)

    def point(low: int, high: int) -> str:
        while True:
            c = chr(rng.randint(low, high))
            if unicodedata.category(c) not in ("Cs", "Cn"):
                return c

    ranges = [(0x20, 0x7E)] * 3 + [(0x0, 0x17F)] * 3 + [(0x180, 0x5FF)] * 3 + [(0x600, 0x10FF)] * 3
    ranges += [(0x1100, 0x1FFF)] * 3 + [(0x2000, 0x2BFF)] * 3 + [(0x2C00, 0x33FF)] * 2
    ranges += [(0xA000, 0xABFF), (0xF900, 0xFFFD), (0x10000, 0x12FFF), (0x1D000, 0x1FAFF), (0x0, 0x10FFFF)]
    prompts = []
    for low, high in ranges:
        for _ in range(5):
            prompts.append("".join(point(low, high) for _ in range(rng.randint(4, 24))))
    for _ in range(60):
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 30))]
        prompts.append("".join(w + rng.choice([" ", " ", " ", ", ", "", "\u00a0", "  "]) for w in words))
    for _ in range(30):
        prompts.append("".join(rng.choice("aAeE'sStT <|>!.,1\u00e9\u0301\u2019\u03a3_-") for _ in range(40)))
    return prompts


def corpus() -> list[str]:
    return [*(p for group in GROUPS.values() for p in group), *random_prompts()]


START, END = "<|startoftext|>", "<|endoftext|>"


def added(content: str, **change) -> dict:
    plain = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": content, **plain, **change}


# The two tokenizers of SDXL: the first is SD1.5's, and has the older form of the configuration; the
# second pads with "!", which makes of it a special token, wherever it stands.
COMMON = {"do_lower_case": True, "errors": "replace", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
CONFIGS = {
    "first": {
        **COMMON,
        "bos_token": {"__type": "AddedToken", **added(START)},
        "eos_token": {"__type": "AddedToken", **added(END)},
        "unk_token": {"__type": "AddedToken", **added(END)},
        "pad_token": END,
    },
    "second": {
        **COMMON,
        "added_tokens_decoder": {
            "0": added("!", normalized=False, special=True),
            "49406": added(START, special=True),
            "49407": added(END, special=True),
        },
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": "!",
    },
}
# Where a table of characters decides, and the reference's is older than Unicode 17: what a prompt
# holds, the class, and the reason.
YOUNG = [
    (
        "\U0002ebf0",
        "CLIPTokenizer",
        "U+2EBF0 is of Unicode 15.1; Python 3.11, whose tables are of Unicode 14, drops it as no character",
    ),
    (
        "\u089e\u0e38",
        "CLIPTokenizerFast",
        "U+089E is of Unicode 14; the tables of tokenizers 0.22 do not know that it combines, so NFC does "
        "not put U+0E38 before it",
    ),
]


def real_vocabulary() -> tuple[dict[str, int], str]:
    """The content of `vocab.json` and of `merges.txt`."""
    with gzip.open(ROOT / FOLDER / "merges.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read()
    pairs = merges.strip().split("\n")[1:]
    assert len(pairs) == MERGES
    letters = list(bytes_to_unicode().values())
    tokens = letters + [c + "</w>" for c in letters] + [p.replace(" ", "") for p in pairs] + [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def make() -> None:
    vocab, merges = real_vocabulary()
    prompts = corpus()
    found = {}
    with tempfile.TemporaryDirectory() as root:
        for name, config in CONFIGS.items():
            folder = Path(root) / name
            folder.mkdir()
            (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
            (folder / "merges.txt").write_text(merges)
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            for kind in (CLIPTokenizer, CLIPTokenizerFast):
                with without_ftfy():
                    tokenizer = kind.from_pretrained(folder)
                assert getattr(tokenizer, "fix_text", None) is None
                padded = tokenizer(prompts, padding="max_length", truncation=True, max_length=77)
                whole = [len(ids) for ids in tokenizer(prompts).input_ids]
                found[name, kind.__name__] = padded.input_ids, whole

    columns = [(name, kind) for name in CONFIGS for kind in ("CLIPTokenizer", "CLIPTokenizerFast")]
    rows = []
    for i, prompt in enumerate(prompts):
        # Equal rows share one entry: `which` gives, for each column, the index of its ids.
        distinct, which = [], []
        for column in columns:
            ids = (found[column][0][i], found[column][1][i])
            if ids not in distinct:
                distinct.append(ids)
            which.append(distinct.index(ids))
        row = {"prompt": prompt, "ids": [d[0] for d in distinct], "count": [d[1] for d in distinct], "which": which}
        for characters, kind, reason in YOUNG:
            if characters in prompt:
                row["young"] = {"kind": kind, "reason": reason}
        rows.append(row)
    assert sum("young" in row for row in rows) == len(YOUNG)
    text = json.dumps({"configs": CONFIGS, "columns": columns, "rows": rows}, ensure_ascii=False)
    digest = hashlib.sha256("\n".join(vocab).encode()).hexdigest()
    data = gzip.compress(text.encode("utf-8"), mtime=0)
    (ROOT / FOLDER / "golden.json.gz").write_bytes(data)
    print(f"  {len(rows)} prompts, {len(data)} bytes")
    case("clip-tokens", "vocabulary", model=FOLDER, golden=f"{FOLDER}/golden.json.gz", vocab_sha256=digest)
