"""Tiny random checkpoints of the model families, with what transformers computes on them.

    python golden/tiny_models.py [--out golden/tiny]

Each folder is a checkpoint as `save_pretrained` writes it and `expected.safetensors` (all f32):

    input_ids       [2, T]         token ids, stored as f32
    logits          [2, T, V]
    stream.0 .. L   [2, T, hidden] the residual stream; stream.L is what enters the final norm
    nll             [2, T - 1]     -log p(token t + 1 | tokens 0..=t)

The weights are read back from the folder, whatever their dtype, and everything is computed in f32
with eager attention. To stay small, only the folders of a bare family name hold all of this; the
others hold the first row of ids and logits. An `-older` folder has the weights of its namesake and
a `config.json` in the spelling of 2024.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

LENGTH = 24

# 32 features: every family. Windows are shorter than LENGTH so that they matter.
FAMILY = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
# 16 features, 2 layers, 8 rotary frequencies: options of one family.
OPTION = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=128,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
)


def families(layers):
    """Name and configuration of each family, with `layers` layers."""
    shape = {**FAMILY, "num_hidden_layers": layers}
    yield "llama", LlamaConfig(**shape, rms_norm_eps=1e-5, tie_word_embeddings=False)
    yield "mistral", MistralConfig(**shape, sliding_window=8, tie_word_embeddings=True)
    yield "qwen2", Qwen2Config(
        **shape,
        use_sliding_window=True,
        sliding_window=7,
        layer_types=["full_attention", "sliding_attention", "full_attention"][:layers],
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    yield "qwen3", Qwen3Config(**shape, head_dim=12, tie_word_embeddings=True)
    yield "phi3", Phi3Config(**shape, sliding_window=8, tie_word_embeddings=False, pad_token_id=0)


def options():
    """Name and configuration of each option."""
    rope = dict(rope_theta=1e4)
    llama3 = dict(
        rope_type="llama3",
        factor=4.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    )
    # Correction ranges that cut through the 8 frequencies: some kept, some blended, some stretched.
    yarn = dict(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=32,
        beta_fast=8.0,
        beta_slow=0.25,
    )
    yield "llama-linear", LlamaConfig(
        **OPTION, rope_parameters={**rope, "rope_type": "linear", "factor": 4.0}
    )
    yield "llama-dynamic", LlamaConfig(
        **OPTION, rope_parameters={**rope, "rope_type": "dynamic", "factor": 4.0}
    )
    yield "llama-llama3", LlamaConfig(**OPTION, rope_parameters={**rope, **llama3})
    yield "llama-yarn", LlamaConfig(**OPTION, rope_parameters={**rope, **yarn})
    yield "llama-yarn-mscale", LlamaConfig(
        **OPTION,
        rope_parameters={**rope, **yarn, "mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False},
    )
    yield "llama-bias", LlamaConfig(**OPTION, attention_bias=True, mlp_bias=True)
    # As Qwen2.5's documentation spells long contexts: no betas, a large base.
    yield "qwen2-yarn", Qwen2Config(
        **OPTION,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    )


def longrope(long):
    """Phi-3 with LongRoPE, its sequences within the context before extension or beyond it."""
    return Phi3Config(
        **{**FAMILY, "num_hidden_layers": 2},
        original_max_position_embeddings=16 if long else 32,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0, 1.1, 1.3, 1.7],
            "long_factor": [1.0, 1.5, 3.0, 4.5],
        },
        tie_word_embeddings=False,
        pad_token_id=0,
    )


def fill(model, seed):
    """Random weights: matrices that keep the variance, gains around 1, biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "norm" in name.lower() or ".ln_" in name:
                # Gemma's gains are 1 + weight.
                one = 0.0 if model.config.model_type.startswith("gemma") else 1.0
                parameter.copy_(one + 0.25 * noise)
            elif name.endswith("sinks"):
                parameter.copy_(noise)
            elif any(part in name for part in ("embed_tokens", "embed_in", "wte", "wpe", "_embeddings")):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise * 1.2 / parameter.shape[1] ** 0.5)
        for name, buffer in model.named_buffers():
            # What DeepSeek-V3 adds to the experts' scores to choose.
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))


def write(out, name, config, seed, dtype=torch.float32, shard="1GB", brief=True):
    """Writes one checkpoint and what is expected of it."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    model = AutoModelForCausalLM.from_config(config)
    fill(model, seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed + 1000)
    ids = torch.randint(config.vocab_size, (2, LENGTH), generator=generator)
    expected = compute(folder, ids)
    if brief:
        expected = {key: expected[key][:1].contiguous() for key in ("input_ids", "logits")}
    save_file(expected, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def load(folder):
    """The checkpoint in `folder`, in f32, with attention as the formula has it."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def layers_and_norm(model):
    """The modules that the stream enters, first to last."""
    if hasattr(model, "transformer"):
        return [*model.transformer.h, model.transformer.ln_f]
    if hasattr(model, "gpt_neox"):
        return [*model.gpt_neox.layers, model.gpt_neox.final_layer_norm]
    decoder = getattr(model.model, "language_model", model.model)
    return [*decoder.layers, decoder.norm]


def compute(folder, ids):
    """Logits, streams and losses of the checkpoint in `folder`, in f32."""
    model = load(folder)
    streams = []
    for module in layers_and_norm(model):
        module.register_forward_pre_hook(lambda _, given: streams.append(given[0].clone()))
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none"
    )
    named = {f"stream.{i}": stream for i, stream in enumerate(streams)}
    return {"input_ids": ids.float(), "logits": logits, "nll": nll, **named}


def write_older(out, name, change):
    """Copies checkpoint `name`, rewrites its configuration and checks that nothing changed."""
    folder = out / f"{name}-older"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(out / name, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["transformers_version"] = "4.45.0"
    change(config, parameters)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    ids = torch.randint(
        config["vocab_size"], (2, LENGTH), generator=torch.Generator().manual_seed(5)
    )
    newer, older = compute(out / name, ids), compute(folder, ids)
    assert all(torch.equal(newer[key], older[key]) for key in newer), name


def older_linear(config, parameters):
    """Before 4.43 the kind of scaling was under `type`."""
    config["rope_scaling"] = {"type": parameters["rope_type"], "factor": parameters["factor"]}


def older_llama3(config, parameters):
    """As in Llama 3.1's own files."""
    config["rope_scaling"] = parameters


def older_qwen2(config, parameters):
    """Qwen2.5 with YaRN: `type`, no `layer_types`, a window that is switched off."""
    config["rope_scaling"] = {"type": parameters.pop("rope_type"), **parameters}
    del config["layer_types"]
    config["use_sliding_window"] = False
    config["sliding_window"] = 8


def older_phi3(config, parameters):
    """As in Phi-3's own files: the context before extension stands beside the scaling."""
    kept = {key: parameters[key] for key in ("short_factor", "long_factor")}
    config["rope_scaling"] = {"type": "longrope", **kept}


def main():
    """Writes every folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(families(3)):
        write(out, name, config, seed, brief=False)
    for seed, (name, config) in enumerate(families(2)):
        write(out, f"{name}-bf16-sharded", config, seed + 10, torch.bfloat16, "20KB")
    for seed, (name, config) in enumerate(families(1)):
        write(out, f"{name}-f16", config, seed + 20, torch.float16)
        write(out, f"{name}-f32-sharded", config, seed + 40, torch.float32, "20KB")
    for name, config in options():
        write(out, name, config, 30)
    for name, long in [("phi3-longrope", True), ("phi3-longrope-short", False)]:
        write(out, name, longrope(long), 31)
    write_older(out, "llama-linear", older_linear)
    write_older(out, "llama-llama3", older_llama3)
    write_older(out, "qwen2-yarn", older_qwen2)
    write_older(out, "phi3-longrope", older_phi3)


if __name__ == "__main__":
    main()
