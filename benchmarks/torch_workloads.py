"""The workloads of `lns bench` in PyTorch: the same weights, tokens, objective and optimiser.

    python benchmarks/torch_workloads.py --workload A --mode train --engine compile --seconds 10

Prints one JSON object: tokens_per_second from the median step, losses of the first steps, and the
process's peak resident memory. Weights and tokens are splitmix64 of an index, as in
`crates/bench/src/workload.rs`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.nn import functional

# vocabulary, hidden, inner, layers, heads, key/value heads, length, sequences, LNS
SHAPES = {
    "A": (4096, 256, 688, 8, 4, 4, 256, 8, False),
    "B": (2048, 128, 352, 24, 4, 4, 128, 16, False),
    "C": (32000, 768, 2048, 12, 12, 12, 256, 8, False),
    "D": (4096, 256, 688, 8, 4, 2, 256, 8, True),
}


def splitmix(x):
    """One step of splitmix64 for every element."""
    z = x + numpy.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return z ^ (z >> numpy.uint64(31))


class Norm(nn.Module):
    """RMSNorm, its output times a constant."""

    def __init__(self, width, scale):
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.scale = scale

    def forward(self, x):
        y = self.norm(x)
        return y if self.scale == 1.0 else y * self.scale


class Layer(nn.Module):
    """Pre-LN attention and gated MLP."""

    def __init__(self, hidden, inner, heads, groups, scale):
        super().__init__()
        self.heads, self.groups, self.width = heads, groups, hidden // heads
        matrix = lambda i, o: nn.Linear(i, o, bias=False)
        keys = groups * self.width
        self.q, self.k, self.v = matrix(hidden, hidden), matrix(hidden, keys), matrix(hidden, keys)
        self.o = matrix(hidden, hidden)
        self.gate, self.up, self.down = (
            matrix(hidden, inner),
            matrix(hidden, inner),
            matrix(inner, hidden),
        )
        self.attention_norm, self.mlp_norm = Norm(hidden, scale), Norm(hidden, scale)

    def forward(self, x, cos, sin):
        b, t, hidden = x.shape
        h = self.attention_norm(x)
        split = lambda y, n: y.view(b, t, n, self.width).transpose(1, 2)
        turn = lambda y: y * cos + torch.cat((-y[..., self.width // 2 :], y[..., : self.width // 2]), -1) * sin
        q = turn(split(self.q(h), self.heads))
        k, v = turn(split(self.k(h), self.groups)), split(self.v(h), self.groups)
        grouped = self.groups != self.heads
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.o(out.transpose(1, 2).reshape(b, t, hidden))
        h = self.mlp_norm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    """Embedding, layers, norm, untied head, cross-entropy."""

    def __init__(self, shape):
        super().__init__()
        vocabulary, hidden, inner, layers, heads, groups, length, _, lns = shape
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, hidden)
        scale = lambda i: (i + 1) ** -0.5 if lns else 1.0
        self.layers = nn.ModuleList(Layer(hidden, inner, heads, groups, scale(i)) for i in range(layers))
        self.norm, self.head = Norm(hidden, 1.0), nn.Linear(hidden, vocabulary, bias=False)
        width = hidden // heads
        inverse = 1.0 / 10000.0 ** (numpy.arange(0, width, 2) / width)
        angles = numpy.outer(numpy.arange(length), inverse)
        angles = numpy.concatenate((angles, angles), -1)
        self.register_buffer("cos", torch.tensor(numpy.cos(angles), dtype=torch.float32))
        self.register_buffer("sin", torch.tensor(numpy.sin(angles), dtype=torch.float32))
        matrices = [self.embedding.weight]
        for layer in self.layers:
            matrices += [m.weight for m in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)]
        with torch.no_grad():
            for place, weight in enumerate([*matrices, self.head.weight]):
                index = numpy.arange(weight.numel(), dtype=numpy.uint64) + numpy.uint64(place * 1000000007)
                unit = (splitmix(index) >> numpy.uint64(40)).astype(numpy.float64) / float(1 << 24)
                values = ((unit - 0.5) * 2 * 0.034641016).astype(numpy.float32)
                weight.copy_(torch.from_numpy(values.reshape(weight.shape)))

    def forward(self, x, y):
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = self.head(self.norm(x)).view(-1, self.vocabulary)
        return functional.cross_entropy(logits, y.reshape(-1))


def batch(shape, step):
    """Sequences of length + 1 tokens."""
    vocabulary, length, sequences = shape[0], shape[6], shape[7]
    index = numpy.arange(sequences * (length + 1), dtype=numpy.uint64)
    index = index + numpy.uint64((step % 4) * 1000003 + 777777777777)
    ids = numpy.minimum(
        (splitmix(index) % numpy.uint64(vocabulary)).astype(numpy.int64),
        (splitmix(index + numpy.uint64(5)) % numpy.uint64(vocabulary)).astype(numpy.int64),
    )
    return torch.from_numpy(ids.reshape(sequences, length + 1))


def reset_peak():
    """Forgets what making the weights took, where the system allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak():
    """Most resident memory of this process since then, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def main():
    """One measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workload", choices=SHAPES, required=True)
    parser.add_argument("--mode", choices=["train", "forward"], default="train")
    parser.add_argument("--engine", choices=["eager", "compile"], default="eager")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--losses", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = SHAPES[args.workload]
    model = Model(shape)
    called = torch.compile(model) if args.engine == "compile" else model
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True
    )
    batches = [batch(shape, step) for step in range(4)]

    def step(index):
        tokens = batches[index % 4]
        if args.mode == "forward":
            with torch.no_grad():
                return called(tokens[:, :-1], tokens[:, 1:]).item()
        loss = called(tokens[:, :-1], tokens[:, 1:])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.item()

    reset_peak()
    losses = [step(index) for index in range(max(4, args.losses))]
    seconds, start = [], time.perf_counter()
    while time.perf_counter() - start < args.seconds or len(seconds) < 5:
        before = time.perf_counter()
        step(len(losses) + len(seconds))
        seconds.append(time.perf_counter() - before)
    result = {
        "tokens_per_second": shape[6] * shape[7] / statistics.median(seconds),
        "losses": losses[: args.losses],
        "peak_rss_bytes": peak(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
