"""Losses of 20 training steps of tiny models in PyTorch, for crates/bench/tests/golden.rs.

    python golden/train_tiny.py crates/bench/tests/losses.json

The model, weights, tokens and optimiser are those of benchmarks/torch_workloads.py.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import torch
import torch_workloads as workloads

# vocabulary, hidden, inner, layers, heads, key/value heads, length, sequences, LNS
TINY = {
    "pre": (96, 48, 80, 3, 4, 4, 24, 5, False),
    "lns": (96, 48, 80, 3, 4, 2, 24, 5, True),
}


def losses(shape):
    """One AdamW step after another."""
    model = workloads.Model(shape)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1
    )
    found = []
    for step in range(20):
        tokens = workloads.batch(shape, step)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


Path(sys.argv[1]).write_text(json.dumps({name: losses(shape) for name, shape in TINY.items()}, indent=1) + "\n")
