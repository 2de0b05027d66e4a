"""GGUF files of mixtures as llama.cpp's converter makes them, by the `gguf` package, and files that lns wrote held
against them.

    python golden/mixtures_gguf.py write [--out golden/gguf]
    python golden/mixtures_gguf.py check FOLDER MODEL.gguf

`write` makes `mixtral.gguf`, `qwen3_moe.gguf` and `gpt_oss.gguf`. Names of tensors are those of the package's map, keys
those of its writer; what the converter does to matrices (`conversion/` and `convert_hf_to_gguf.py` of llama.cpp) is done
here anew. `X.safetensors` beside a file holds `input_ids` and the `logits` that transformers computes on the folder it was
made from.

`check` converts FOLDER in memory in the same way and names every tensor and key in which a file that
`lns export FOLDER --out MODEL.gguf` wrote differs.
"""

import argparse
import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers as hf
from families import decoder
from safetensors.torch import load_file, save_file
from tiny_models import write

TINY = Path(__file__).parent / "tiny"
ARCHITECTURES = {
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
}


def interleaved(matrix, heads):
    """The rows of each head in the order in which llama.cpp turns neighbours."""
    return matrix.reshape(heads, 2, -1, *matrix.shape[1:]).transpose(1, 2).reshape(matrix.shape)


def ggml_blocks(blocks, scales):
    """MXFP4 as ggml has it: a scale, then 16 bytes whose lower four bits are the first half of the numbers."""
    numbers = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    halves = numbers[..., :16] | numbers[..., 16:] << 4
    return torch.cat([scales.unsqueeze(-1), halves], -1).flatten(-2)


def converted(folder):
    """The architecture, and for each tensor of the file its name, its values and whether these are MXFP4."""
    config = json.loads((folder / "config.json").read_text())
    stored = {}
    for path in sorted(folder.glob("model*.safetensors")):
        stored.update(load_file(path))
    architecture = ARCHITECTURES[config["model_type"]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tensors, stacks = {}, {}

    def put(name, values, packed=False):
        name = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        tensors[name] = (values if packed else values.float(), packed)

    for name, values in stored.items():
        if "q_proj" in name or "k_proj" in name:
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            put(name, interleaved(values, heads) if architecture == gguf.MODEL_ARCH.LLAMA else values)
        elif name.endswith("sinks"):
            put(f"{name}.weight", values)
        elif config["model_type"] == "gpt_oss" and ".experts." in name:
            stem, _, rest = name.rpartition(".")
            if rest.endswith("_scales"):
                continue
            if rest.endswith("_blocks"):
                rest = rest.removesuffix("_blocks")
                scales = stored[f"{stem}.{rest}_scales"]
                rows = lambda part: ggml_blocks(values[:, part], scales[:, part])
                packed, suffix = True, "weight"
            elif rest.endswith("_bias"):
                rest = rest.removesuffix("_bias")
                rows, packed, suffix = (lambda part: values[:, part]), False, "bias"
            else:
                rows, packed, suffix = (lambda part: values.transpose(1, 2)[:, part]), False, "weight"
            if rest == "down_proj":
                put(f"{stem}.down_proj.{suffix}", rows(slice(None)), packed)
            else:
                put(f"{stem}.gate_proj.{suffix}", rows(slice(0, None, 2)), packed)
                put(f"{stem}.up_proj.{suffix}", rows(slice(1, None, 2)), packed)
        elif ".experts." in name:
            before, _, after = name.partition(".experts.")
            expert, which, _ = after.split(".")
            # The names by which the converter knows stacks.
            layer = before.split(".")[2]
            stack = f"layers.{layer}.feed_forward.experts.{which}.weight" if which[0] == "w" else (
                f"{before}.experts.{which}.weight"
            )
            stacks.setdefault(stack, {})[int(expert)] = values
        else:
            put(name, values)
    for name, experts in stacks.items():
        put(name, torch.stack([experts[expert] for expert in range(len(experts))]))
    return architecture, config, tensors


def described(writer, config, architecture):
    """The keys that the converter puts."""
    rope = config["rope_parameters"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim)
    if architecture == gguf.MODEL_ARCH.QWEN3MOE:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if architecture == gguf.MODEL_ARCH.GPT_OSS:
        writer.add_sliding_window(config["sliding_window"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def write_file(folder, path):
    """A folder as the converter makes a file of it, in f32 but for what is MXFP4."""
    architecture, config, tensors = converted(folder)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    described(writer, config, architecture)
    for name, (values, packed) in tensors.items():
        kind = gguf.GGMLQuantizationType.MXFP4 if packed else None
        writer.add_tensor(name, np.ascontiguousarray(values.numpy()), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def qwen3_moe():
    """What llama.cpp takes for granted: experts in every layer, their shares renormalised."""
    return hf.Qwen3MoeConfig(
        **decoder(2, head_dim=12),
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        tie_word_embeddings=True,
    )


def write_all(out):
    """The three files and what they compute."""
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary), "qwen3_moe", qwen3_moe(), 130, torch.bfloat16)
        for name, folder in {
            "mixtral": TINY / "mixtral-bf16-sharded",
            "qwen3_moe": Path(temporary) / "qwen3_moe",
            "gpt_oss": TINY / "gpt_oss-mxfp4",
        }.items():
            write_file(folder, out / f"{name}.gguf")
            expected = load_file(folder / "expected.safetensors")
            save_file({key: expected[key] for key in ("input_ids", "logits")}, out / f"{name}.safetensors")
            for path in out.iterdir():
                path.chmod(0o644)


def check(folder, path):
    """Differences between a file and the folder that it was exported from."""
    architecture, config, tensors = converted(folder)
    reader, wrong = gguf.GGUFReader(path), []
    allowed = {gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[architecture]}
    with tempfile.NamedTemporaryFile(suffix=".gguf") as other:
        write_file(folder, other.name)
        keys = {key: field.contents() for key, field in gguf.GGUFReader(other.name).fields.items()}
    for key, value in keys.items():
        # Of the format itself, and the number of tensors.
        if key.startswith("GGUF."):
            continue
        found = reader.get_field(key)
        if found is None or found.contents() != value:
            wrong.append(f"{key} is {found and found.contents()}, not {value}")
    for tensor in reader.tensors:
        pattern = "blk.{bid}." + tensor.name.split(".")[2] if tensor.name.startswith("blk.") else tensor.name.split(".")[0]
        if pattern not in allowed:
            wrong.append(f"{tensor.name} is none of the architecture's")
        if tensor.name not in tensors:
            wrong.append(f"{tensor.name} is not in the folder")
            continue
        values, packed = tensors.pop(tensor.name)
        shape = list(reversed([int(n) for n in tensor.shape]))
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if packed:
            values = gguf.quants.dequantize(values.numpy(), gguf.GGMLQuantizationType.MXFP4)
            if tensor.tensor_type != gguf.GGMLQuantizationType.MXFP4:
                wrong.append(f"{tensor.name} is {tensor.tensor_type.name}, not MXFP4")
        elif isinstance(values, torch.Tensor):
            values = values.numpy()
        if shape != list(values.shape) or not np.array_equal(found, values):
            wrong.append(f"{tensor.name} {shape} differs from {list(values.shape)}")
    wrong += [f"{name} is missing" for name in tensors]
    print(f"{path}: {len(reader.tensors)} tensors, {len(wrong)} differences")
    for line in wrong:
        print(f"  {line}")
    return not wrong


def main():
    """Writes files or checks one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    writing = verbs.add_parser("write")
    writing.add_argument("--out", type=Path, default=Path(__file__).parent / "gguf")
    checking = verbs.add_parser("check")
    checking.add_argument("folder", type=Path)
    checking.add_argument("file", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.verb == "write":
        write_all(arguments.out)
    else:
        raise SystemExit(0 if check(arguments.folder, arguments.file) else 1)


if __name__ == "__main__":
    main()
