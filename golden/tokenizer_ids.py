"""Token ids from outside witnesses, for the tokenizers that lns-tokenizer builds from GGUF metadata.

    python golden/tokenizer_ids.py small
        trains two tiny vocabularies, tokenises some awkward strings and writes
        golden/tokenizer_ids.json, which the crate's tests compare with.

    python golden/tokenizer_ids.py large MODEL.gguf OUT
        writes OUT/text.txt (about 1 MB) and one OUT/WITNESS.ids (u32, little-endian) each for
        `original` (the pipeline of SmolLM's own tokenizer.json over the file's vocabulary),
        `transformers` (its GGUF conversion) and, where the package is installed, `llama.cpp`
        (xllamacpp); prints counts, sha256 and the first differences. Ours:
        cargo run --release -p lns-tokenizer --example tokenize -- MODEL.gguf OUT/text.txt OUT/ours.ids

Made with transformers 5.23, tokenizers 0.23.3, gguf 0.19. The texts are this script's own.
"""

import argparse
import hashlib
import json
import random
import struct
import urllib.request
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    convert_gguf_tokenizer,
)

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "golden/tokenizer_ids.json"

ENGLISH = """The river rose in the night and by morning the lower fields were under water. She'd
never seen it so high, and they'll tell you it hasn't been since. We're told that 1928 was worse:
12 barns, 340 sheep and 7 bridges lost. I'm not sure; the old man's ledger says 2,048 pounds."""
CODE = """def area(width, height):
    if width < 0 or height < 0:
        raise ValueError(f"negative: {width}x{height}")
    return width * height  # 0x1F, 1e-5, 3.14159

for(int i=0;i<100;++i){\tsum+=a[i]*b[i];\t}

| layer |   rms |\r\n|     0 |  1.25 |\r\n|    11 | 45.00 |\r\n"""
CHINESE = "河水在夜里上涨。到早晨,低处的田地都在水下。一九二八年更糟:12座谷仓、340只羊。価格は¥1,200です。서울은 맑음"
OTHER = "Ñandú naïve café e\u0301tude Ångström Привет, мир! Γειά σου. नमस्ते दुनिया שלום مرحبا ½ ² Ⅷ ٣٤"
EMOJI = "😀😃 👩‍👩‍👧 🇺🇳 ✨→✓ 🏽 ❤️"
SPACES = ["\n\n1", "  12", "\t7", "   x", " \n ", "\u00a0", "\u3000", "\r\n\r\n", "\u2028", "\n\n\n", "    "]
PIECES = ENGLISH.split() + CODE.split("\n") + CHINESE.split("。") + OTHER.split() + EMOJI.split()

STRINGS = [
    "", " ", "a", " a", "  a", "a ", "a  ", "\n", "\n\na", "a\n\n b", "a \n b", "a\t\tb", "\r\n x\r\n",
    "The river rose in the night.", "She'd SHE'D they'll THEY'LL it's IT'S 's",
    "x1 x12 x123 x1234 12345678", "In 1928, 12 barns.", "  12", "\n\n12", "a  12", "(3) 3.14159 1e-5",
    CODE, CHINESE, OTHER, EMOJI, "a\u00a0b\u3000c\u2028d", "don't!!!\n\nWhy?/\n//x", "iPhone XMLHttp McX",
    "<|im_start|>user\nhi<|im_end|>", "x <|im_start|> y", "a<tool>b <tool> c", "quixotic", " quixotic",
    "\x00\x01\x7f", "\ufeffbom", "ſ'ſ 'S",
]


def text_of_a_megabyte():
    """Mixed text: prose, code, numbers, tables, emoji, scripts, odd white space."""
    draw = random.Random(20240501)
    parts, size = [], 0
    while size < 1_000_000:
        kind = draw.random()
        if kind < 0.45:
            words = draw.choices(ENGLISH.split(), k=draw.randint(5, 40))
            part = " ".join(words) + draw.choice([" ", "\n", "\n\n"])
        elif kind < 0.55:
            part = draw.choice([CODE, CHINESE, OTHER, EMOJI]) + draw.choice(["", "\n", " "])
        elif kind < 0.75:
            digits = "".join(draw.choices("0123456789", k=draw.randint(1, 12)))
            part = draw.choice(["", " ", "  ", "$", "x", "\n\n", "-"]) + digits + draw.choice(["", ",", " ", "%"])
        elif kind < 0.9:
            part = draw.choice(SPACES) + draw.choice(PIECES)
        else:
            part = "".join(chr(draw.choice([draw.randint(32, 0x24F), draw.randint(0x370, 0xD7FF)])) for _ in range(8))
        parts.append(part)
        size += len(part.encode())
    return "".join(parts)


def byte_level(vocab, merges, pre, added=()):
    """The original pipelines, put together from the Python package."""
    model = models.BPE(vocab, merges, ignore_merges=pre in ("llama-bpe", "tekken"))
    tokenizer = Tokenizer(model)
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[pre]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    return tokenizer


def white_space_between_marks():
    draw = random.Random(7)
    marks = ["a", "b", ".", "!", "1", "12", "x/", "'s"]
    spaces = [" ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\r\n", " \n", "\t", "\n ", "\n\n  "]
    return "".join(draw.choice(marks) + draw.choice(spaces) for _ in range(400))


def train(tokenizer, size, special, alphabet):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, min_frequency=1,
        max_token_length=8, show_progress=False,
    )
    numbers = "12 123 1234 1928 1928 12345 340 340"
    white = white_space_between_marks()
    tokenizer.train_from_iterator([ENGLISH, CODE, CHINESE, OTHER, white, numbers], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, model["merges"]


def small_byte_level():
    trainee = Tokenizer(models.BPE())
    # Trained without splits, so that it has tokens over every place where a pipeline splits.
    trainee.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens, merges = train(trainee, 480, special, pre_tokenizers.ByteLevel.alphabet())
    # Words no merge leads to: whole tokens only where merges are ignored.
    tokens += ["quixotic", "Ġquixotic", "<tool>"]
    types = [3] * 3 + [1] * (len(tokens) - 4) + [4]
    vocab = {token: id for id, token in enumerate(tokens)}
    pairs = [tuple(merge) for merge in merges]
    added = [AddedToken(token, normalized=False, special=True) for token in special]
    added.append(AddedToken("<tool>", normalized=False))
    expected = {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"):
        tokenizer = byte_level(vocab, pairs, pre, added)
        expected[pre] = [tokenizer.encode(string).ids for string in STRINGS]
    return {
        "tokens": tokens, "token_types": types, "merges": [" ".join(merge) for merge in merges],
        "expected": expected,
    }


def small_sentencepiece():
    trainee = Tokenizer(models.BPE(unk_token="<unk>"))
    trainee.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    tokens, merges = train(trainee, 260, special, [])
    learned = {"".join(merge): -float(rank) for rank, merge in enumerate(merges)}
    characters = [token for token in tokens[3:] if token not in learned]
    ordered = sorted(learned, key=learned.get, reverse=True)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = special + byte_tokens + ordered + characters
    scores = [0.0] * 259 + [learned[token] for token in ordered]
    scores += [-1000.0 - index for index in range(len(characters))]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(ordered) + len(characters))
    metadata = {
        "tokenizer_type": "llama", "tokens": tokens, "scores": scores, "token_type": types,
        "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0,
    }
    converted, _ = convert_gguf_tokenizer("llama", metadata)
    # transformers puts the first space in front only where there is none yet; the original
    # tokenizer (and llama.cpp) always does. Both agree on texts that begin otherwise.
    strings = [string for string in STRINGS if not string.startswith(" ") and "<" not in string]
    expected = [converted.encode(string, add_special_tokens=False).ids for string in strings]
    return {"tokens": tokens, "token_types": types, "scores": scores, "strings": strings, "expected": expected}


def small():
    golden = {"strings": STRINGS, "byte_level": small_byte_level(), "sentencepiece": small_sentencepiece()}
    SMALL.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{SMALL.relative_to(ROOT)}: {SMALL.stat().st_size} bytes")


def original(path, text):
    import gguf

    fields = gguf.GGUFReader(path).fields
    metadata = {key: fields[f"tokenizer.ggml.{key}"].contents() for key in ("pre", "tokens", "token_type", "merges")}
    vocab = {token: id for id, token in enumerate(metadata["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["merges"]]
    kinds = zip(metadata["tokens"], metadata["token_type"])
    added = [AddedToken(token, normalized=False, special=kind == 3) for token, kind in kinds if kind in (3, 4)]
    return byte_level(vocab, merges, metadata["pre"], added).encode(text).ids


def transformers(path, text):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def llama_cpp(path, text):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.warmup = 256, False
    server = xllamacpp.Server(parameters)
    body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + "/tokenize", body, headers)
    return json.load(urllib.request.urlopen(request))["tokens"]


def large(path, out):
    out.mkdir(parents=True, exist_ok=True)
    text = text_of_a_megabyte()
    (out / "text.txt").write_text(text, newline="")
    print(f"text.txt: {len(text.encode())} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}")
    ids = {}
    for name, witness in (("original", original), ("transformers", transformers), ("llama.cpp", llama_cpp)):
        try:
            ids[name] = witness(path, text)
        except ImportError as error:
            print(f"{name}: not asked ({error})")
            continue
        packed = struct.pack(f"<{len(ids[name])}I", *ids[name])
        (out / f"{name}.ids").write_bytes(packed)
        print(f"{name}: {len(ids[name])} ids, sha256 {hashlib.sha256(packed).hexdigest()}")
    for name in ids:
        if ids[name] != ids["original"]:
            show_differences(path, name, ids[name], ids["original"])


def show_differences(path, name, theirs, reference):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    places = list(differences(theirs, reference))
    changed = sum(j2 - j1 for _, _, j1, j2 in places)
    print(f"{name} differs from original at {len(places)} places, {changed} of {len(reference)} ids")
    for i1, i2, j1, j2 in places[:12]:
        left, right = theirs[i1 : i2 + 1], reference[j1 : j2 + 1]
        print("  ", tokenizer.convert_ids_to_tokens(left), "where original has", tokenizer.convert_ids_to_tokens(right))


def differences(a, b, reach=32):
    """Differences of two long lists that stay close to each other."""
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            i, j = i + 1, j + 1
            continue
        steps = ((x, y) for total in range(1, 2 * reach) for x in range(total + 1) for y in [total - x])
        x, y = next((x, y) for x, y in steps if a[i + x : i + x + 4] == b[j + y : j + y + 4])
        yield (i, i + x, j, j + y)
        i, j = i + x, j + y


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("small")
    command = commands.add_parser("large")
    command.add_argument("model", type=Path)
    command.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "small":
        small()
    else:
        large(arguments.model, arguments.out)
