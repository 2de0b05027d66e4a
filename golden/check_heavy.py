"""Holds what `lns diagnose` says of massive activations against transformers, on the same tokens.

    lns diagnose SmolLM2-135M-Instruct.Q4_1.gguf --text A.txt B.txt --max-tokens 2048 --out diagnosis
    python golden/check_heavy.py SmolLM2-135M-Instruct.Q4_1.gguf diagnosis/diagnose.json A.txt B.txt

Prints a table of the stream's variance: the mean over all tokens, without each window's first, without
separators as well, the median, by both; then the same text without any separator in it, by
transformers; then the tokens that carry more than 100 times the median. Exits with 1 if a number
differs by more than 1e-3, relative, or the tokens differ.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import probes
import smollm2

KEYS = ("variance", "variance_without_first", "variance_content", "variance_median")
BOUND = 1e-3


def measured(model, ids, window, separators):
    """Stream records and heavy tokens of ids cut into windows."""
    windows = torch.tensor(ids[: len(ids) // window * window]).view(-1, window)
    streams = smollm2.recorded(model, windows)[0]
    content = probes.content_mask(windows, separators)
    records = [probes.stream_record(index, x, content) for index, x in enumerate(streams)]
    return records, probes.heavy_tokens(streams, content, windows)


def main():
    """Prints and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("diagnosis", type=Path, metavar="diagnose.json")
    parser.add_argument("texts", type=Path, nargs="+", metavar="TEXT")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.diagnosis.read_text())
    tokens, window = found["text"]["tokens"], found["text"]["window_len"]
    ids = smollm2.text_ids(args.model, args.texts)
    separators = smollm2.separators(args.model)
    with torch.inference_mode():
        model = smollm2.load(args.model)
        streams, heavy = measured(model, ids[:tokens], window, separators)
        bare = [id for id in ids if id not in separators][:tokens]
        without, _ = measured(model, bare, window, separators)

    count = sum(id in separators for id in ids[:tokens])
    print(f"{tokens} tokens in windows of {window}, {count} of them separators; lns / transformers")
    heads = ("all tokens", "without first", "content mean", "content median")
    print("stream" + "".join(f"{head:>24}" for head in heads) + f"{'no separator in it':>24}")
    worst = 0.0
    for a, b, c in zip(found["stream"], streams, without, strict=True):
        cells = [f"{a[key]:>12.5g}{b[key]:>12.5g}" for key in KEYS]
        print(f"{a['index']:>6}" + "".join(cells) + f"{c['variance_without_first']:>24.5g}")
        worst = max(worst, *(abs(a[key] - b[key]) / b[key] for key in KEYS))
    print(f"largest relative difference {worst:.1e}, bound {BOUND:.0e}")

    def place(token):
        return token["window"], token["position"], token["id"], token.get("layer")

    ours = {place(token): token for token in found["heavy_tokens"]}
    theirs = {place(token): token for token in heavy}
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        ratios = [f"{token['ratio']:.5g}" if token else "missing" for token in (a, b)]
        text = json.dumps((a or {}).get("text"), ensure_ascii=False)
        print(f"window {key[0]} position {key[1]} id {key[2]} {text} from layer {key[3]}: {' / '.join(ratios)}")
        if a and b:
            worst = max(worst, abs(a["ratio"] - b["ratio"]) / b["ratio"])
    sys.exit(worst > BOUND or ours.keys() != theirs.keys())


if __name__ == "__main__":
    main()
