"""Every number of `diagnose.json` on three tiny checkpoints, in f64, by the shortest way there is.

    python golden/diagnose_tiny.py [--tiny golden/tiny]

Needs the folders of `tiny_models.py` and `schemes.py`. Writes `diagnose_expected.json` into `llama`,
`scheme-lns` and `llama-heavy`: the fields of `diagnose.json` without the verdict, and `ids`, 3 windows
of 16 tokens, with `separators`, ids that stand between documents. `llama-heavy` is made here: `llama`
with one MLP neuron of layer 1 that answers one token with a massive activation, and another token
whose embedding is large. Gradients come from autograd, the Jacobian of a layer is the dense matrix over all inputs of
a window: `jacobian_identity_distance` = sqrt(mean over windows of |J - I|_F^2 / (T hidden)).
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import probes
from reference import Decoder, token_nll

WINDOWS, LENGTH = 3, 16
MODELS = {"llama": 50, "scheme-lns": 51, "llama-heavy": 52}
# Of llama-heavy: the token that layer HEAVY_LAYER blows up, and the one that comes so.
HEAVY_TOKEN, HEAVY_LAYER, LARGE_TOKEN = 7, 1, 11
ATTRIBUTIONS = {"attribution": "layer", "attribution_attention": "attention", "attribution_mlp": "mlp"}
REMOVALS = {
    "removal": ("attention", "mlp"),
    "removal_attention": ("attention",),
    "removal_mlp": ("mlp",),
}


def without(decoder, ids, at, removed):
    """The last stream with the sites `removed` of layer `at` left out."""
    x = decoder.embed(ids)
    for layer in range(decoder.layers):
        x = decoder.layer(layer, x, removed if layer == at else ())
    return x


def gradient_norms(decoder, ids):
    """Per layer: |dloss/dparameters| and |dloss/dstream|; loss is the mean over predicted tokens."""
    for weight in decoder.weights.values():
        weight.requires_grad_(True)
    streams = decoder.streams(ids)
    for stream in streams:
        stream.retain_grad()
    token_nll(decoder.head(streams[-1]), ids).mean().backward()
    norms = []
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}."
        own = [w.grad.flatten() for name, w in decoder.weights.items() if name.startswith(prefix)]
        norms.append((torch.cat(own).norm().item(), streams[layer].grad.norm().item()))
    for weight in decoder.weights.values():
        weight.requires_grad_(False).grad = None
    return norms


def losses_with_less(decoder, ids, at, part, less):
    """Mean loss of each window when a part of layer `at` does only 1 - `less` of what it does to the stream;
    `less` has one number for each window."""
    keep = (1 - less)[:, None, None]
    x = decoder.embed(ids)
    for layer in range(decoder.layers):
        entering = x
        for site in ("attention", "mlp"):
            before = x
            x = decoder.site(layer, site, before)
            if (layer, site) == (at, part):
                x = before + keep * (x - before)
        if (layer, "layer") == (at, part):
            x = entering + keep * (x - entering)
    return token_nll(decoder.head(x), ids).mean(-1)


def attribution(decoder, ids, at, part):
    """First-order estimate of the cost of removing a part: dloss/dless at less = 0, by autograd, held
    against the central difference."""
    less = torch.zeros(len(ids), dtype=torch.float64, requires_grad=True)
    losses_with_less(decoder, ids, at, part, less).sum().backward()
    step = torch.full_like(less, 1e-4).detach()
    rises = losses_with_less(decoder, ids, at, part, step) - losses_with_less(decoder, ids, at, part, -step)
    torch.testing.assert_close(less.grad, rises / 2e-4, rtol=1e-5, atol=1e-8)
    return probes.difference_record(less.grad)


def jacobian_distance(decoder, layer, x):
    """|J - I|_F / |I|_F of one layer for each window of x, from dense Jacobians."""
    distances = []
    for window in x:
        size = window.numel()
        jacobian = torch.autograd.functional.jacobian(
            lambda given: decoder.layer(layer, given[None])[0], window
        ).reshape(size, size)
        distances.append((jacobian - torch.eye(size, dtype=x.dtype)).norm() / size**0.5)
    return torch.stack(distances)


def diagnose(decoder, ids, separators):
    """The record."""
    streams = decoder.streams(ids)
    content = probes.content_mask(ids, separators)
    final = decoder.head(streams[-1])
    baseline = token_nll(final, ids)
    gradients = gradient_norms(decoder, ids)
    layers = []
    for layer in range(decoder.layers):
        before, after = streams[layer], streams[layer + 1]
        middle = decoder.site(layer, "attention", before)
        record = probes.layer_record(
            layer, before, after, middle - before, after - middle, content
        )
        for field, removed in REMOVALS.items():
            left = without(decoder, ids, layer, removed)
            record[field] = probes.removal_record(token_nll(decoder.head(left), ids), baseline)
            states = decoder.last_hidden(streams[-1]), decoder.last_hidden(left)
            change = field.replace("removal", "representation")
            record[change] = probes.representation_record(*states, content)
        for field, part in ATTRIBUTIONS.items():
            record[field] = attribution(decoder, ids, layer, part)
        record["gradient_norm"], record["stream_gradient_norm"] = gradients[layer]
        distances = jacobian_distance(decoder, layer, before)
        record["jacobian_identity_distance"] = distances.square().mean().sqrt().item()
        record["jacobian_per_window"] = distances.tolist()
        layers.append(record)
    angular = probes.angular_distance(streams, content)
    return {
        "text": {"tokens": ids.numel(), "windows": WINDOWS, "window_len": LENGTH},
        "baseline": probes.baseline_record(baseline),
        "stream": [
            probes.stream_record(index, stream, content) for index, stream in enumerate(streams)
        ],
        "heavy_tokens": probes.heavy_tokens(streams, content, ids),
        "layers": layers,
        "angular_distance": angular,
        "blocks": probes.blocks(angular),
        "lens": [
            probes.lens_record(index, decoder.head(stream), final)
            for index, stream in enumerate(streams)
        ],
        "ids": ids.tolist(),
        "separators": separators,
    }


def check(decoder, folder):
    """The decoder computes what `expected.safetensors` says: for `llama`, what transformers does."""
    expected = load_file(folder / "expected.safetensors")
    streams = decoder.streams(expected["input_ids"].long())
    torch.testing.assert_close(
        decoder.head(streams[-1]), expected["logits"].double(), rtol=1e-5, atol=1e-5
    )
    for index, stream in enumerate(streams):
        torch.testing.assert_close(
            stream, expected[f"stream.{index}"].double(), rtol=1e-5, atol=1e-5
        )


def make_heavy(tiny):
    """Writes `llama-heavy`."""
    source, folder = tiny / "llama", tiny / "llama-heavy"
    folder.mkdir(exist_ok=True)
    weights = load_file(source / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    embedding[LARGE_TOKEN] *= 40
    # Large enough to set the direction of its stream, too small to be heavy itself.
    embedding[HEAVY_TOKEN] *= 6
    # The norm makes a token's stream its direction times sqrt(hidden); the first neuron's gate and up
    # projection look along that of HEAVY_TOKEN, its down projection writes two features.
    direction = embedding[HEAVY_TOKEN] / embedding[HEAVY_TOKEN].norm()
    mlp = f"model.layers.{HEAVY_LAYER}.mlp"
    weights[f"{mlp}.gate_proj.weight"][0] = 2 * direction
    weights[f"{mlp}.up_proj.weight"][0] = 2 * direction
    weights[f"{mlp}.down_proj.weight"][:, 0] = 0
    weights[f"{mlp}.down_proj.weight"][:2, 0] = torch.tensor([1.5, -1.5])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "config.json", folder / "config.json")
    ids = load_file(source / "expected.safetensors")["input_ids"]
    decoder = Decoder.load(folder, torch.float64)
    streams = decoder.streams(ids.long())
    expected = {f"stream.{index}": stream.float() for index, stream in enumerate(streams)}
    expected["logits"] = decoder.head(streams[-1]).float()
    save_file({"input_ids": ids, **expected}, folder / "expected.safetensors")


def token_ids(name, vocabulary, seed):
    """The windows, and which ids count as separators."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (WINDOWS, LENGTH), generator=generator)
    if name == "llama-heavy":
        # As a separator in one window, in the middle and in front.
        ids[0, 5] = ids[2, 0] = HEAVY_TOKEN
        ids[1, 9] = LARGE_TOKEN
        return ids, [HEAVY_TOKEN]
    return ids, sorted({ids[0, 5].item(), ids[1, 9].item()})


def main():
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", type=Path, default=Path(__file__).parent / "tiny")
    tiny = parser.parse_args().tiny
    torch.set_num_threads(1)
    make_heavy(tiny)
    for name, seed in MODELS.items():
        decoder = Decoder.load(tiny / name, torch.float64)
        check(decoder, tiny / name)
        vocabulary = len(decoder.weights["model.embed_tokens.weight"])
        ids, separators = token_ids(name, vocabulary, seed)
        record = probes.rounded(diagnose(decoder, ids, separators), 9)
        text = json.dumps(record, indent=1)
        (tiny / name / "diagnose_expected.json").write_text(text + "\n")
        heavy = [(token["id"], token.get("layer")) for token in record["heavy_tokens"]]
        print(f"{name}: nll {record['baseline']['nll']:.4f}, heavy tokens {heavy}")


if __name__ == "__main__":
    main()
