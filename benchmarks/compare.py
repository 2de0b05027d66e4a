"""lns against PyTorch in turn, A B A B: training, forward passes, a diagnosis, generation.

    python benchmarks/compare.py --lns target/release/lns --rounds 3 --tasks train:A,eval:A
    python benchmarks/compare.py --lns target/release/lns --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --text 1962-Kennedy-1.txt --rounds 3 --tasks forward,diagnosis,prefill,decode
    python golden/make_mixture.py mixture
    python benchmarks/compare.py --lns target/release/lns --model mixture --text 1962-Kennedy-1.txt \\
        --rounds 5 --tasks prefill,forward

Every measurement is a fresh process, with the same number of threads on all sides. Numbers are
medians over the rounds, ratios are of these medians; in all speeds and times more than 1 means that
lns is faster.

train:A … train:D   forward, backward and AdamW of a workload of `lns bench`; rounds go compile, lns,
eval:A … eval:D     eager. eval is its losses without gradients. PyTorch is torch_workloads.py with the
                    same weights, tokens and objective, once as it is (eager) and once through
                    torch.compile, which needs a C++ compiler. The first 20 losses must agree to 1e-4.
                    `share of peak` is of the matrix-product peak that lns measures in the same run;
                    `peak MB` is the most resident memory of the process from the first step on,
                    libraries included

The others read SmolLM2-135M from a GGUF file, or a folder with a mixture of experts (--model). PyTorch is
torch_smollm2.py or torch_mixture.py: transformers in f32 with SDPA attention under inference_mode; of a mixture
with whichever of its implementations of the experts is the faster. A mixture has no task diagnosis.

forward             tokens/s of the losses of 4 windows of 512 tokens of --text, start and loading left
                    out; PyTorch may warm up once and takes the better of one window at a time and all
                    four in a batch, `lns eval` is a fresh process each time
diagnosis           stream statistics, branches, the angular matrix and the removal of each layer, on
                    these windows. PyTorch does it with one recorded pass and one pass per layer left
                    out; `work` is without start and loading, `wall` is the whole process
prefill, decode     tokens/s of a prompt of 512 synthetic tokens up to the first new token, and of the
                    64 greedy tokens after it; one run gives both, whichever is named. PyTorch warms up
                    once and computes only the last token's logits. The tokens are not compared:
                    `forward` compares the model
llamacpp            for information: `forward` against llama.cpp's llama-perplexity, a CPU build named
                    by --llama-perplexity; skipped without it

The losses of `forward` and all results of `diagnosis` must agree to 1e-3. Needs what golden/README.md
lists.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from sides import Sides

WORKLOAD_TASKS = [f"{kind}:{name}" for kind in ("train", "eval") for name in "ABCD"]
# The options without which a task cannot run.
NEEDS = {
    **{task: [] for task in WORKLOAD_TASKS},
    "forward": ["model", "text"],
    "diagnosis": ["model", "text"],
    "prefill": ["model"],
    "decode": ["model"],
    "llamacpp": ["model", "text"],
}
TOLERANCES = {"nll": 1e-3, "removal": 1e-3, "angular_distance": 1e-3, "losses": 1e-4}
LLAMACPP_NOTE = (
    "llama.cpp's kernels work on the 4-bit weights, lns on f32; and llama-perplexity computes logits for "
    "the second half of each window only, and does not time the losses."
)


def largest_difference(a, b):
    """Over two lists, nested alike; infinite where there is no number, which JSON writes as null."""
    if isinstance(a, list):
        if len(a) != len(b):
            sys.exit(f"the sides measured different things: {len(a)} values and {len(b)}")
        return max((largest_difference(x, y) for x, y in zip(a, b)), default=0.0)
    if a is None or b is None or math.isnan(a - b):
        return math.inf
    return abs(a - b)


def check(found):
    """Every side computed what lns computed."""
    lns = found.get("lns", {})
    for name, other in found.items():
        for field, tolerance in TOLERANCES.items():
            if name != "lns" and field in other and field in lns:
                difference = largest_difference(other[field], lns[field])
                print(f"  {field}: {name} and lns differ by at most {difference:.1e}", flush=True)
                if difference > tolerance:
                    sys.exit(f"more than {tolerance:.0e}: the timings compare different things")


def metrics(figures):
    """The numbers of a measurement, without what is only checked."""
    return {metric: value for metric, value in figures.items() if metric not in TOLERANCES}


def shown(value):
    """With three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def measure(task, sides, rounds):
    """The measurements of each side, taken in turn."""
    results = {name: [] for name in sides}
    for round in range(rounds):
        print(f"{task}, round {round + 1} of {rounds}", flush=True)
        for name, side in sides.items():
            results[name].append(side())
            numbers = [f"{metric} {shown(v)}" for metric, v in metrics(results[name][-1]).items()]
            print(f"  {name}: {', '.join(numbers)}", flush=True)
        check({name: taken[-1] for name, taken in results.items()})
    return results


def ratios(metric, medians):
    """lns over each other side; the other way round for seconds."""
    lns = medians.get("lns")
    for name, value in medians.items():
        if name != "lns" and lns is not None:
            inverse = metric.endswith(", s")
            yield f"{name}/lns {value / lns:.2f}" if inverse else f"lns/{name} {lns / value:.2f}"


def summary(task, results):
    """A line per metric: each side's median, and the ratios."""
    names = dict.fromkeys(metric for taken in results.values() for metric in metrics(taken[0]))
    for metric in names:
        medians = {
            name: statistics.median(figures[metric] for figures in taken)
            for name, taken in results.items()
            if metric in taken[0]
        }
        numbers = [f"{name} {shown(value)}" for name, value in medians.items()]
        yield f"{task} {metric}: {'; '.join([', '.join(numbers), *ratios(metric, medians)])}"


def compare(args):
    """Measures every task, then prints the summaries."""
    sides, lines = Sides(args), []
    # Prefill and decode are two numbers of one run.
    for task in dict.fromkeys("generation" if t in ("prefill", "decode") else t for t in args.tasks):
        if task == "llamacpp" and args.llama_perplexity is None:
            lines.append("llamacpp: skipped, --llama-perplexity names no program")
            continue
        taking_part = {
            name: side
            for name, side in sides.of(task).items()
            if args.only is None or (name == "lns") == (args.only == "lns")
        }
        lines += summary(task, measure(task, taking_part, args.rounds))
        if task == "llamacpp":
            lines.append(LLAMACPP_NOTE)
    print("", *lines, sep="\n")


def task_list(text):
    """Names of tasks, separated by commas."""
    tasks = text.split(",")
    for task in tasks:
        if task not in NEEDS:
            raise argparse.ArgumentTypeError(f"no task {task!r}; there are {', '.join(NEEDS)}")
    return tasks


def main():
    """Compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    lns = Path(__file__).resolve().parent.parent / "target/release/lns"
    parser.add_argument("--lns", type=Path, default=lns)
    parser.add_argument("--tasks", type=task_list, default="forward,diagnosis")
    parser.add_argument("--model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--llama-perplexity", type=Path, metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of a workload or of generation")
    parser.add_argument("--repeats", type=int, default=3, help="timed forward passes per round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["torch", "lns"], help="all but lns, or lns alone")
    args = parser.parse_args()
    for task in args.tasks:
        if task == "llamacpp" and args.llama_perplexity is None:
            continue
        missing = [f"--{option}" for option in NEEDS[task] if getattr(args, option) is None]
        if missing:
            parser.error(f"task {task} needs {' and '.join(missing)}")
    compare(args)


if __name__ == "__main__":
    main()
