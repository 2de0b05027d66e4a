"""The numbers of `diagnose.json`, from streams and losses, in f64. Shared by the two witnesses of
diagnosis; definitions are in `crates/record`.

A stream is [windows, T, hidden]; losses are [windows, T - 1] in nats.
"""

import math

import torch


def stream_record(index, x):
    """Variance over features, mean over tokens; with and without each window's first token."""
    x = x.double()
    variance = x.var(-1, correction=0)
    return {
        "index": index,
        "variance": variance.mean().item(),
        "variance_without_first": variance[:, 1:].mean().item(),
        "rms": x.square().mean().sqrt().item(),
    }


def cosines(x, y):
    """Cosine per token."""
    return torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1, eps=0.0)


def angular_distance(streams):
    """[i][n - 1]: mean over all tokens of arccos(cosine of stream[i] and stream[i + n]) / pi."""
    return [
        [
            (cosines(streams[i], streams[j]).clamp(-1, 1).arccos() / math.pi).mean().item()
            for j in range(i + 1, len(streams))
        ]
        for i in range(len(streams) - 1)
    ]


def blocks(angular):
    """For each n, the start of the n layers whose ends are closest."""
    layers = len(angular)
    found = []
    for n in range(1, layers + 1):
        distance, start = min((angular[i][n - 1], i) for i in range(layers - n + 1))
        found.append({"n": n, "start": start, "distance": distance})
    return found


def layer_record(layer, before, after, attention, mlp):
    """What a layer does: its branches' outputs and the stream on either side."""
    change = (after.double() - before.double()).norm(dim=-1) / before.double().norm(dim=-1)
    cosine = cosines(before, after).mean().item()
    return {
        "layer": layer,
        "attention_variance": attention.double().var(-1, correction=0).mean().item(),
        "mlp_variance": mlp.double().var(-1, correction=0).mean().item(),
        "branch_to_stream": change.mean().item(),
        "cosine": cosine,
        "block_influence": 1.0 - cosine,
    }


def mean_and_stderr(per_window):
    """Mean over windows and its standard error, sample standard deviation / sqrt(n)."""
    stderr = per_window.std(correction=1).item() / len(per_window) ** 0.5
    return per_window.mean().item(), stderr


def baseline_record(nll):
    """Loss of the untouched model."""
    mean, stderr = mean_and_stderr(nll.double().mean(-1))
    return {"nll": mean, "perplexity": math.exp(mean), "nll_stderr": stderr}


def removal_record(nll, baseline):
    """Paired difference of losses, window by window."""
    delta, stderr = mean_and_stderr((nll.double() - baseline.double()).mean(-1))
    return {"delta_nll": delta, "stderr": stderr}


def lens_record(index, logits, final):
    """KL(final || lens) in nats and top-1 agreement, over every token (also each window's last)."""
    log_p, log_q = final.double().log_softmax(-1), logits.double().log_softmax(-1)
    return {
        "index": index,
        "kl": (log_p.exp() * (log_p - log_q)).sum(-1).mean().item(),
        "agreement": (logits.argmax(-1) == final.argmax(-1)).double().mean().item(),
    }


def rounded(value, digits):
    """`value` with every float at `digits` significant digits, to keep JSON small."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return value
