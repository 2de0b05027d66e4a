"""What the tests share: a tiny vocabulary, a tiny text, a tiny model.

The program is the one that `LNS_BINARY` names, or the first on the path.
"""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[2] / "golden"
WORDS = "the a cat dog bird sees hears follows small old young red green and".split()


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Sentences in the vocabulary's words, the same each time."""
    state, words = 1, []
    for _ in range(4096):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        words.append(WORDS[(state >> 16) % len(WORDS)])
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text):
    """A run of a few steps on that text."""
    import layernorm_scaling as lns

    out = tmp_path_factory.mktemp("trained") / "run"
    return lns.train(
        out,
        text=text,
        preset="smoke",
        steps=4,
        seed=7,
        threads=2,
        settings={"model.num_hidden_layers": 4, "schedule.warmup": 1},
        options=["--vocab", "300"],
        progress=False,
    )


@pytest.fixture
def llama():
    """A tiny Llama of transformers with weights and gains that are not near their start."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def config_of(folder):
    return json.loads((Path(folder) / "config.json").read_text("utf-8"))
