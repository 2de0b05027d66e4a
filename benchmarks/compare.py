"""lns against PyTorch on SmolLM2-135M: forward passes and a whole diagnosis, in turn, A B A B.

    python benchmarks/compare.py --lns target/release/lns --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --text 1962-Kennedy-1.txt --rounds 3

Both sides read the same GGUF file and the same 4 windows of 512 tokens, with the same number of
threads. PyTorch is transformers in f32 with SDPA attention under inference_mode, and the better of
one window at a time and all four in a batch.

forward    tokens/s of the losses of all windows, start and loading left out; PyTorch may warm up
           once, `lns eval` is a fresh process each time
diagnosis  stream statistics, branches, the angular matrix and the removal of each layer. PyTorch
           does it with one recorded pass and one pass per layer left out; `work` is without start
           and loading, `wall` is the whole process

The losses of both sides must agree to 1e-3 nats per token. Needs what golden/README.md lists.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOW, WINDOWS = 512, 4
TOKENS = WINDOW * WINDOWS


def torch_windows(args):
    """The witness's module, the loaded model and the windows."""
    sys.path.append(str(ROOT / "golden"))
    import smollm2
    import torch

    torch.set_num_threads(args.threads)
    ids = smollm2.text_ids(args.model, [args.text])[:TOKENS]
    return smollm2.load(args.model, "sdpa"), torch.tensor(ids).view(WINDOWS, WINDOW)


def torch_losses(model, windows, batch):
    """Losses of all windows, `batch` windows at a time."""
    import torch

    losses = []
    for some in windows.split(batch):
        logits = model(some, use_cache=False).logits[:, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none"
            )
        )
    return torch.cat(losses).view(len(windows), -1)


def torch_forward(args):
    """Seconds of each repeat, by batch size."""
    import torch

    model, windows = torch_windows(args)
    seconds = {}
    with torch.inference_mode():
        for batch in (1, WINDOWS):
            nll = torch_losses(model, windows, batch).mean().item()
            seconds[batch] = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                torch_losses(model, windows, batch)
                seconds[batch].append(time.perf_counter() - start)
    return {"nll": nll, "seconds": seconds}


def torch_statistics(streams, attention, mlp):
    """Every statistic of the default probes, as one would write it for speed: f32, all at once."""
    import torch

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


def torch_diagnosis(args):
    """Seconds of one diagnosis, loading apart."""
    import torch

    model, windows = torch_windows(args)
    import smollm2

    start = time.perf_counter()
    with torch.inference_mode():
        streams, attention, mlp, nll = smollm2.recorded(model, windows)
        found = torch_statistics(streams, attention, mlp)
        layers = model.model.layers
        removal = []
        for removed in range(len(layers)):
            kept = [layer for index, layer in enumerate(layers) if index != removed]
            model.model.layers = torch.nn.ModuleList(kept)
            losses = torch_losses(model, windows, args.batch)
            removal.append((losses - nll).double().mean().item())
        model.model.layers = layers
    return {
        "nll": nll.double().mean().item(),
        "seconds": time.perf_counter() - start,
        "removal": removal,
        "angular_distance": found["angular_distance"],
    }


def run(command):
    """JSON that a process printed, and the process's wall time."""
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout), time.perf_counter() - start


class Sides:
    """The same measurement on either side."""

    def __init__(self, args):
        self.args = args
        self.torch_batch = 1

    def _torch(self, worker):
        args = self.args
        command = [sys.executable, __file__, "--worker", worker, "--model", args.model]
        command += ["--text", args.text, "--threads", args.threads, "--repeats", args.repeats]
        return run([*command, "--batch", self.torch_batch])

    def _lns(self, verb):
        args = self.args
        command = [args.lns, verb, args.model, "--text", args.text, "--threads", args.threads]
        return run([*command, "--window", WINDOW, "--max-tokens", TOKENS, "--json", "--quiet"])

    def forward_torch(self):
        """Tokens/s and loss; also settles the batch size of the diagnosis."""
        result, _ = self._torch("forward")
        medians = {int(b): statistics.median(s) for b, s in result["seconds"].items()}
        self.torch_batch = min(medians, key=medians.get)
        shown = ", ".join(f"batch {b} {TOKENS / s:.0f}" for b, s in medians.items())
        print(f"  torch forward: {shown} tokens/s", flush=True)
        return {"tokens_per_second": TOKENS / min(medians.values()), "nll": result["nll"]}

    def forward_lns(self):
        """Tokens/s and loss of `lns eval`, a fresh process each time."""
        results = [self._lns("eval")[0] for _ in range(self.args.repeats)]
        speed = TOKENS / statistics.median(result["seconds"] for result in results)
        print(f"  lns forward: {speed:.0f} tokens/s", flush=True)
        return {"tokens_per_second": speed, "nll": results[0]["nll"]}

    def diagnosis_torch(self):
        """Seconds with and without start and loading."""
        result, wall = self._torch("diagnosis")
        print(f"  torch diagnosis: work {result['seconds']:.1f} s, wall {wall:.1f} s", flush=True)
        return {
            "work": result["seconds"],
            "wall": wall,
            "nll": result["nll"],
            "removal": result["removal"],
            "angular_distance": result["angular_distance"],
        }

    def diagnosis_lns(self):
        """The same; work is the sum of what the probes took."""
        result, wall = self._lns("diagnose")
        work = sum(probe["seconds"] for probe in result["probes"])
        print(f"  lns diagnosis: work {work:.1f} s, wall {wall:.1f} s", flush=True)
        return {
            "work": work,
            "wall": wall,
            "nll": result["baseline"]["nll"],
            "removal": [layer["removal"]["delta_nll"] for layer in result["layers"]],
            "angular_distance": result["angular_distance"],
        }


def largest_difference(a, b):
    """Over two lists, nested alike."""
    if isinstance(a, list):
        assert len(a) == len(b), "the two sides measured different numbers of layers"
        return max((largest_difference(x, y) for x, y in zip(a, b)), default=0.0)
    return abs(a - b)


def check(torch, lns):
    """The two sides computed the same thing."""
    for field in ("nll", "removal", "angular_distance"):
        if field in torch:
            difference = largest_difference(torch[field], lns[field])
            print(f"  {field}: the sides differ by at most {difference:.1e}")
            if difference > 1e-3:
                sys.exit(f"{field} differs by {difference}: the timings compare different things")


def compare(args):
    """Alternates the sides, then prints medians and their ratio."""
    sides = Sides(args)
    names = ["torch", "lns"] if args.only is None else [args.only]
    medians = {}
    for task in args.tasks.split(","):
        results = {name: [] for name in names}
        for round in range(args.rounds):
            print(f"{task}, round {round + 1} of {args.rounds}", flush=True)
            for name in names:
                results[name].append(getattr(sides, f"{task}_{name}")())
        if len(names) == 2:
            check(results["torch"][-1], results["lns"][-1])
        for field in ("tokens_per_second", "work", "wall"):
            for name, rounds in results.items():
                if field in rounds[0]:
                    values = [round[field] for round in rounds]
                    medians.setdefault(f"{task} {field}", {})[name] = statistics.median(values)
    for row, values in medians.items():
        line = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
        if len(values) == 2:
            more, less = ("lns", "torch") if row.endswith("per_second") else ("torch", "lns")
            line += f", lns is {values[more] / values[less]:.2f} times as fast"
        print(f"{row}: {line}")


def main():
    """Compares, or does one measurement for a comparison that runs elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lns", type=Path, default=ROOT / "target/release/lns")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3, help="timed forward passes per process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["torch", "lns"])
    parser.add_argument("--tasks", default="forward,diagnosis")
    parser.add_argument("--worker", choices=["forward", "diagnosis"], help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker = {"forward": torch_forward, "diagnosis": torch_diagnosis}[args.worker]
        print(json.dumps(worker(args)))
    else:
        compare(args)


if __name__ == "__main__":
    main()
