"""What `lns eval`, `lns diagnose` and `lns bench --model` do, in PyTorch: SmolLM2-135M from a GGUF file.

    python benchmarks/torch_smollm2.py forward SmolLM2-135M-Instruct.Q4_1.gguf --text 1962-Kennedy-1.txt
    python benchmarks/torch_smollm2.py diagnosis SmolLM2-135M-Instruct.Q4_1.gguf --text 1962-Kennedy-1.txt
    python benchmarks/torch_smollm2.py generation SmolLM2-135M-Instruct.Q4_1.gguf --seconds 10

transformers in f32 with SDPA attention under inference_mode. Prints one JSON object. Needs what
golden/README.md lists.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "golden"))
import smollm2


def text_windows(args):
    """The first windows of the text, [windows, window]."""
    used = args.windows * args.window
    ids = smollm2.text_ids(args.model, [args.text])[:used]
    return torch.tensor(ids).view(args.windows, args.window)


def losses_of(model, windows, batch):
    """Losses of all windows, `batch` windows at a time."""
    losses = []
    for some in windows.split(batch):
        logits = model(some, use_cache=False).logits[:, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none"
            )
        )
    return torch.cat(losses).view(len(windows), -1)


def forward(model, args, windows):
    """Seconds of each repeat, by batch size."""
    seconds = {}
    for batch in (1, args.windows):
        nll = losses_of(model, windows, batch).mean().item()
        seconds[batch] = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            losses_of(model, windows, batch)
            seconds[batch].append(time.perf_counter() - start)
    return {"nll": nll, "seconds": seconds}


def stream_statistics(streams, attention, mlp):
    """Every statistic of the default probes, as one would write it for speed: f32, all at once."""
    streams = torch.stack([stream.flatten(0, 1) for stream in streams])  # [L + 1, tokens, hidden]
    branches = torch.stack([branch.flatten(0, 1) for branch in attention + mlp])
    unit = torch.nn.functional.normalize(streams, dim=-1).transpose(0, 1)
    cosine = (unit @ unit.mT).clamp(-1, 1)  # [tokens, L + 1, L + 1]
    angular = (cosine.arccos() / torch.pi).mean(0)
    change = (streams[1:] - streams[:-1]).norm(dim=-1) / streams[:-1].norm(dim=-1)
    return {
        "variance": streams.var(-1, correction=0).mean(-1).tolist(),
        "rms": streams.square().mean((1, 2)).sqrt().tolist(),
        "branch_variance": branches.var(-1, correction=0).mean(-1).tolist(),
        "branch_to_stream": change.mean(-1).tolist(),
        "cosine": cosine.mean(0).diagonal(1).tolist(),
        "angular_distance": [row[i + 1 :] for i, row in enumerate(angular.tolist()[:-1])],
    }


def diagnosis(model, args):
    """Seconds of one diagnosis: a recorded pass, and one pass per layer left out."""
    windows = text_windows(args)
    start = time.perf_counter()
    streams, attention, mlp, nll = smollm2.recorded(model, windows)
    found = stream_statistics(streams, attention, mlp)
    layers = model.model.layers
    removal = []
    for removed in range(len(layers)):
        kept = [layer for index, layer in enumerate(layers) if index != removed]
        model.model.layers = torch.nn.ModuleList(kept)
        losses = losses_of(model, windows, args.batch)
        removal.append((losses - nll).double().mean().item())
    model.model.layers = layers
    return {
        "nll": nll.double().mean().item(),
        "seconds": time.perf_counter() - start,
        "removal": removal,
        "angular_distance": found["angular_distance"],
    }


def generate(model, prompt, new_tokens):
    """Seconds up to the first new token, and seconds per token of the `new_tokens` after it, greedy."""
    start = time.perf_counter()
    output = model(prompt, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    first = time.perf_counter()
    for _ in range(new_tokens):
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    return first - start, (time.perf_counter() - first) / new_tokens


def generation(model, args):
    """Tokens/s of prefill and decode from the medians of at least three repeats, after a warm-up."""
    vocabulary = model.config.vocab_size
    prompt = torch.tensor([[(i * 7919 + 13) % vocabulary for i in range(args.prompt_tokens)]])
    generate(model, prompt, args.new_tokens)
    seconds, start = [], time.perf_counter()
    while time.perf_counter() - start < args.seconds or len(seconds) < 3:
        seconds.append(generate(model, prompt, args.new_tokens))
    prefill, decode = (statistics.median(one) for one in zip(*seconds))
    return {"prefill": args.prompt_tokens / prefill, "decode": 1 / decode}


def main():
    """One measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    measurements = {
        "forward": lambda model, args: forward(model, args, text_windows(args)),
        "diagnosis": diagnosis,
        "generation": generation,
    }
    parser.add_argument("measurement", choices=measurements)
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1, help="windows at a time in a diagnosis")
    parser.add_argument("--repeats", type=int, default=3, help="timed forward passes")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="of generation")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.measurement != "generation" and args.text is None:
        parser.error(f"{args.measurement} needs --text")
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        print(json.dumps(measurements[args.measurement](smollm2.load(args.model, "sdpa"), args)))


if __name__ == "__main__":
    main()
