"""Holds a LoRA run of `lns finetune` against PEFT: the adapters of its last snapshot beside its base, and
its merged model.

    pip install peft
    python golden/check_lora.py BASE RUN

BASE is the folder that the run began with. Prints how far the logits of 64 tokens are apart, and how far
the adapters moved them; fails when the former is more than 1e-4 of the largest logit.

With PEFT 0.21.2 and transformers 5.24.0, on golden/tiny/{gpt2,gpt_neox,glm4,phi3} with all matrices at rank 4, they
were at most 1.6e-6 of the largest logit apart. In these families PEFT's modules (c_attn, query_key_value, qkv_proj,
gate_up_proj) are several of the matrices that have adapters here.
"""

import argparse
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("base")
parser.add_argument("run", type=Path)
args = parser.parse_args()

ids = torch.arange(64)[None]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


with torch.no_grad():
    base = load(args.base)
    plain = base(ids).logits
    snapshot = max((args.run / "snapshots").glob("step-*"))
    apart = PeftModel.from_pretrained(base, snapshot).eval()(ids).logits
    merged = load(args.run / "model")(ids).logits
largest = merged.abs().max()
difference = ((apart - merged).abs().max() / largest).item()
moved = ((merged - plain).abs().max() / largest).item()
print(f"PEFT and the merged model differ by {difference:.1e} of the largest logit; the adapters moved it by {moved:.1e}")
assert difference < 1e-4 < moved
