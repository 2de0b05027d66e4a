"""One tiny checkpoint per norm scheme, with what the formulas of DESIGN.md give on it.

    python golden/schemes.py [--out golden/tiny]

Writes `scheme-<name>/` with `config.json` (as lns-spec writes it: `model_type` "lns_llama" and a
`norm_scheme`), `model.safetensors` and `expected.safetensors` (f32: input_ids [1, T], logits
[1, T, V], stream.0 .. stream.L [1, T, hidden]). All share their base weights. `reference.py`
computes, in f64, rounded at the end; on `scheme-pre`, a plain Llama, it must agree with
transformers to f32 rounding.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from reference import Decoder

LENGTH = 16
LAYERS = 4
BOTH = ["attention", "mlp"]
CONFIG = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}


def lns(exponent=0.5, sites=BOTH, placement="output"):
    """LayerNorm Scaling with its options."""
    return {"name": "lns", "exponent": exponent, "sites": sites, "placement": placement}


SCHEMES = {
    "lns": lns(),
    "lns-quarter": lns(exponent=0.25),
    "lns-mlp": lns(sites=["mlp"]),
    "before-norm": lns(placement="input"),
    "post": {"name": "post"},
    "deepnorm": {"name": "deepnorm"},
    "mix-ln": {"name": "mix-ln", "post_fraction": 0.25},
    "sandwich": {"name": "sandwich"},
    "peri": {"name": "peri"},
    "branch-scale": {"name": "branch-scale", "rule": "sqrt-depth"},
    "layerscale": {"name": "layerscale", "init": 0.0001},
    "skipinit": {"name": "skipinit"},
    "output-norm": {"name": "output-norm"},
    "keel": {"name": "keel"},
    "gpas": {"name": "gpas"},
    "progressive": {"name": "progressive", "steps": 10, "taken": 15},
}


def base_weights(generator):
    """Tensors that every scheme has."""

    def matrix(out, width, std=None):
        return torch.randn(out, width, generator=generator) * (std or 1.2 / width**0.5)

    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    queries = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    weights = {
        "model.embed_tokens.weight": matrix(CONFIG["vocab_size"], hidden, std=0.5),
        "model.norm.weight": gain(generator),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.input_layernorm.weight": gain(generator),
            f"{prefix}.self_attn.q_proj.weight": matrix(queries, hidden),
            f"{prefix}.self_attn.k_proj.weight": matrix(keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": matrix(keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": matrix(hidden, queries),
            f"{prefix}.post_attention_layernorm.weight": gain(generator),
            f"{prefix}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"{prefix}.mlp.up_proj.weight": matrix(inner, hidden),
            f"{prefix}.mlp.down_proj.weight": matrix(hidden, inner),
        }
    return weights


def gain(generator, size=CONFIG["hidden_size"]):
    """Numbers around 1."""
    return 1.0 + 0.25 * torch.randn(size, generator=generator)


def scheme_weights(name, generator):
    """Tensors that only scheme `name` has: here trained values, not initial ones."""
    weights = {"model.embed_norm.weight": gain(generator)} if name == "peri" else {}
    for layer in range(LAYERS):
        for site in BOTH:
            prefix = f"model.layers.{layer}.{site}"
            match name:
                case "sandwich" | "peri" | "output-norm":
                    weights[f"{prefix}_output_layernorm.weight"] = gain(generator)
                case "keel" if layer > 0:
                    weights[f"{prefix}_join_layernorm.weight"] = gain(generator)
                case "layerscale":
                    weights[f"{prefix}_branch_scale"] = 0.3 * gain(generator)
                case "skipinit":
                    weights[f"{prefix}_branch_scale"] = 0.5 * gain(generator, 1)
        if name == "gpas":
            weights[f"model.layers.{layer}.stream_gate"] = 0.5 * gain(generator, 1)
    return weights


def kept(name, weights):
    """`weights` without those that scheme `name` has no place for."""
    absent = ("input_layernorm.weight", "post_attention_layernorm.weight")
    if name != "output-norm":
        return weights
    return {key: value for key, value in weights.items() if not key.endswith(absent)}


def write(folder, config, weights, ids):
    """Writes the checkpoint, reads it back and writes what `reference.py` makes of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    decoder = Decoder.load(folder, torch.float64)
    streams = decoder.streams(ids)
    expected = {"input_ids": ids.float(), "logits": decoder.head(streams[-1])}
    expected |= {f"stream.{i}": stream for i, stream in enumerate(streams)}
    expected = {name: value.float() for name, value in expected.items()}
    save_file(expected, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)
    return expected["logits"]


def stock(config):
    """`config` as a plain Llama."""
    return {**config, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def own(config, scheme):
    """`config` as a checkpoint that stock runtimes refuse."""
    return {
        **config,
        "model_type": "lns_llama",
        "architectures": ["LnsLlamaForCausalLM"],
        "norm_scheme": scheme,
    }


def pruned(weights, layers):
    """`weights` with only `layers`, renumbered."""
    kept = {name: value for name, value in weights.items() if ".layers." not in name}
    for new, old in enumerate(layers):
        prefix = f"model.layers.{old}."
        for name, value in weights.items():
            if name.startswith(prefix):
                kept[name.replace(prefix, f"model.layers.{new}.")] = value
    return kept


def against_transformers(folder, ids, logits):
    """The witness's own witness: largest difference from transformers, over the largest logit."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        difference = model(ids, use_cache=False).logits - logits
    return (difference.abs().max() / logits.abs().max()).item()


def main():
    """Writes every folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(40)
    weights = base_weights(generator)
    ids = torch.randint(CONFIG["vocab_size"], (1, LENGTH), generator=generator)

    logits = {"pre": write(out / "scheme-pre", stock(CONFIG), weights, ids)}
    difference = against_transformers(out / "scheme-pre", ids, logits["pre"])
    print(f"pre: largest difference from transformers {difference:.1e} of the largest logit")
    assert difference < 2e-6
    for name, scheme in SCHEMES.items():
        own_weights = kept(name, weights | scheme_weights(name, torch.Generator().manual_seed(41)))
        logits[name] = write(out / f"scheme-{name}", own(CONFIG, scheme), own_weights, ids)
    remaining = [0, 2, 3]
    config = own(CONFIG, lns()) | {
        "num_hidden_layers": len(remaining),
        "layer_depths": [layer + 1 for layer in remaining],
        "trained_layers": LAYERS,
    }
    logits["lns-pruned"] = write(out / "scheme-lns-pruned", config, pruned(weights, remaining), ids)
    for name, value in logits.items():
        change = (value - logits["pre"]).abs().max().item()
        print(f"{name}: logits up to {value.abs().max():.2f}, {change:.1e} from pre")


if __name__ == "__main__":
    main()
