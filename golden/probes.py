"""The numbers of `diagnose.json`, from streams and losses, in f64. Shared by the two witnesses of
diagnosis; definitions are in `crates/record`.

A stream is [windows, T, hidden]; losses are [windows, T - 1] in nats. `content` is [windows, T]: true
for tokens that are neither a window's first nor a separator.
"""

import math

import torch

HEAVY = 100.0
# Student's t, 0.975 quantile, by degrees of freedom: what three and four windows have.
STUDENT = {2: 4.302652729911275, 3: 3.182446305284263}


def content_mask(ids, separators):
    """Which tokens are content."""
    content = ~torch.isin(ids, torch.tensor(separators, dtype=ids.dtype))
    content[:, 0] = False
    return content


def variances(x):
    """Variance over features of each token."""
    return x.double().var(-1, correction=0)


def median(values):
    """The middle value, or the mean of the two middle ones (torch's own median takes the lower)."""
    return values.quantile(0.5, interpolation="midpoint").item()


def stream_record(index, x, content):
    """Variance over features: mean over all tokens, without first tokens, over content; its median."""
    variance = variances(x)
    return {
        "index": index,
        "variance": variance.mean().item(),
        "variance_without_first": variance[:, 1:].mean().item(),
        "variance_content": variance[content].mean().item(),
        "variance_median": median(variance[content]),
        "rms": x.double().square().mean().sqrt().item(),
    }


def heavy_tokens(streams, content, ids):
    """Tokens above HEAVY times the content's median variance: where, from which layer on, how far."""
    ratio = torch.stack([variances(x) / median(variances(x)[content]) for x in streams])
    found = []
    for window, position in (ratio > HEAVY).any(0).nonzero().tolist():
        over = ratio[:, window, position]
        first = (over > HEAVY).nonzero()[0].item()
        found.append(
            {
                "window": window,
                "position": position,
                "id": ids[window, position].item(),
                # What leaves layer i is stream[i + 1]; an embedding has no layer.
                **({"layer": first - 1} if first > 0 else {}),
                "ratio": over.max().item(),
            }
        )
    return found


def cosines(x, y):
    """Cosine per token."""
    return torch.nn.functional.cosine_similarity(x.double(), y.double(), dim=-1, eps=0.0)


def angular_distance(streams, content):
    """[i][n - 1]: mean over content tokens of arccos(cosine of stream[i] and stream[i + n]) / pi."""
    return [
        [
            (cosines(streams[i], streams[j])[content].clamp(-1, 1).arccos() / math.pi).mean().item()
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


def layer_record(layer, before, after, attention, mlp, content):
    """What a layer does to content tokens: its branches' outputs and the stream on either side."""
    before, after, attention, mlp = (x[content] for x in (before, after, attention, mlp))
    change = (after.double() - before.double()).norm(dim=-1) / before.double().norm(dim=-1)
    cosine = cosines(before, after).mean().item()
    entering = variances(before).mean().item()
    attention_variance = variances(attention).mean().item()
    mlp_variance = variances(mlp).mean().item()
    return {
        "layer": layer,
        "attention_variance": attention_variance,
        "mlp_variance": mlp_variance,
        "attention_variance_median": median(variances(attention)),
        "mlp_variance_median": median(variances(mlp)),
        "attention_to_stream": attention_variance / entering,
        "mlp_to_stream": mlp_variance / entering,
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
    return difference_record((nll.double() - baseline.double()).mean(-1))


def difference_record(differences):
    """Differences of losses, one of each window."""
    delta, stderr = mean_and_stderr(differences)
    return {"delta_nll": delta, "stderr": stderr, "margin": STUDENT[len(differences) - 1] * stderr}


def measured(per_window):
    """One number of each window: mean, standard error, half the 95 % interval."""
    mean, stderr = mean_and_stderr(per_window.double())
    return {"mean": mean, "stderr": stderr, "margin": STUDENT[len(per_window) - 1] * stderr}


def representation_record(whole, without, content):
    """How far last hidden states move, [windows, T, hidden], over content tokens; and their means."""
    per_window = {"cosine_distance": [], "relative_l2": [], "mean_vector_cosine_distance": []}
    for h, other, counts in zip(whole.double(), without.double(), content):
        h, other = h[counts], other[counts]
        per_window["cosine_distance"].append(1 - cosines(h, other).mean())
        per_window["relative_l2"].append(((other - h).norm(dim=-1) / h.norm(dim=-1)).mean())
        per_window["mean_vector_cosine_distance"].append(1 - cosines(h.mean(0), other.mean(0)))
    return {name: measured(torch.stack(values)) for name, values in per_window.items()}


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
