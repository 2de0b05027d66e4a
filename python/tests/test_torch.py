"""The PyTorch layers equal the Rust ones, and a retrofit keeps the function."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import layernorm_scaling as lns  # noqa: E402
from layernorm_scaling.torch import (  # noqa: E402
    LayerNormScaling,
    RMSNormScaling,
    TransformerLayerWithScaling,
    apply_cod_mitigation_to_llama,
)

from conftest import GOLDEN, config_of  # noqa: E402

FEW = {"max_tokens": 512, "window": 64, "threads": 2, "progress": False}
TOKENS = torch.arange(48).reshape(2, 24) * 7 % 300


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def loss_of(model, text, tokenizer):
    """The loss that `lns eval` measures, by PyTorch."""
    ids = torch.tensor(tokenizer(text.read_text("utf-8"))["input_ids"][:512]).reshape(8, 64)
    with torch.no_grad():
        scores = model(ids).logits.double()
    return torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()


def test_norms_give_the_values_that_the_rust_norms_are_held_against():
    golden = json.loads((GOLDEN / "torch_norms.json").read_text("utf-8"))
    x, gamma, beta = (torch.tensor(golden[name]) for name in ("x", "gamma", "beta"))
    for case in golden["cases"]:
        rms = RMSNormScaling(8, case["layer_idx"], eps=1e-6, exponent=case["exponent"])
        layer = LayerNormScaling(8, case["layer_idx"], eps=1e-5, exponent=case["exponent"])
        with torch.no_grad():
            rms.weight.copy_(gamma)
            layer.weight.copy_(gamma)
            layer.bias.copy_(beta)
            assert (rms(x) - torch.tensor(case["rms"])).abs().max() < 1e-6
            assert (layer(x) - torch.tensor(case["layer"])).abs().max() < 1e-6


def test_the_scale_is_no_tensor_and_layer_0_has_none():
    norm = RMSNormScaling(4, 3)
    assert norm.scale == 0.5
    assert list(norm.state_dict()) == ["weight"]
    assert RMSNormScaling(4, 0).scale == LayerNormScaling(4, 0).scale == 1.0
    with pytest.raises(ValueError, match="counted from 0"):
        LayerNormScaling(4, -1)


def test_half_precision_stays_half_precision():
    assert RMSNormScaling(4, 3).bfloat16()(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert LayerNormScaling(4, 3).bfloat16()(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_layer_gives_the_streams_of_a_checkpoint_with_lns():
    load_file = pytest.importorskip("safetensors.torch").load_file
    folder = GOLDEN / "tiny" / "scheme-lns"
    weights, expected = load_file(folder / "model.safetensors"), load_file(folder / "expected.safetensors")
    config = config_of(folder)
    for layer_idx in range(config["num_hidden_layers"]):
        layer = TransformerLayerWithScaling(
            config["hidden_size"],
            config["num_attention_heads"],
            config["intermediate_size"],
            layer_idx,
            num_key_value_heads=config["num_key_value_heads"],
            eps=config["rms_norm_eps"],
            head_dim=config["head_dim"],
        )
        prefix = f"model.layers.{layer_idx}."
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        layer.load_state_dict(own)
        with torch.no_grad():
            after = layer(expected[f"stream.{layer_idx}"])
        assert (after - expected[f"stream.{layer_idx + 1}"]).abs().max() < 1e-5


def test_preserve_leaves_the_logits_and_replace_does_not(llama):
    before = logits(llama)
    assert apply_cod_mitigation_to_llama(llama) is llama
    assert isinstance(llama.model.layers[5].input_layernorm, RMSNormScaling)
    assert (logits(llama) - before).abs().max() < 1e-5
    with pytest.raises(ValueError, match="has a norm scheme already"):
        apply_cod_mitigation_to_llama(llama)


@pytest.mark.parametrize("mode", ["preserve", "replace"])
@pytest.mark.parametrize("sites, first_layer", [(("attention", "mlp"), 0), (("mlp",), 2)])
def test_a_retrofit_is_the_programs_retrofit(llama, text, trained, tmp_path, mode, sites, first_layer):
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained.model)
    llama.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    by_program = tmp_path / "scaled"
    scale = {"mode": mode, "sites": sites, "first_layer": first_layer, "text": text, "max_tokens": 512}
    lns.retrofit(tmp_path / "plain", by_program, **scale, progress=False)
    apply_cod_mitigation_to_llama(llama, mode=mode, sites=sites, first_layer=first_layer)
    # What the program computes of its own conversion, of the loaded model, and what PyTorch computes.
    of_program = lns.eval(by_program, text=text, **FEW).nll
    of_loaded = lns.eval(llama, text=text, tokenizer=tokenizer, **FEW).nll
    assert of_loaded == pytest.approx(of_program, abs=1e-6)
    assert loss_of(llama, text, tokenizer) == pytest.approx(of_program, abs=1e-6)


def test_a_scaled_model_that_was_saved_is_refused_by_those_who_would_lose_the_scale(llama, tmp_path):
    apply_cod_mitigation_to_llama(llama).save_pretrained(tmp_path / "scaled")
    assert config_of(tmp_path / "scaled")["model_type"] == "lns_llama"
    assert lns.inspect(tmp_path / "scaled", progress=False).norm_scheme["name"] == "lns"
    with pytest.raises((ValueError, KeyError), match="lns_llama"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "scaled")
    before = logits(llama)
    lns.fold(tmp_path / "scaled", tmp_path / "plain", progress=False)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert (logits(plain) - before).abs().max() < 1e-5


def test_gradients_go_through_the_scaled_model(llama):
    apply_cod_mitigation_to_llama(llama)
    llama(TOKENS, labels=TOKENS).loss.backward()
    gain = llama.model.layers[4].input_layernorm.weight
    assert gain.grad is not None and gain.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"mode": "anneal"}, "lns retrofit --mode anneal"),
        ({"sites": ("attn",)}, "'attention', 'mlp' or both"),
        ({"first_layer": -1}, "counted from 0"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(llama, asked, said):
    before = logits(llama)
    with pytest.raises(ValueError, match=said):
        apply_cod_mitigation_to_llama(llama, **asked)
    assert torch.equal(logits(llama), before)


def test_other_families_are_refused():
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    with pytest.raises(ValueError, match="'gpt2'; this is for llama"):
        apply_cod_mitigation_to_llama(model)
