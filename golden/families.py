"""Tiny random checkpoints of the families that compute more than a Llama, as transformers has them.

    python golden/families.py [--out golden/tiny] [--only gemma3_text ...]

The folders are those of `tiny_models.py`, which says what `expected.safetensors` holds. Each family has
at least three: its bare name (f32, three layers, with everything, and below), `-bf16-sharded` (two
layers, shards of 20 kB), and `-small` (16 features, other settings), which also holds

    gradient.NAME   the gradient of the mean loss of every parameter, by its name in the folder

and the bare one

    generated       [1, 3 + 12] the prompt 5, 17, 3 and what greedy decoding with a cache adds to it
    experts.i       [2, T, k] the experts that compute each token in layer i of a mixture, the largest
                    weight first

`gpt_oss-mxfp4` has its experts' matrices as gpt-oss is published: blocks of four-bit numbers and their scales.
An `-older` folder has the weights of `-bf16-sharded` and a `config.json` as the family's first files had it.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny_models import FAMILY, LENGTH, compute, fill, load, write

# Heads of 8 features, queries in groups; `pad_token_id` stays inside the vocabulary.
SMALL = dict(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
SLIDING, FULL = "sliding_attention", "full_attention"


def decoder(layers, **more):
    """Keys that most configuration classes share."""
    return {**FAMILY, "num_hidden_layers": layers, "pad_token_id": 0, **more}


def small(**more):
    """As `decoder`, of the smallest shape."""
    return {**SMALL, **more}


def gpt2(shape, **more):
    """The same sizes in GPT-2's words."""
    return hf.GPT2Config(
        vocab_size=shape["vocab_size"],
        n_embd=shape["hidden_size"],
        n_layer=shape["num_hidden_layers"],
        n_head=shape["num_attention_heads"],
        n_positions=shape["max_position_embeddings"],
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )


def without_key_value_heads(shape):
    """For GPT-NeoX, which has as many as query heads."""
    return {key: value for key, value in shape.items() if key != "num_key_value_heads"}


def both_ropes(full, sliding, **scaling):
    """Rotary parameters by type of layer."""
    return {
        FULL: {"rope_type": "default", "rope_theta": full, **scaling},
        SLIDING: {"rope_type": "default", "rope_theta": sliding},
    }


def gemma3_text(layers):
    return hf.Gemma3TextConfig(
        **decoder(layers, head_dim=12),
        query_pre_attn_scalar=20,
        sliding_window=7,
        layer_types=[SLIDING, FULL, SLIDING][:layers],
        rope_parameters=both_ropes(1e6, 1e4, rope_type="linear", factor=8.0),
    )


def gemma2(layers):
    # Caps of about the size of what they cap, so that they matter.
    return hf.Gemma2Config(
        **decoder(layers, head_dim=12),
        query_pre_attn_scalar=20,
        sliding_window=7,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    )


def olmo3(layers):
    yarn = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
    return hf.Olmo3Config(
        **decoder(layers),
        sliding_window=7,
        layer_types=[SLIDING, FULL, SLIDING][:layers],
        rope_parameters=both_ropes(5e5, 5e5, **yarn, beta_fast=8.0, beta_slow=0.25),
    )


def granite(layers):
    return hf.GraniteConfig(
        **decoder(layers),
        embedding_multiplier=3.0,
        residual_multiplier=0.6,
        attention_multiplier=0.2,
        logits_scaling=1.5,
        tie_word_embeddings=True,
    )


def mixtral(layers):
    return hf.MixtralConfig(**decoder(layers, intermediate_size=24), num_local_experts=4)


def qwen3_moe(layers):
    return hf.Qwen3MoeConfig(
        **decoder(layers, head_dim=12),
        num_experts=6,
        num_experts_per_tok=3,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    )


def gpt_oss(layers):
    return hf.GptOssConfig(
        **decoder(layers, head_dim=8, intermediate_size=24),
        num_local_experts=6,
        num_experts_per_tok=3,
        sliding_window=7,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    )


def deepseek(shape, **more):
    """Keys of both, heads whose parts all have other sizes; a head shares no keys."""
    return dict(
        **{**shape, "num_key_value_heads": shape["num_attention_heads"]},
        **{
            "q_lora_rank": 12,
            "kv_lora_rank": 10,
            "qk_nope_head_dim": 6,
            "qk_rope_head_dim": 4,
            "v_head_dim": 5,
            "first_k_dense_replace": 1,
            "n_routed_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 16,
            **more,
        },
    )


def deepseek_yarn(**more):
    """A range of correction that cuts through the two frequencies."""
    return {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        **more,
    }


def deepseek_v2(layers):
    return hf.DeepseekV2Config(
        **deepseek(decoder(layers)),
        topk_method="group_limited_greedy",
        n_group=3,
        topk_group=2,
        routed_scaling_factor=1.5,
        rope_parameters=deepseek_yarn(beta_fast=8.0, beta_slow=0.25, mscale=0.7, mscale_all_dim=0.4),
    )


def deepseek_v3(layers):
    return hf.DeepseekV3Config(
        **deepseek(decoder(layers)),
        n_group=3,
        topk_group=2,
        rope_parameters=deepseek_yarn(mscale=1.0, mscale_all_dim=1.0),
    )


# Name: the bare family, by its layers; and the smallest one, with other settings.
FAMILIES = {
    "gemma3_text": (
        gemma3_text,
        hf.Gemma3TextConfig(
            **small(head_dim=8),
            query_pre_attn_scalar=8,
            sliding_window=5,
            layer_types=[FULL, SLIDING],
            rope_parameters=both_ropes(1e5, 1e3),
            attention_bias=True,
            tie_word_embeddings=False,
        ),
    ),
    "gemma2": (
        gemma2,
        hf.Gemma2Config(
            **small(head_dim=8),
            query_pre_attn_scalar=8,
            sliding_window=5,
            layer_types=[FULL, SLIDING],
            attn_logit_softcapping=1.5,
            final_logit_softcapping=2.0,
        ),
    ),
    "olmo2": (
        lambda layers: hf.Olmo2Config(**decoder(layers), tie_word_embeddings=False),
        hf.Olmo2Config(**small(), attention_bias=True, tie_word_embeddings=True),
    ),
    "olmo3": (
        olmo3,
        hf.Olmo3Config(**small(), sliding_window=5, layer_types=[FULL, SLIDING], attention_bias=True),
    ),
    "gpt2": (
        lambda layers: gpt2(decoder(layers)),
        gpt2(
            small(),
            n_inner=24,
            scale_attn_by_inverse_layer_idx=True,
            activation_function="gelu",
            tie_word_embeddings=False,
        ),
    ),
    "gpt_neox": (
        lambda layers: hf.GPTNeoXConfig(
            **without_key_value_heads(decoder(layers, num_attention_heads=2)),
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        ),
        hf.GPTNeoXConfig(
            **without_key_value_heads(small()),
            rope_parameters={"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5},
            use_parallel_residual=False,
            attention_bias=False,
            hidden_act="gelu_new",
            tie_word_embeddings=True,
        ),
    ),
    "smollm3": (
        lambda layers: hf.SmolLM3Config(
            **decoder(layers), no_rope_layer_interval=2, tie_word_embeddings=True
        ),
        hf.SmolLM3Config(
            **small(),
            no_rope_layers=[0, 1],
            use_sliding_window=True,
            sliding_window=5,
            layer_types=[FULL, SLIDING],
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
        ),
    ),
    "granite": (
        granite,
        hf.GraniteConfig(**small(), attention_bias=True, mlp_bias=True, attention_multiplier=0.5),
    ),
    "glm4": (
        lambda layers: hf.Glm4Config(**decoder(layers, head_dim=8)),
        hf.Glm4Config(
            **small(head_dim=12),
            attention_bias=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
            tie_word_embeddings=True,
        ),
    ),
    "mixtral": (
        mixtral,
        hf.MixtralConfig(
            **small(),
            num_local_experts=5,
            num_experts_per_tok=3,
            sliding_window=5,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3_moe": (
        qwen3_moe,
        hf.Qwen3MoeConfig(
            **small(head_dim=8),
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=12,
            decoder_sparse_step=2,
            use_sliding_window=True,
            sliding_window=5,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
    ),
    "gpt_oss": (
        gpt_oss,
        # A limit that some gates and more of what they multiply are beyond.
        hf.GptOssConfig(
            **small(head_dim=8),
            num_local_experts=5,
            num_experts_per_tok=2,
            sliding_window=5,
            layer_types=[FULL, SLIDING],
            swiglu_limit=0.8,
            swiglu_alpha=1.3,
            attention_bias=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            tie_word_embeddings=True,
        ),
    ),
    "deepseek_v2": (
        deepseek_v2,
        hf.DeepseekV2Config(
            **deepseek(small(), q_lora_rank=None, moe_intermediate_size=8, num_experts_per_tok=2),
            n_shared_experts=1,
        ),
    ),
    "deepseek_v3": (
        deepseek_v3,
        hf.DeepseekV3Config(
            **deepseek(small(), moe_intermediate_size=8, n_routed_experts=5, v_head_dim=12),
            n_group=1,
            topk_group=1,
            n_shared_experts=2,
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
            rope_interleave=False,
            attention_bias=True,
            tie_word_embeddings=True,
        ),
    ),
}


def add(folder, values):
    """More expected values beside those there are."""
    path = folder / "expected.safetensors"
    values = {name: value.contiguous() for name, value in values.items()}
    save_file({**load_file(path), **values}, path)
    path.chmod(0o644)


def add_generated(folder):
    """What greedy decoding says."""
    prompt = torch.tensor([[5, 17, 3]])
    with torch.inference_mode():
        ids = load(folder).generate(
            prompt, do_sample=False, max_new_tokens=12, min_new_tokens=12, use_cache=True
        )
    add(folder, {"generated": ids.float()})


def add_chosen(folder):
    """Which experts of each layer compute which token of both rows of ids."""
    model = load(folder)
    ids = load_file(folder / "expected.safetensors")["input_ids"].long()
    if model.config.model_type.startswith("deepseek"):
        return add_chosen_by_groups(folder, model, ids)
    with torch.inference_mode():
        scores = model(ids, use_cache=False, output_router_logits=True).router_logits
    sparse = [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]
    chosen = [one.topk(model.config.num_experts_per_tok).indices for one in scores]
    by_row = {f"experts.{i}": one.reshape(*ids.shape, -1).float() for i, one in zip(sparse, chosen)}
    add(folder, by_row)


def add_chosen_by_groups(folder, model, ids):
    """The same where scores alone do not say which: their gate does, in no order."""
    chosen = {}
    for i, layer in enumerate(model.model.layers):
        if not hasattr(layer.mlp, "experts"):
            continue

        def keep(_, __, found, i=i):
            _, weights, experts = found
            order = weights.sort(descending=True, stable=True).indices
            chosen[f"experts.{i}"] = experts.gather(1, order).reshape(*ids.shape, -1).float()

        layer.mlp.gate.register_forward_hook(keep)
    with torch.inference_mode():
        model(ids, use_cache=False)
    add(folder, chosen)


def add_gradients(folder):
    """Of the mean loss over the ids that `expected.safetensors` holds."""
    model = load(folder)
    # PyTorch gives the row of the padding token no gradient.
    model.get_input_embeddings().padding_idx = None
    ids = load_file(folder / "expected.safetensors")["input_ids"].long()
    logits = model(ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    stored = stored_apart(gradients, model.config.model_type)
    add(folder, {f"gradient.{name}": gradient for name, gradient in stored.items()})


def stored_apart(tensors, model_type):
    """As folders have them: a matrix for each expert, where the class has stacks."""
    apart, in_mixtral = {}, model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if in_mixtral else ("gate_proj", "up_proj", "down_proj")
    if model_type == "gpt_oss":
        # Folders have stacks as well.
        return tensors
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if in_mixtral:
            stem = stem.replace(".mlp", ".block_sparse_moe")
        if not stem.endswith(".experts"):
            apart[f"{stem}.{last}"] = tensor
            continue
        for expert, matrix in enumerate(tensor):
            own = f"{stem}.{expert}"
            if last == "down_proj":
                apart[f"{own}.{down}.weight"] = matrix
            else:
                apart[f"{own}.{gate}.weight"], apart[f"{own}.{up}.weight"] = matrix.chunk(2)
    return apart


def add_older(out, name, change):
    """Copies a `-bf16-sharded` folder, spells its configuration as it was and checks that nothing
    changed."""
    newer = out / f"{name}-bf16-sharded"
    folder = out / f"{name}-older"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(newer, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parameters = config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    change(config, parameters)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    ids = torch.randint(config["vocab_size"], (2, LENGTH), generator=torch.Generator().manual_seed(5))
    newer, older = compute(newer, ids), compute(folder, ids)
    assert all(torch.equal(newer[key], older[key]) for key in newer), name


def older_gemma3(config, parameters):
    """As in Gemma 3's own files: bases beside each other; types follow from their pattern."""
    full = parameters[FULL]
    config["rope_theta"], config["rope_local_base_freq"] = full.pop("rope_theta"), 1e4
    config["rope_scaling"] = full
    config.pop("_sliding_window_pattern", None)
    config["sliding_window_pattern"] = 2
    del config["layer_types"]


def older_gpt_neox(config, parameters):
    """As in Pythia's own files."""
    config["rotary_emb_base"] = int(parameters["rope_theta"])
    config["rotary_pct"] = parameters["partial_rotary_factor"]
    for key in ("attention_bias", "attention_dropout", "hidden_dropout", "is_decoder"):
        config.pop(key, None)


def older_glm4(config, parameters):
    """As in GLM-4-0414's own files."""
    config["rope_theta"] = parameters["rope_theta"]
    config["partial_rotary_factor"] = parameters["partial_rotary_factor"]


def older_qwen3_moe(config, parameters):
    """As in Qwen3-30B-A3B's own files."""
    config["rope_theta"] = parameters["rope_theta"]
    config["num_experts"] = config.pop("num_local_experts")


def older_gpt_oss(config, parameters):
    """As in gpt-oss-20b's own files."""
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = parameters
    config["initial_context_length"] = parameters["original_max_position_embeddings"]
    config["experts_per_token"] = config["num_experts_per_tok"]
    del config["swiglu_alpha"]


def older_deepseek(config, parameters):
    """As in DeepSeek's own files, which say what transformers takes for granted."""
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = {"type": parameters.pop("rope_type"), **parameters}
    for key in ("head_dim", "qk_head_dim", "rope_interleave", "output_router_logits", "mlp_bias"):
        config.pop(key, None)
    config.update(moe_layer_freq=1, ep_size=1, num_nextn_predict_layers=1)


def older_deepseek_v2(config, parameters):
    older_deepseek(config, parameters)
    config.update(scoring_func="softmax", norm_topk_prob=False, aux_loss_alpha=0.001, seq_aux=True)


def older_deepseek_v3(config, parameters):
    older_deepseek(config, parameters)
    config.update(scoring_func="sigmoid", topk_method="noaux_tc")


OLDER = {
    "deepseek_v2": older_deepseek_v2,
    "deepseek_v3": older_deepseek_v3,
    "gemma3_text": older_gemma3,
    "gpt_neox": older_gpt_neox,
    "glm4": older_glm4,
    "qwen3_moe": older_qwen3_moe,
    "gpt_oss": older_gpt_oss,
}


# What the four bits of an E2M1 stand for (OCP Microscaling Formats 1.0, 5.3.3).
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def packed(shape, generator):
    """Random numbers as gpt-oss is published: [experts, out, in/32, 16] bytes of two numbers each, the lower
    four bits first, and the exponents of their blocks' scales; and the [experts, in, out] that they are."""
    experts, out, inputs = shape
    blocks = torch.randint(256, (experts, out, inputs // 32, 16), generator=generator, dtype=torch.uint8)
    # 2^-5 to 2^-3: a matrix about keeps the variance.
    scales = torch.randint(122, 125, (experts, out, inputs // 32), generator=generator, dtype=torch.uint8)
    numbers = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], -1).flatten(-2)
    numbers = numbers * 2.0 ** (scales[..., None].float() - 127)
    return blocks, scales, numbers.reshape(experts, out, inputs).transpose(1, 2)


def write_mxfp4(out, seed):
    """gpt_oss as it is published: its experts' matrices in MXFP4, the rest in bf16. What is expected is
    computed from the numbers that the blocks stand for."""
    folder = out / "gpt_oss-mxfp4"
    config = gpt_oss(2)
    config.intermediate_size = 32
    write(out, folder.name, config, seed, torch.bfloat16)
    path = folder / "model.safetensors"
    stored, generator = load_file(path), torch.Generator().manual_seed(seed)
    plain, whole = dict(stored), [name for name in stored if name.endswith(("gate_up_proj", "down_proj"))]
    for name in whole:
        experts, inputs, outputs = stored.pop(name).shape
        blocks, scales, numbers = packed((experts, outputs, inputs), generator)
        stored[f"{name}_blocks"], stored[f"{name}_scales"] = blocks, scales
        plain[name] = numbers.contiguous()
    save_file(plain, path)
    ids = load_file(folder / "expected.safetensors")["input_ids"].long()
    expected = compute(folder, ids)
    save_file({key: expected[key] for key in ("input_ids", "logits")}, folder / "expected.safetensors")
    save_file(stored, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)


def phi3_partial():
    """As Phi-4-mini: LongRoPE on three quarters of each head, and a tied head."""
    return hf.Phi3Config(
        **decoder(2, num_attention_heads=2, num_key_value_heads=1),
        original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7],
            "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.5],
        },
        tie_word_embeddings=True,
    )


def write_multimodal(out, seed):
    """Gemma 3 as it is published from 4B on: the text model beside a vision tower."""
    vision = dict(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
        vision_use_head=False,
    )
    config = hf.Gemma3Config(
        text_config=gemma3_text(2).to_dict(),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=95,
        boi_token_index=94,
        eoi_token_index=93,
    )
    folder = out / "gemma3"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = hf.Gemma3ForConditionalGeneration(config)
    text = model.model.language_model
    text.config.model_type = "gemma3_text"
    fill(text, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = torch.randint(90, (1, LENGTH), generator=torch.Generator().manual_seed(seed + 1000))
    model = hf.Gemma3ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits
    save_file({"input_ids": ids.float(), "logits": logits}, folder / "expected.safetensors")
    for path in folder.iterdir():
        path.chmod(0o644)


def main():
    """Writes every folder, or those of some families."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "tiny")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    out = arguments.out
    torch.set_num_threads(1)
    for seed, (name, (family, smallest)) in enumerate(FAMILIES.items()):
        if arguments.only and name not in arguments.only:
            continue
        write(out, name, family(3), 60 + seed, brief=False)
        add_generated(out / name)
        if any(hasattr(family(3), key) for key in ("num_local_experts", "n_routed_experts")):
            add_chosen(out / name)
        write(out, f"{name}-bf16-sharded", family(2), 80 + seed, torch.bfloat16, "20KB")
        write(out, f"{name}-small", smallest, 100 + seed)
        add_gradients(out / f"{name}-small")
        if name in OLDER:
            add_older(out, name, OLDER[name])
    if not arguments.only or "gemma3" in arguments.only:
        write_multimodal(out, 120)
    if not arguments.only or "gpt_oss" in arguments.only:
        write_mxfp4(out, 122)
    if not arguments.only or "phi3" in arguments.only:
        write(out, "phi3-partial", phi3_partial(), 121)
        add_gradients(out / "phi3-partial")


if __name__ == "__main__":
    main()
