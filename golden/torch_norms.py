"""Values of the scaled norms by a formula in f64, which PyTorch's layers and the Rust ones are both held against.

    python golden/torch_norms.py      # writes golden/torch_norms.json
"""

import json
from pathlib import Path

import torch

torch.manual_seed(5)
x = torch.randn(3, 8) * torch.tensor([[0.3], [1.0], [3.0]]) + 0.5
gamma, beta = 1 + 0.3 * torch.randn(8), 0.3 * torch.randn(8)


def case(layer_idx: int, exponent: float) -> dict:
    wide, gain, bias = x.double(), gamma.double(), beta.double()
    scale = (layer_idx + 1) ** -exponent
    rms = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain * scale
    centred = wide - wide.mean(-1, keepdim=True)
    layer = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + bias) * scale
    return {"layer_idx": layer_idx, "exponent": exponent, "rms": rms.tolist(), "layer": layer.tolist()}


cases = [case(layer_idx, exponent) for layer_idx, exponent in [(0, 0.5), (3, 0.5), (30, 0.5), (30, 0.25)]]
golden = {"x": x.tolist(), "gamma": gamma.tolist(), "beta": beta.tolist(), "cases": cases}
Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n")
