"""Every number of `diagnose.json` on two tiny checkpoints, in f64, by the shortest way there is.

    python golden/diagnose_tiny.py [--tiny golden/tiny]

Needs the folders of `tiny_models.py` and `schemes.py`. Writes `diagnose_expected.json` into `llama`
and `scheme-lns`: the fields of `diagnose.json` without the verdict, and `ids`, 3 windows of 16
tokens. Gradients come from autograd, the Jacobian of a layer is the dense matrix over all inputs of
a window: `jacobian_identity_distance` = sqrt(mean over windows of |J - I|_F^2 / (T hidden)).
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import probes
from reference import Decoder, token_nll

WINDOWS, LENGTH = 3, 16
MODELS = {"llama": 50, "scheme-lns": 51}
REMOVALS = {
    "removal": ("attention", "mlp"),
    "removal_attention": ("attention",),
    "removal_mlp": ("mlp",),
}


def removal(decoder, ids, at, removed, baseline):
    """Losses with the sites `removed` of layer `at` left out, against `baseline`."""
    x = decoder.embed(ids)
    for layer in range(decoder.layers):
        x = decoder.layer(layer, x, removed if layer == at else ())
    return probes.removal_record(token_nll(decoder.head(x), ids), baseline)


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


def diagnose(decoder, ids):
    """The record."""
    streams = decoder.streams(ids)
    final = decoder.head(streams[-1])
    baseline = token_nll(final, ids)
    gradients = gradient_norms(decoder, ids)
    layers = []
    for layer in range(decoder.layers):
        before, after = streams[layer], streams[layer + 1]
        middle = decoder.site(layer, "attention", before)
        record = probes.layer_record(layer, before, after, middle - before, after - middle)
        for field, removed in REMOVALS.items():
            record[field] = removal(decoder, ids, layer, removed, baseline)
        record["gradient_norm"], record["stream_gradient_norm"] = gradients[layer]
        distances = jacobian_distance(decoder, layer, before)
        record["jacobian_identity_distance"] = distances.square().mean().sqrt().item()
        record["jacobian_per_window"] = distances.tolist()
        layers.append(record)
    angular = probes.angular_distance(streams)
    return {
        "text": {"tokens": ids.numel(), "windows": WINDOWS, "window_len": LENGTH},
        "baseline": probes.baseline_record(baseline),
        "stream": [probes.stream_record(index, stream) for index, stream in enumerate(streams)],
        "layers": layers,
        "angular_distance": angular,
        "blocks": probes.blocks(angular),
        "lens": [
            probes.lens_record(index, decoder.head(stream), final)
            for index, stream in enumerate(streams)
        ],
        "ids": ids.tolist(),
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


def main():
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", type=Path, default=Path(__file__).parent / "tiny")
    tiny = parser.parse_args().tiny
    torch.set_num_threads(1)
    for name, seed in MODELS.items():
        decoder = Decoder.load(tiny / name, torch.float64)
        check(decoder, tiny / name)
        vocabulary = len(decoder.weights["model.embed_tokens.weight"])
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocabulary, (WINDOWS, LENGTH), generator=generator)
        record = probes.rounded(diagnose(decoder, ids), 9)
        text = json.dumps(record, indent=1)
        (tiny / name / "diagnose_expected.json").write_text(text + "\n")
        print(f"{name}: nll {record['baseline']['nll']:.4f}")


if __name__ == "__main__":
    main()
