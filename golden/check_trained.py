"""Holds a model that `lns train` wrote against transformers: the loss of the same windows.

    python golden/check_trained.py RUN/model TEXT [--lns target/release/lns]

The model must be one that transformers knows: scheme `pre` (or an LNS model after folding). Prints both
losses and fails when they differ by more than 1e-4.
"""

import argparse
import json
import subprocess

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW, WINDOWS = 128, 16

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--lns", default="target/release/lns")
args = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
with open(args.text, encoding="utf-8", newline="") as file:
    ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
windows = torch.tensor(ids[: WINDOW * WINDOWS]).view(WINDOWS, WINDOW)
with torch.no_grad():
    logits = model(windows).logits[:, :-1].double()
loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()

command = [args.lns, "eval", args.model, "--text", args.text, "--window", str(WINDOW)]
command += ["--max-tokens", str(WINDOW * WINDOWS), "--json"]
ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["nll"]
print(f"transformers {loss:.6f}  lns {ours:.6f}  difference {ours - loss:+.1e}")
assert abs(ours - loss) < 1e-4
