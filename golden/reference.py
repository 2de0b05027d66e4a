"""A Llama decoder with norm schemes in plain PyTorch, straight from the formulas of DESIGN.md.

`schemes.py` checks it against transformers on the scheme both know (`pre`). It computes in the
dtype of the weights it is given, so that f64 weights give f64 results throughout; transformers'
norms are always f32. Only what the golden models use is here: default rotary embedding, no biases.
"""

import json

import torch
from safetensors.torch import load_file


class Decoder:
    """A checkpoint folder's function, one branch at a time."""

    def __init__(self, config, weights):
        self.weights = weights
        self.layers = config["num_hidden_layers"]
        self.eps = config["rms_norm_eps"]
        self.heads = config["num_attention_heads"]
        self.key_value_heads = config["num_key_value_heads"]
        self.head_dim = config["head_dim"]
        rope = config.get("rope_parameters", config)
        self.rope_theta = rope["rope_theta"]
        self.scheme = config.get("norm_scheme", {"name": "pre"})
        # Pruning removes layers, not depths: l and L stay those of training.
        self.trained_layers = config.get("trained_layers", self.layers)
        self.depths = config.get("layer_depths", list(range(1, self.layers + 1)))

    @classmethod
    def load(cls, folder, dtype=torch.float32):
        """The single-file checkpoint in `folder`."""
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        return cls(config, {name: value.to(dtype) for name, value in weights.items()})

    def rms_norm(self, name, x):
        """x / sqrt(mean(x^2) + eps) * gain, over the last dimension."""
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weights[name]

    def rotate(self, x):
        """Rotates feature j with feature j + head_dim / 2 by position * theta^(-2j / head_dim)."""
        half = self.head_dim // 2
        exponent = torch.arange(half, dtype=x.dtype) / half
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * self.rope_theta**-exponent
        cos, sin = angle.cos(), angle.sin()
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, layer, x):
        """Causal grouped-query attention on the normalised stream x, [batch, T, hidden]."""
        prefix = f"model.layers.{layer}.self_attn"

        def project(name, heads):
            y = x @ self.weights[f"{prefix}.{name}.weight"].T
            return y.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

        q = self.rotate(project("q_proj", self.heads))
        k = self.rotate(project("k_proj", self.key_value_heads))
        v = project("v_proj", self.key_value_heads)
        group = self.heads // self.key_value_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.transpose(-1, -2) / self.head_dim**0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        attended = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
        return attended.transpose(1, 2).flatten(-2) @ self.weights[f"{prefix}.o_proj.weight"].T

    def mlp(self, layer, x):
        """SwiGLU."""
        prefix = f"model.layers.{layer}.mlp"
        gate, up, down = (self.weights[f"{prefix}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def site(self, layer, site, x):
        """The stream after the branch at `site` ("attention" or "mlp") of `layer`."""
        prefix = f"model.layers.{layer}"
        branch = {"attention": self.attention, "mlp": self.mlp}[site]
        norm = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}[site]

        def f(y):
            return branch(layer, y)

        def n(y):
            return self.rms_norm(f"{prefix}.{norm}.weight", y)

        depth, total = self.depths[layer], self.trained_layers
        match self.scheme["name"]:
            case "pre":
                return x + f(n(x))
            case "lns":
                scale = depth ** -self.scheme["exponent"] if site in self.scheme["sites"] else 1.0
                match self.scheme["placement"]:
                    case "output":
                        return x + f(n(x) * scale)
                    case "input":
                        return x + f(n(x * scale))
            case "post":
                return n(x + f(x))
            case "deepnorm":
                return n((2 * total) ** 0.25 * x + f(x))
            case "mix-ln":
                post = depth <= int(self.scheme["post_fraction"] * total)
                return n(x + f(x)) if post else x + f(n(x))
            case "sandwich" | "peri":
                return x + self.rms_norm(f"{prefix}.{site}_output_layernorm.weight", f(n(x)))
            case "branch-scale":
                rule = self.scheme["rule"]
                return x + f(n(x)) * {
                    "sqrt-depth": depth**-0.5,
                    "sqrt-layers": total**-0.5,
                    "layers": 1 / total,
                }[rule]
            case "layerscale" | "skipinit":
                return x + self.weights[f"{prefix}.{site}_branch_scale"] * f(n(x))
            case "output-norm":
                return x + self.rms_norm(f"{prefix}.{site}_output_layernorm.weight", f(x))
            case "keel":
                if depth == 1:
                    return x + f(n(x))
                alpha = self.scheme.get("alpha", total)
                return self.rms_norm(f"{prefix}.{site}_join_layernorm.weight", alpha * x + f(n(x)))
            case "gpas":
                h = x + f(n(x))
                return h - torch.nn.functional.silu(self.weights[f"{prefix}.stream_gate"]) * h.detach()
            case "progressive":
                taken, steps = self.scheme["taken"], self.scheme["steps"]
                return x + min(taken / (steps * depth), 1.0) * f(n(x))
        raise ValueError(f"unknown scheme {self.scheme}")

    def embed(self, ids):
        """stream.0: what enters layer 0."""
        x = self.weights["model.embed_tokens.weight"][ids]
        if self.scheme["name"] == "peri":
            x = self.rms_norm("model.embed_norm.weight", x)
        return x

    def layer(self, layer, x, removed=()):
        """The stream after `layer`; `removed` names sites that are left out."""
        for site in ("attention", "mlp"):
            if site not in removed:
                x = self.site(layer, site, x)
        return x

    def last_hidden(self, x):
        """What the final norm makes of the stream."""
        return self.rms_norm("model.norm.weight", x)

    def head(self, x):
        """Final norm and logits."""
        embedding = self.weights["model.embed_tokens.weight"]
        return self.last_hidden(x) @ self.weights.get("lm_head.weight", embedding).T

    def streams(self, ids):
        """stream.0 to stream.L, [batch, T, hidden] each."""
        streams = [self.embed(ids)]
        for layer in range(self.layers):
            streams.append(self.layer(layer, streams[-1]))
        return streams


def token_nll(logits, ids):
    """-log p of every token but the first, [batch, T - 1]."""
    log_p = logits[:, :-1].log_softmax(-1)
    return -log_p.gather(-1, ids[:, 1:, None]).squeeze(-1)
