"""Training under every norm scheme in PyTorch, for crates/train/tests/golden.rs.

    python golden/train_schemes.py [--out crates/train/tests/golden]

Writes `schemes.json` (the model's shape; of each run its scheme, recipe, 20 losses and 20 gradient
norms before clipping) and `first_step.safetensors` (of each run all parameters after one step, as one
vector in the order of their sorted names). Weights and tokens are splitmix64 of a name or a number,
so that both sides make the same bits.

The model here is a second one beside `reference.py`: modules with autograd, torch's own RMSNorm,
attention and optimisers, schemes from the table of DESIGN.md. Before anything is written it must
agree with `reference.py` on every scheme and with transformers on `pre`, gradients included.

A first step of Adam is lr * g / (|g| + eps). Its error is lr * eps * error(g) / (|g| + eps)^2: large
where a gradient happens to be near eps = 1e-8. SEED was chosen so that none is, in any run: every run
is repeated in f64, and the two may differ by 1e-6 of a tensor's root mean square after the first step
and by 1e-5 in any loss. Where a run of another seed fails that, its chaos would be all that is compared.
"""

import argparse
import json
from pathlib import Path

import torch
from reference import Decoder
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

SEED = 7
SHAPE = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LENGTH, SEQUENCES, STEPS, BATCHES = 12, 4, 20, 4
LEARNING_RATE = 3e-3
IGNORED = -100

BOTH = ["attention", "mlp"]
SCHEMES = {
    "pre": {"name": "pre"},
    "lns": {"name": "lns", "exponent": 0.5, "sites": BOTH, "placement": "output"},
    "post": {"name": "post"},
    "deepnorm": {"name": "deepnorm"},
    "mix-ln": {"name": "mix-ln", "post_fraction": 0.25},
    "sandwich": {"name": "sandwich"},
    "peri": {"name": "peri"},
    "branch-scale": {"name": "branch-scale", "rule": "sqrt-depth"},
    "branch-scale-sqrt-layers": {"name": "branch-scale", "rule": "sqrt-layers"},
    "branch-scale-layers": {"name": "branch-scale", "rule": "layers"},
    "layerscale": {"name": "layerscale", "init": 0.0001},
    "skipinit": {"name": "skipinit"},
    "output-norm": {"name": "output-norm"},
    "keel": {"name": "keel"},
    "gpas": {"name": "gpas"},
    # Layer l joins within 5 l of the 20 steps.
    "progressive": {"name": "progressive", "steps": 5, "taken": 0},
    "before-norm": {"name": "lns", "exponent": 0.5, "sites": BOTH, "placement": "input"},
}
# What a run is named after besides its scheme. `adamw`, every scheme's: decay 0.1 of the projections,
# clipped to 1. `adam`: the paper's, neither decayed nor clipped. `z-loss`: adamw and 0.01 times the
# squared log-sum of the logits, a hundred times the usual, to be seen. `muon`: clipped, decay 0.1.
MORE = [("pre", "adam"), ("lns", "adam"), ("pre", "z-loss"), ("lns", "z-loss"), ("lns", "muon")]


def splitmix(x):
    """One step of splitmix64."""
    mask = (1 << 64) - 1
    z = (x + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def fill(name, shape):
    """The initial values of the tensor `name`: gains around 1, lambdas around 1/2, the rest around 0."""
    start = 0xCBF29CE484222325 ^ SEED
    for byte in name.encode():
        start = ((start ^ byte) * 0x100000001B3) & ((1 << 64) - 1)
    if name.endswith("norm.weight"):
        centre, radius = 1.0, 0.25
    elif name.endswith("branch_scale"):
        centre, radius = 0.5, 0.25
    else:
        centre, radius = 0.0, 0.4375
    units = [(splitmix(start + i) >> 40) / 2**23 - 1.0 for i in range(shape.numel())]
    return torch.tensor([centre + radius * unit for unit in units], dtype=torch.float32).view(shape)


def batch(step):
    """Inputs and targets [SEQUENCES, LENGTH]. Sequence s predicts nothing before its token 3 s, and
    about one token in five is ignored besides, so that sequences weigh differently."""
    inputs, targets = [], []
    for sequence in range(SEQUENCES):
        start = ((step % BATCHES) * SEQUENCES + sequence) * 1000 + 777_777
        draws = [splitmix(start + i) % SHAPE["vocab_size"] for i in range(LENGTH + 6)]
        ids = [min(pair) for pair in zip(draws, draws[5:])]
        kept = [i >= 3 * sequence and splitmix(start + 500 + i) % 5 > 0 for i in range(LENGTH)]
        inputs.append(ids[:-1])
        targets.append([target if keep else IGNORED for target, keep in zip(ids[1:], kept)])
    return torch.tensor(inputs), torch.tensor(targets)


def matrix(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def norm():
    return nn.RMSNorm(SHAPE["hidden_size"], eps=SHAPE["rms_norm_eps"])


def rotate(x):
    """Rotary positions of [B, heads, T, head_dim]: x cos + rotate_half(x) sin."""
    half, dtype = x.shape[-1] // 2, x.dtype
    frequency = SHAPE["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * frequency
    angle = torch.cat([angle, angle], -1)
    rotated = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * angle.cos().to(dtype) + rotated * angle.sin().to(dtype)


class Attention(nn.Module):
    """Causal, grouped queries."""

    def __init__(self):
        super().__init__()
        hidden, width = SHAPE["hidden_size"], SHAPE["head_dim"]
        queries, keys = SHAPE["num_attention_heads"] * width, SHAPE["num_key_value_heads"] * width
        self.q_proj, self.k_proj = matrix(hidden, queries), matrix(hidden, keys)
        self.v_proj, self.o_proj = matrix(hidden, keys), matrix(queries, hidden)

    def forward(self, x):
        q, k, v = (
            project(x).unflatten(-1, (-1, SHAPE["head_dim"])).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(
            rotate(q), rotate(k), v, is_causal=True, enable_gqa=True
        )
        return self.o_proj(y.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self):
        super().__init__()
        hidden, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
        self.gate_proj, self.up_proj = matrix(hidden, inner), matrix(hidden, inner)
        self.down_proj = matrix(inner, hidden)

    def forward(self, x):
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Both branches, joined to the stream by a scheme."""

    def __init__(self, scheme, layer):
        super().__init__()
        self.scheme, self.depth = scheme, layer + 1
        self.self_attn, self.mlp = Attention(), Mlp()
        self.input_layernorm = self.post_attention_layernorm = None
        if scheme["name"] != "output-norm":
            self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        match scheme["name"]:
            case "sandwich" | "peri" | "output-norm":
                self.attention_output_layernorm, self.mlp_output_layernorm = norm(), norm()
            case "keel" if layer > 0:
                self.attention_join_layernorm, self.mlp_join_layernorm = norm(), norm()
            case "gpas":
                self.stream_gate = nn.Parameter(torch.empty(1))
            case "layerscale" | "skipinit":
                width = SHAPE["hidden_size"] if scheme["name"] == "layerscale" else 1
                self.attention_branch_scale = nn.Parameter(torch.empty(width))
                self.mlp_branch_scale = nn.Parameter(torch.empty(width))

    def join(self, x, f, n, site):
        """DESIGN.md's table: the stream after the branch f with norm n."""
        l, layers = self.depth, SHAPE["num_hidden_layers"]
        match self.scheme:
            case {"name": "pre"}:
                return x + f(n(x))
            case {"name": "lns", "placement": "output"}:
                return x + f(n(x) / l**0.5)
            case {"name": "lns", "placement": "input"}:
                return x + f(n(x / l**0.5))
            case {"name": "post"}:
                return n(x + f(x))
            case {"name": "deepnorm"}:
                return n((2 * layers) ** 0.25 * x + f(x))
            case {"name": "mix-ln", "post_fraction": fraction}:
                return n(x + f(x)) if l <= fraction * layers else x + f(n(x))
            case {"name": "sandwich" | "peri"}:
                return x + getattr(self, f"{site}_output_layernorm")(f(n(x)))
            case {"name": "branch-scale", "rule": rule}:
                divisors = {"sqrt-depth": l**0.5, "sqrt-layers": layers**0.5, "layers": layers}
                return x + f(n(x)) / divisors[rule]
            case {"name": "layerscale" | "skipinit"}:
                return x + getattr(self, f"{site}_branch_scale") * f(n(x))
            case {"name": "output-norm"}:
                return x + getattr(self, f"{site}_output_layernorm")(f(x))
            case {"name": "keel"}:
                if l == 1:
                    return x + f(n(x))
                return getattr(self, f"{site}_join_layernorm")(layers * x + f(n(x)))
            case {"name": "gpas"}:
                h = x + f(n(x))
                return h - functional.silu(self.stream_gate) * h.detach()
            case {"name": "progressive", "steps": steps, "taken": taken}:
                return x + min(taken / (steps * l), 1.0) * f(n(x))

    def forward(self, x):
        x = self.join(x, self.self_attn, self.input_layernorm, "attention")
        return self.join(x, self.mlp, self.post_attention_layernorm, "mlp")


class Stack(nn.Module):
    """Everything but the head."""

    def __init__(self, scheme):
        super().__init__()
        self.embed_tokens = nn.Embedding(SHAPE["vocab_size"], SHAPE["hidden_size"])
        self.embed_norm = norm() if scheme["name"] == "peri" else nn.Identity()
        self.layers = nn.ModuleList(Layer(scheme, i) for i in range(SHAPE["num_hidden_layers"]))
        self.norm = norm()

    def forward(self, ids):
        x = self.embed_norm(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Model(nn.Module):
    """Parameter names are those of a checkpoint."""

    def __init__(self, scheme, dtype=torch.float32):
        super().__init__()
        self.model = Stack(scheme)
        self.lm_head = matrix(SHAPE["hidden_size"], SHAPE["vocab_size"])
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(fill(name, parameter.shape))
        self.to(dtype)

    def forward(self, ids):
        return self.lm_head(self.model(ids))


class Muon(torch.optim.Optimizer):
    """Jordan et al., 2024, in f32: Nesterov momentum 0.95, orthogonalised by five Newton-Schulz steps,
    times 0.2 sqrt(longer side) (arXiv 2502.16982). torch's own computes them in bf16."""

    def __init__(self, matrices):
        super().__init__(matrices, {"lr": LEARNING_RATE, "momentum": 0.95, "weight_decay": 0.1})

    @staticmethod
    def orthogonal(g):
        x = g / (g.norm() + 1e-7)
        wide = x if x.shape[0] <= x.shape[1] else x.T
        for _ in range(5):
            gram = wide @ wide.T
            wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
        return wide if x.shape[0] <= x.shape[1] else wide.T

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for w in group["params"]:
                m = self.state[w].setdefault("momentum", torch.zeros_like(w))
                m.mul_(momentum).add_(w.grad)
                direction = self.orthogonal(w.grad + momentum * m)
                w.mul_(1 - rate * group["weight_decay"])
                w.sub_(rate * 0.2 * max(w.shape) ** 0.5 * direction)


def optimisers(recipe, model):
    """What updates which parameters. Gains, lambdas and the embedding do not decay."""
    named = dict(model.named_parameters())
    decays = lambda name: named[name].dim() == 2 and name != "model.embed_tokens.weight"
    groups = [
        {"params": [p for n, p in named.items() if decays(n)], "weight_decay": 0.1},
        {"params": [p for n, p in named.items() if not decays(n)], "weight_decay": 0.0},
    ]
    adamw = lambda groups: torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)
    match recipe:
        case "adamw" | "z-loss":
            return [adamw(groups)]
        case "adam":
            return [torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8)]
        case "muon":
            matrices = [p for n, p in named.items() if decays(n) and n != "lm_head.weight"]
            groups[0]["params"] = [model.lm_head.weight]
            return [Muon(matrices), adamw(groups)]


def train(scheme, recipe, dtype=torch.float32):
    """Losses, gradient norms, and the parameters after the first step in the order of their names."""
    scheme = dict(scheme)
    model = Model(scheme, dtype)
    steppers = optimisers(recipe, model)
    losses, norms, first = [], [], None
    for step in range(STEPS):
        if scheme["name"] == "progressive":
            scheme["taken"] = step
        inputs, targets = batch(step)
        logits = model(inputs).flatten(0, 1)
        loss = functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED)
        objective = loss
        if recipe == "z-loss":
            log_sums = logits.logsumexp(-1)[targets.flatten() != IGNORED]
            objective = loss + 1e-2 * (log_sums**2).mean()
        model.zero_grad()
        objective.backward()
        limit = float("inf") if recipe == "adam" else 1.0
        norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
        for stepper in steppers:
            stepper.step()
        losses.append(loss.item())
        norms.append(norm.item())
        if step == 0:
            first = {name: value.detach().clone() for name, value in sorted(model.named_parameters())}
    return losses, norms, first


def largest_difference(found, expected):
    """Over all tensors, relative to the larger of the number and its tensor's root mean square."""
    worst = 0.0
    for name, b in expected.items():
        scale = b.abs().clamp(min=b.square().mean().sqrt())
        worst = max(worst, ((found[name] - b).abs() / scale).max().item())
    return worst


def against_reference(scheme):
    """Largest difference of logits from `reference.py`, in f64, over the largest logit."""
    model = Model(scheme, torch.float64)
    inputs, _ = batch(0)
    with torch.no_grad():
        reference = Decoder({**SHAPE, "norm_scheme": scheme}, dict(model.named_parameters()))
        expected = reference.head(reference.streams(inputs)[-1])
        return ((model(inputs) - expected).abs().max() / expected.abs().max()).item()


def against_transformers():
    """Largest difference of the gradient of `pre` from transformers' model, in f32."""
    ours, (inputs, targets) = Model(SCHEMES["pre"]), batch(0)
    theirs = LlamaForCausalLM(LlamaConfig(**SHAPE))
    theirs.load_state_dict(ours.state_dict())
    gradients = []
    for logits in (ours(inputs), theirs(inputs).logits):
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED).backward()
    for model in (ours, theirs):
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    return largest_difference(*gradients)


def main():
    """Checks, trains, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "crates/train/tests/golden"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    torch.set_num_threads(1)

    difference = against_transformers()
    print(f"pre: gradients within {difference:.1e} of transformers'")
    assert difference < 1e-5
    runs, first_steps = {}, {}
    wanted = [(name, name, "adamw") for name in SCHEMES]
    wanted += [(f"{name}-{recipe}", name, recipe) for name, recipe in MORE]
    for run, name, recipe in wanted:
        scheme = SCHEMES[name]
        assert against_reference(scheme) < 1e-12, f"{name} is not what reference.py computes"
        losses, norms, first = train(scheme, recipe)
        exact_losses, exact_norms, exact_first = train(scheme, recipe, torch.float64)
        loss_error = max(abs(a - b) for a, b in zip(losses, exact_losses))
        norm_error = max(abs(a - b) / b for a, b in zip(norms, exact_norms))
        weight_error = largest_difference(first, {n: w.float() for n, w in exact_first.items()})
        above = sum(norm > 1 for norm in norms)
        print(
            f"{run}: loss {losses[0]:.3f} to {losses[-1]:.3f}, gradient norm above 1 in {above} steps;"
            f" f32 from f64: {loss_error:.1e} in loss, {norm_error:.1e} in norm,"
            f" {weight_error:.1e} in weights"
        )
        assert weight_error < 1e-6 and loss_error < 1e-5, "choose another SEED"
        runs[run] = {
            "norm_scheme": scheme,
            "recipe": recipe,
            "losses": [round(loss, 7) for loss in losses],
            "gradient_norms": [round(norm, 7) for norm in norms],
        }
        first_steps[run] = torch.cat([value.flatten() for value in first.values()])
    out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(run)}: {json.dumps(values)}" for run, values in runs.items())
    document = f'{{"shape": {json.dumps(SHAPE)},\n"runs": {{\n{lines}\n}}}}\n'
    (out / "schemes.json").write_text(document)
    save_file(first_steps, out / "first_step.safetensors")
    (out / "first_step.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
