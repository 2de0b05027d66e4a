"""What `lns eval` and `lns bench --model` do, in PyTorch: a folder with a mixture of experts.

    python benchmarks/torch_mixture.py forward FOLDER --text 1962-Kennedy-1.txt
    python benchmarks/torch_mixture.py generation FOLDER --seconds 10 --experts grouped_mm

transformers in f32 with SDPA attention under inference_mode. `--experts` is its implementation of the experts:
eager (one after another) or grouped_mm; without it both are tried and the faster is reported with its
name. batched_mm is left out: it copies the experts of each token, 26 GB for 512 tokens of golden/make_mixture.py.
Prints one JSON object. Needs what golden/README.md lists.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import torch_smollm2

IMPLEMENTATIONS = ["eager", "grouped_mm"]


def text_windows(args):
    """The first windows of the text, [windows, window]."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ids = tokenizer(args.text.read_text(), add_special_tokens=False)["input_ids"]
    return torch.tensor(ids[: args.windows * args.window]).view(args.windows, args.window)


def measure(model, args):
    """One measurement with the model as it is set."""
    if args.measurement == "generation":
        return torch_smollm2.generation(model, args)
    return torch_smollm2.forward(model, args, text_windows(args))


def fastest(model, args):
    """The implementation whose forward pass of the prompt is the fastest; the first pass warms up."""
    prompt = torch.arange(args.prompt_tokens)[None] % model.config.vocab_size
    seconds = {}
    for name in IMPLEMENTATIONS:
        model.set_experts_implementation(name)
        try:
            for _ in range(2):
                start = time.perf_counter()
                model(prompt, use_cache=False, logits_to_keep=1)
                seconds[name] = time.perf_counter() - start
        except (RuntimeError, NotImplementedError) as error:
            print(f"{name} does not run: {error}", file=sys.stderr)
    print(f"seconds of a pass: {seconds}", file=sys.stderr)
    return min(seconds, key=seconds.get)


def main():
    """One measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("measurement", choices=["forward", "generation"])
    parser.add_argument("model", type=Path, metavar="FOLDER")
    parser.add_argument("--experts", choices=IMPLEMENTATIONS)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3, help="timed forward passes")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10, help="of generation")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.measurement == "forward" and args.text is None:
        parser.error("forward needs --text")
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(
            args.model, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        implementation = args.experts or fastest(model, args)
        model.set_experts_implementation(implementation)
        print(json.dumps({"experts": implementation, **measure(model, args)}))


if __name__ == "__main__":
    main()
