"""Quantised safetensors as models are published in, and what transformers makes of them.

    python golden/quantised.py [--tiny golden/tiny] [--tensors crates/checkpoint/tests/golden]

`golden/tiny/llama-fp8` is a tiny Llama whose matrices are E4M3 with a scale for each block of 16 × 8, numbers
and scales in different shards, with expected logits as in `tiny_models.py`: transformers reads it itself.
`deepseek_v3-fp8` is the same of a DeepSeek-V3 in blocks of 128 × 128, as that is published, the last ones not
whole.

`quantised.safetensors` holds tensors of every way of storing scales, in blocks of 16 × 16, and
`quantised_expected.safetensors` the f32 numbers that transformers' own functions make of them. The last block
of a row or column may be less than whole, a stack has blocks of its own in each matrix, and MXFP4's exponents
reach from the smallest to the largest with which nothing overflows.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from families import SMALL
from tiny_models import FAMILY, LENGTH, compute, fill

FP8 = torch.float8_e4m3fn
BLOCK = (16, 8)


def in_blocks(weight, block):
    """E4M3 numbers of a matrix, and a scale for each block, the last ones perhaps less than whole: the largest
    number is ±448."""
    missing = [-size % step for size, step in zip(weight.shape, block)]
    padded = torch.nn.functional.pad(weight.float(), (0, missing[1], 0, missing[0]))
    rows, columns = (size // step for size, step in zip(padded.shape, block))
    cut = padded.reshape(rows, block[0], columns, block[1])
    scales = cut.abs().amax(dim=(1, 3)) / torch.finfo(FP8).max
    numbers = (cut / scales[:, None, :, None]).to(FP8).reshape(padded.shape)
    return numbers[: weight.shape[0], : weight.shape[1]].contiguous(), scales


def tiny_llama(out):
    config = LlamaConfig(
        **{**FAMILY, "num_hidden_layers": 2}, rms_norm_eps=1e-5, tie_word_embeddings=False
    )
    write_fp8(out / "llama-fp8", config, BLOCK)


def tiny_deepseek(out):
    """In V3's own blocks, which cut through the heads of `kv_b_proj`."""
    config = DeepseekV3Config(
        **{**SMALL, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 136},
        q_lora_rank=12,
        kv_lora_rank=10,
        qk_nope_head_dim=20,
        qk_rope_head_dim=4,
        v_head_dim=24,
        first_k_dense_replace=1,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
    )
    write_fp8(out / "deepseek_v3-fp8", config, (128, 128), whole=False)


def write_fp8(folder, config, block, whole=True):
    """The checkpoint that transformers reads and computes with; where blocks are not `whole`, its own function
    makes a plain folder of it first, because on a CPU it cuts every matrix into equal blocks."""
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config)
    fill(model, 50)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    numbers, scales = {}, {}
    for name, tensor in stored.items():
        if name.endswith(("_proj.weight", "_proj_with_mqa.weight")):
            tensor, scales[f"{name}_scale_inv"] = in_blocks(tensor, block)
        numbers[name] = tensor.contiguous()
    index = {}
    for number, shard in enumerate([numbers, scales], 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update({name: file for name in shard})
    total = sum(tensor.nbytes for tensor in [*numbers.values(), *scales.values()])
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": list(block),
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    ids = torch.randint(
        config["vocab_size"], (2, LENGTH), generator=torch.Generator().manual_seed(1050)
    )
    with tempfile.TemporaryDirectory() as plain:
        plain = Path(plain)
        del config["quantization_config"]
        (plain / "config.json").write_text(json.dumps(config))
        for name, scale in scales.items():
            name = name.removesuffix("_scale_inv")
            numbers[name] = _dequantize_fp8_weight(numbers[name], scale, block, torch.float32)
        save_file(numbers, plain / "model.safetensors", metadata={"format": "pt"})
        expected = compute(folder if whole else plain, ids)
    expected = {key: expected[key][:1].contiguous() for key in ("input_ids", "logits")}
    save_file(expected, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def tensors(out):
    """Small tensors and what they stand for."""
    generator = torch.Generator().manual_seed(20251)

    def whole(low, high, shape):
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    def fp8(shape):
        """Any numbers but NaN."""
        return (whole(0, 127, shape) | whole(0, 2, shape) << 7).to(torch.uint8).view(FP8)

    def scales(shape):
        return torch.exp(4 * torch.randn(shape, generator=generator))

    stored = {
        "every.weight": torch.arange(256, dtype=torch.uint8).view(FP8).reshape(16, 16),
        "every.weight_scale_inv": torch.ones(1, 1),
        "ragged.weight": fp8((40, 36)),
        "ragged.weight_scale_inv": scales((3, 3)),
        "bf16.weight": fp8((16, 32)),
        "bf16.weight_scale_inv": scales((1, 2)).bfloat16(),
        "stack.up_proj": fp8((3, 20, 32)),
        "stack.up_proj_scale_inv": whole(100, 150, (3, 2, 2)).to(torch.uint8).view(torch.float8_e8m0fnu),
    }
    expected = {
        name: _dequantize_fp8_weight(tensor, stored[f"{name}_scale_inv"], [16, 16], torch.float32)
        for name, tensor in stored.items()
        if tensor.dtype == FP8
    }
    blocks = whole(0, 256, (3, 10, 2, 16)).to(torch.uint8)
    exponents = whole(0, 252, (3, 10, 2)).to(torch.uint8)
    exponents[0, 0] = torch.tensor([0, 1])
    exponents[2, 9] = torch.tensor([251, 127])
    stored["experts.down_proj_blocks"], stored["experts.down_proj_scales"] = blocks, exponents
    expected["experts.down_proj"] = convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    assert expected["experts.down_proj"].isfinite().all()
    # What is below the smallest normal number must not have been flushed to zero.
    assert (expected["experts.down_proj"][0, 0, 0].item() == 0) == (blocks[0, 0, 0, 0].item() & 7 == 0)
    for name, content in [("quantised", stored), ("quantised_expected", expected)]:
        path = out / f"{name}.safetensors"
        save_file(content, path)
        path.chmod(0o644)


def main():
    """Writes both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--tiny", type=Path, default=here / "tiny")
    parser.add_argument("--tensors", type=Path, default=here.parent / "crates/checkpoint/tests/golden")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tensors(arguments.tensors)
    tiny_llama(arguments.tiny)
    tiny_deepseek(arguments.tiny)


if __name__ == "__main__":
    main()
