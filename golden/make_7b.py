"""A checkpoint of Llama-2-7B's shape with random weights, to measure memory and speed at that size.

    python golden/make_7b.py OUT_DIR [--layers 32]

bf16, normal(0, 0.02), gains 1; 13.5 GB in shards of at most 5 GB with an index, `config.json` and a
byte-level `tokenizer.json` (one token per byte), so that text can be fed. Memory stays below 1 GB
whatever the size: numbers are drawn and written in pieces. Each tensor has a seed of its own, so a
smaller `--layers` gives a prefix of the same layers.
"""

import argparse
import json
import shutil
import struct
import zlib
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}
SHARD_BYTES = 5 * 10**9
PIECE = 1 << 24  # numbers drawn at a time


def tensors(layers):
    """Name and shape of every tensor, in the order of the files."""
    hidden, inner, vocabulary = (
        CONFIG[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", [hidden]
        for name in "qkvo":
            yield f"{prefix}.self_attn.{name}_proj.weight", [hidden, hidden]
        yield f"{prefix}.post_attention_layernorm.weight", [hidden]
        yield f"{prefix}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{prefix}.mlp.up_proj.weight", [inner, hidden]
        yield f"{prefix}.mlp.down_proj.weight", [hidden, inner]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def numbers(shape):
    """How many."""
    return torch.Size(shape).numel()


def shards(layers):
    """Consecutive tensors of at most SHARD_BYTES together."""
    current, size = [], 0
    for name, shape in tensors(layers):
        bytes_needed = 2 * numbers(shape)
        if current and size + bytes_needed > SHARD_BYTES:
            yield current
            current, size = [], 0
        current.append((name, shape))
        size += bytes_needed
    yield current


def pieces(name, shape, std=0.02):
    """The tensor's bytes, a piece at a time."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    left = numbers(shape)
    while left:
        count = min(left, PIECE)
        if len(shape) == 1:
            values = torch.ones(count)
        else:
            values = torch.randn(count, generator=generator) * std
        yield values.bfloat16().view(torch.uint8).numpy().data
        left -= count


def write_shard(path, shard):
    """One safetensors file: u64 length of the header, JSON header, data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        end = offset + 2 * numbers(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shard:
            for piece in pieces(name, shape):
                file.write(piece)


def write_tokenizer(path):
    """One token per byte, after the three special ones every Llama has."""
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path))


def main():
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    total = sum(numbers(shape) for _, shape in tensors(args.layers))
    args.out.mkdir(parents=True)
    if shutil.disk_usage(args.out).free < 2 * total + (1 << 30):
        parser.error(f"{args.out}: {2 * total / 1e9:.1f} GB are needed")
    config = CONFIG | {"num_hidden_layers": args.layers}
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_tokenizer(args.out / "tokenizer.json")
    parts = list(shards(args.layers))
    weight_map = {}
    for number, shard in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_shard(args.out / file, shard)
        weight_map |= {name: file for name, _ in shard}
        print(f"{file}: {len(shard)} tensors", flush=True)
    index = {
        "metadata": {"total_parameters": total, "total_size": 2 * total},
        "weight_map": weight_map,
    }
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
