"""GGUF files of a tiny DeepSeek-V3, as llama.cpp's converter writes the architecture `deepseek2`.

    python golden/deepseek_gguf.py [--out golden/gguf] [--compare MODEL.gguf]

Both hold the weights of `golden/tiny/deepseek_v3-bf16-sharded`, so that its expected logits are theirs. Names and
keys are the gguf package's (`TensorNameMap`, `GGUFWriter`):

    deepseek_v3-earlier.gguf    keys and values made by one matrix, `attn_kv_b`, as before llama.cpp absorbed them
    deepseek_v3-absorbed.gguf   by two, `attn_k_b` (each head's transposed) and `attn_v_b`; one key for all heads

With `--compare`, says in what a file that `lns export --dtype bf16` made of the same folder differs from
`deepseek_v3-absorbed.gguf`, in keys, shapes or numbers.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "tiny" / "deepseek_v3-bf16-sharded"
ARCHITECTURE = gguf.MODEL_ARCH.DEEPSEEK2


def add_keys(writer, config, absorbed):
    rope = config["rope_parameters"]
    turned, unturned = config["qk_rope_head_dim"], config["qk_nope_head_dim"]
    rank, values = config["kv_lora_rank"], config["v_head_dim"]
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1 if absorbed else config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + turned if absorbed else unturned + turned)
    writer.add_value_length(rank if absorbed else values)
    if absorbed:
        writer.add_key_length_mla(unturned + turned)
        writer.add_value_length_mla(values)
    writer.add_rope_dimension_count(turned)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_group_count(config["n_group"])
    writer.add_expert_group_used_count(config["topk_group"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_tokenizer_model("no_vocab")


def tensors(config, absorbed):
    """Name in the file and numbers of each tensor."""
    stored = {}
    for shard in sorted(FOLDER.glob("model-*.safetensors")):
        stored.update(load_file(shard))
    names = gguf.get_tensor_name_map(ARCHITECTURE, config["num_hidden_layers"])
    heads, parts = config["num_attention_heads"], [config["qk_nope_head_dim"], config["v_head_dim"]]
    experts = {}
    for name, tensor in stored.items():
        if ".mlp.experts." in name:
            stem, _, rest = name.partition(".mlp.experts.")
            number, _, matrix = rest.partition(".")
            experts.setdefault(f"{stem}.mlp.experts.{matrix}", {})[int(number)] = tensor
        elif absorbed and name.endswith("kv_b_proj.weight"):
            both = tensor.view(heads, sum(parts), -1)
            keys, values = both.split(parts, dim=1)
            yield names.get_name(name.replace("kv_b", "k_b"), (".weight",)), keys.transpose(1, 2)
            yield names.get_name(name.replace("kv_b", "v_b"), (".weight",)), values
        else:
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            yield names.get_name(name, (".weight", ".bias")), tensor
    for name, matrices in experts.items():
        stack = torch.stack([matrices[number] for number in range(len(matrices))])
        yield names.get_name(name, (".weight",)), stack


def write(path, absorbed):
    config = json.loads((FOLDER / "config.json").read_text())
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
    add_keys(writer, config, absorbed)
    for name, tensor in tensors(config, absorbed):
        # Routers and vectors are F32.
        if tensor.dim() > 1 and "ffn_gate_inp" not in name:
            bits = tensor.contiguous().view(torch.uint16).numpy()
            kind, shape = gguf.GGMLQuantizationType.BF16, bits.shape
            writer.add_tensor(name, bits.view(np.uint8).reshape(*shape[:-1], -1), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.chmod(0o644)


def compare(ours, theirs):
    ours, theirs = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    own = {key: field.contents() for key, field in ours.fields.items()}
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF.") and own.get(key) != field.contents():
            print(f"{key}: {own.get(key)!r} instead of {field.contents()!r}")
    more = [key for key in own if key not in theirs.fields]
    print("further keys:", ", ".join(more))
    own = {tensor.name: tensor for tensor in ours.tensors}
    for tensor in theirs.tensors:
        found = own.pop(tensor.name, None)
        same = found is not None and list(found.shape) == list(tensor.shape)
        same = same and found.tensor_type == tensor.tensor_type
        if not (same and np.array_equal(found.data, tensor.data)):
            print(f"{tensor.name} differs: {found}")
    print("further tensors:", ", ".join(own))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gguf")
    parser.add_argument("--compare", type=Path)
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.compare, arguments.out / "deepseek_v3-absorbed.gguf")
        return
    arguments.out.mkdir(exist_ok=True)
    write(arguments.out / "deepseek_v3-earlier.gguf", absorbed=False)
    write(arguments.out / "deepseek_v3-absorbed.gguf", absorbed=True)


if __name__ == "__main__":
    main()
