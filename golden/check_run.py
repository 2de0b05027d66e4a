"""Holds the losses of a training run against PyTorch's, from the same weights on the same tokens.

    lns train … --set checkpoints.every=100000 --out RUN
    cargo run --release --example batches -- RUN 300 batches.bin
    python golden/check_run.py RUN batches.bin [--start RUN/checkpoints/step-00000000]

The model is transformers' Llama; for the scheme `lns` a hook multiplies what every norm of layer l but the
final one gives by l^-1/2. The optimiser is torch's AdamW without decay, which is Adam. Runs that decay nothing and
follow the cosine schedule are understood. `--start` names the weights as they were drawn, where another run of the same seed
kept them. Prints the largest difference of a step's loss and fails when it is above 1e-3 nats.
"""

import argparse
import json
import math
import tomllib
from pathlib import Path

import numpy
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from safetensors.torch import load_file

parser = argparse.ArgumentParser()
parser.add_argument("run", type=Path)
parser.add_argument("batches", type=Path)
parser.add_argument("--start", type=Path)
args = parser.parse_args()
start = args.start or args.run / "checkpoints/step-00000000"

run = tomllib.loads((args.run / "config.toml").read_text())
config = json.loads((start / "config.json").read_text())
scheme = config.get("norm_scheme", {"name": "pre"})["name"]
assert scheme in ("pre", "lns"), scheme
optimiser, schedule, data = run["optimiser"], run["schedule"], run["data"]
assert optimiser["name"] in ("adam", "adamw") and schedule["shape"] == "cosine", (optimiser, schedule)
assert optimiser.get("weight_decay", 0.0) == 0.0 and optimiser.get("z_loss", 0.0) == 0.0

model = LlamaForCausalLM(LlamaConfig.from_dict({**config, "model_type": "llama"})).float()
weights = load_file(start / "model.safetensors")
missing, unexpected = model.load_state_dict(weights, strict=False)
assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
if scheme == "lns":
    for depth, layer in enumerate(model.model.layers, 1):
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(lambda _, __, out, scale=depth**-0.5: out * scale)

adam = torch.optim.AdamW(
    model.parameters(),
    betas=(optimiser["beta1"], optimiser["beta2"]),
    eps=optimiser["eps"],
    weight_decay=0.0,
)


def learning_rate(step):
    """Of step 1, 2, …: a line up to the peak, then a cosine down to a share of it."""
    peak, warmup = schedule["learning_rate"], schedule["warmup"]
    if step <= warmup:
        return peak * step / warmup
    total = schedule.get("steps", run["steps"])
    share = min((step - warmup) / (total - warmup), 1.0)
    floor = schedule["floor"]
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


shape = (-1, 2, run["batch"]["sequences"], data["length"])
batches = torch.from_numpy(numpy.fromfile(args.batches, "<u4").astype("int64")).view(shape)
steps = {}
for line in (args.run / "events.jsonl").read_text().splitlines():
    event = json.loads(line)
    if event["event"] == "step":
        steps[event["step"]] = event
worst = 0.0
for number, (inputs, targets) in enumerate(batches, 1):
    if number not in steps:
        break
    rate = learning_rate(number)
    assert abs(rate - steps[number]["learning_rate"]) <= 1e-9 * rate, (number, rate, steps[number])
    for group in adam.param_groups:
        group["lr"] = rate
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    adam.zero_grad()
    loss.backward()
    if optimiser["clip"] > 0:
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimiser["clip"])
    adam.step()
    difference = steps[number]["loss"] - loss.item()
    if abs(difference) > worst:
        worst = abs(difference)
        print(f"step {number:4}  torch {loss.item():.6f}  lns {steps[number]['loss']:.6f}  {difference:+.1e}", flush=True)
print(f"{scheme}: {number} steps, largest difference {worst:.1e} nats")
assert worst < 1e-3
