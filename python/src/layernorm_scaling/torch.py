"""LayerNorm Scaling for PyTorch: "The Curse of Depth in Large Language Models" (arXiv 2502.05795), eq. 12.

The output of a norm in layer `layer_idx` is multiplied by ℓ^(-exponent), ℓ = `layer_idx` + 1: layer 0 by exactly 1, layer 3
by 1/√4. The scale is a constant of the module, no tensor, so that no reload and no device can lose it.

`apply_cod_mitigation_to_llama` gives a trained model the scale, by default without changing what it computes, as
`lns retrofit` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LayerNormScaling", "RMSNormScaling", "TransformerLayerWithScaling", "apply_cod_mitigation_to_llama"]

Site = Literal["attention", "mlp"]

# The norm before each site of a layer, as transformers' Llama calls it.
_NORM_OF_SITE: dict[Site, str] = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}

# Families whose layer is Llama's: one RMS norm before each branch and none behind.
_LLAMA_LAYERS = ("llama", "mistral", "qwen2", "qwen3")


def _scale(layer_idx: int, exponent: float) -> float:
    if layer_idx < 0:
        raise ValueError(f"layer_idx is {layer_idx}; layers are counted from 0")
    return float((layer_idx + 1) ** -exponent)


class RMSNormScaling(nn.Module):
    """x / √(mean(x²) + eps) · weight · ℓ^(-exponent), computed in float32 over the last dimension."""

    def __init__(self, d_model: int, layer_idx: int, eps: float = 1e-6, exponent: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps
        self.scale = _scale(layer_idx, exponent)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (normal * self.scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}, scale={self.scale:.6g}"


class LayerNormScaling(nn.Module):
    """((x − mean) / √(variance + eps) · weight + bias) · ℓ^(-exponent) over the last dimension."""

    def __init__(
        self, d_model: int, layer_idx: int, eps: float = 1e-5, exponent: float = 0.5, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.eps = eps
        self.scale = _scale(layer_idx, exponent)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps) * self.scale

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}, bias={self.bias is not None}, scale={self.scale:.6g}"


class _Attention(nn.Module):
    """Causal attention with rotary positions; query heads share key and value heads in groups."""

    def __init__(self, hidden_size: int, heads: int, key_value_heads: int, head_dim: int, rope_theta: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.rope_theta = rope_theta
        self.q_proj = nn.Linear(hidden_size, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # [batch, tokens, features] to [batch, heads, tokens, head_dim]
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        shared = query.shape[1] // key.shape[1]
        key, value = (heads.repeat_interleave(shared, dim=1) for heads in (self._turned(key), value))
        mixed = functional.scaled_dot_product_attention(self._turned(query), key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _turned(self, heads: Tensor) -> Tensor:
        """Rotary positions (arXiv 2104.09864): feature i turns with feature i + head_dim/2."""
        even = torch.arange(0, self.head_dim, 2, device=heads.device, dtype=torch.float32)
        position = torch.arange(heads.shape[-2], device=heads.device, dtype=torch.float32)
        angle = torch.outer(position, self.rope_theta ** -(even / self.head_dim))
        cos, sin = angle.cos().to(heads.dtype), angle.sin().to(heads.dtype)
        first, second = heads.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class _Mlp(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class TransformerLayerWithScaling(nn.Module):
    """A Llama layer with LayerNorm Scaling: x + F(N(x)·ℓ^(-exponent)) for attention, then for the MLP.

    Its parameters are called as in transformers' Llama, so that `load_state_dict` takes a layer of such a checkpoint.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_idx: int,
        num_key_value_heads: int | None = None,
        eps: float = 1e-6,
        exponent: float = 0.5,
        rope_theta: float = 10000.0,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and hidden_size % num_attention_heads:
            raise ValueError(f"{hidden_size} features do not divide into {num_attention_heads} heads; give head_dim")
        key_value_heads = num_key_value_heads or num_attention_heads
        if num_attention_heads % key_value_heads:
            raise ValueError(f"{num_attention_heads} heads do not share {key_value_heads} key/value heads evenly")
        head_dim = head_dim or hidden_size // num_attention_heads
        if head_dim % 2:
            raise ValueError(f"heads of {head_dim} features cannot be turned in pairs")
        self.input_layernorm = RMSNormScaling(hidden_size, layer_idx, eps, exponent)
        self.self_attn = _Attention(hidden_size, num_attention_heads, key_value_heads, head_dim, rope_theta)
        self.post_attention_layernorm = RMSNormScaling(hidden_size, layer_idx, eps, exponent)
        self.mlp = _Mlp(hidden_size, intermediate_size)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream after the layer, [batch, tokens, hidden_size]."""
        stream = stream + self.self_attn(self.input_layernorm(stream))
        return stream + self.mlp(self.post_attention_layernorm(stream))


def apply_cod_mitigation_to_llama(
    model: Any,
    mode: Literal["preserve", "replace"] = "preserve",
    exponent: float = 0.5,
    sites: Sequence[Site] = ("attention", "mlp"),
    first_layer: int = 0,
) -> Any:
    """Gives a loaded Llama (or Mistral, Qwen 2, Qwen 3) of transformers LayerNorm Scaling, in place, and returns it.

    `preserve` multiplies the norms' weights by ℓ^exponent beside the scale, so that the function stays; what changes is how
    the model trains from here. `replace` puts the scale in and leaves the weights, which wrecks a trained model: it is for
    experiments that mean to. (`lns retrofit --mode anneal` brings the scale in while it fine-tunes.)

    The model's configuration then has the model type `lns_llama` and says which scale there is. What `save_pretrained`
    writes, every verb of `lns` reads, and transformers refuses it instead of running it without the scale; `lns fold`
    makes a plain Llama of it.

    Raises ValueError, and changes nothing, when the model is not plain Pre-LN of one of these families.
    """
    _check(model, mode, sites, first_layer)
    layers = model.model.layers
    for layer_idx, layer in enumerate(layers):
        if layer_idx < first_layer:
            continue
        for site in sites:
            plain = getattr(layer, _NORM_OF_SITE[site])
            setattr(layer, _NORM_OF_SITE[site], _scaled(plain, layer_idx, exponent, mode))
    _say_so(model.config, exponent, sites, first_layer)
    return model


def _check(model: Any, mode: str, sites: Sequence[str], first_layer: int) -> None:
    if mode not in ("preserve", "replace"):
        raise ValueError(f"mode is {mode!r}; it is 'preserve' or 'replace' (anneal: lns retrofit --mode anneal)")
    if not sites or any(site not in _NORM_OF_SITE for site in sites):
        raise ValueError(f"sites are 'attention', 'mlp' or both, not {list(sites)}")
    if first_layer < 0:
        raise ValueError(f"first_layer is {first_layer}; layers are counted from 0")
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in _LLAMA_LAYERS:
        known = ", ".join(_LLAMA_LAYERS)
        scaled = "; it has a norm scheme already" if str(family).startswith("lns_") else ""
        raise ValueError(f"the model's type is {family!r}{scaled}; this is for {known} (others: lns retrofit)")
    if not hasattr(model, "model"):
        raise ValueError(f"{type(model).__name__} has no `model` with layers; give the model with its head")


def _scaled(plain: nn.Module, layer_idx: int, exponent: float, mode: str) -> RMSNormScaling:
    """The norm with its scale. The weight is multiplied in float32, and rounded where it is stored in fewer bits."""
    weight: Tensor = plain.weight  # type: ignore[assignment]
    norm = RMSNormScaling(weight.numel(), layer_idx, plain.variance_epsilon, exponent)  # type: ignore[arg-type]
    gain = weight.detach().float() * ((layer_idx + 1) ** exponent if mode == "preserve" else 1.0)
    norm.weight = nn.Parameter(gain.to(weight.dtype), requires_grad=weight.requires_grad)
    return norm.train(plain.training)


def _say_so(config: Any, exponent: float, sites: Sequence[str], first_layer: int) -> None:
    """Writes the scheme into the configuration, under a model type of its own."""
    scheme: dict[str, Any] = {"name": "lns", "exponent": exponent, "sites": sorted(sites), "placement": "output"}
    if first_layer:
        scheme["first_layer"] = first_layer
    config.norm_scheme = scheme
    # The type of a configuration is its class's, which is what save_pretrained writes.
    kind = type(config)
    config.__class__ = type(f"Lns{kind.__name__}", (kind,), {"model_type": f"lns_{kind.model_type}"})
