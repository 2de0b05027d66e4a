"""What benchmarks/compare.py measures, each a fresh process on one side.

A measurement is a dictionary: numbers under the name of a metric (`tokens/s`, `peak MB`), and what the
sides must agree in under `nll`, `removal`, `angular_distance` or `losses`.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
WINDOW, WINDOWS = 512, 4
TOKENS = WINDOW * WINDOWS
PROMPT_TOKENS, NEW_TOKENS = 512, 64
LOSSES = 20
MODES = {"train": "train", "eval": "forward"}


def run(command, stderr=None):
    """What a process printed, and its wall time."""
    start = time.perf_counter()
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True)
    return done.stdout, time.perf_counter() - start


def run_json(command):
    """The JSON that a process printed, and its wall time."""
    printed, wall = run(command)
    return json.loads(printed), wall


def workload_figures(found, mode):
    """Of one workload, which both sides write alike; only lns knows its peak."""
    figures = {"tokens/s": found["tokens_per_second"], "losses": found["losses"]}
    if "share_of_peak" in found:
        figures["share of peak"] = found["share_of_peak"]
    if mode == "train" and found["peak_rss_bytes"] is not None:
        figures["peak MB"] = found["peak_rss_bytes"] / 1e6
    return figures


class Sides:
    """The same measurement on either side."""

    def __init__(self, args):
        self.args = args
        self.torch_batch = 1

    def of(self, task):
        """Who takes part in a task, in the order of a round."""
        kind, _, name = task.partition(":")
        if name:
            return {
                "compile": partial(self.workload_torch, name, MODES[kind], "compile"),
                "lns": partial(self.workload_lns, name, MODES[kind]),
                "eager": partial(self.workload_torch, name, MODES[kind], "eager"),
            }
        if task == "llamacpp":
            return {"llama.cpp": self.forward_llamacpp, "lns": self.forward_lns}
        return {"torch": getattr(self, f"{task}_torch"), "lns": getattr(self, f"{task}_lns")}

    def _workload(self, name, mode):
        """Options that `lns bench` and torch_workloads.py share."""
        effort = ["--seconds", self.args.seconds, "--losses", LOSSES]
        return ["--workload", name, "--mode", mode, *effort, "--threads", self.args.threads]

    def workload_torch(self, name, mode, engine):
        """A workload of torch_workloads.py."""
        command = [sys.executable, FOLDER / "torch_workloads.py", *self._workload(name, mode)]
        return workload_figures(run_json([*command, "--engine", engine])[0], mode)

    def workload_lns(self, name, mode):
        """The same workload of `lns bench`."""
        command = [self.args.lns, "bench", *self._workload(name, mode), "--json", "--quiet"]
        return workload_figures(run_json(command)[0]["workloads"][0], mode)

    def _torch_model(self, measurement, *options):
        args = self.args
        script = "torch_mixture.py" if args.model.is_dir() else "torch_smollm2.py"
        command = [sys.executable, FOLDER / script, measurement, args.model]
        return run_json([*command, "--threads", args.threads, *options])

    def _torch_text(self, measurement, *options):
        windows = ["--text", self.args.text, "--window", WINDOW, "--windows", WINDOWS]
        return self._torch_model(measurement, *windows, *options)

    def _lns_text(self, verb):
        args = self.args
        command = [args.lns, verb, args.model, "--text", args.text, "--threads", args.threads]
        return run_json([*command, "--window", WINDOW, "--max-tokens", TOKENS, "--json", "--quiet"])

    def forward_torch(self):
        """Tokens/s and loss; also settles the batch size of the diagnosis."""
        result, _ = self._torch_text("forward", "--repeats", self.args.repeats)
        medians = {int(b): statistics.median(s) for b, s in result["seconds"].items()}
        self.torch_batch = min(medians, key=medians.get)
        shown = ", ".join(f"batch {b} {TOKENS / s:.0f}" for b, s in medians.items())
        print(f"  torch by batch size: {shown} tokens/s", flush=True)
        return {"tokens/s": TOKENS / min(medians.values()), "nll": result["nll"]}

    def forward_lns(self):
        """Tokens/s and loss of `lns eval`, a fresh process each time."""
        results = [self._lns_text("eval")[0] for _ in range(self.args.repeats)]
        seconds = statistics.median(result["seconds"] for result in results)
        return {"tokens/s": TOKENS / seconds, "nll": results[0]["nll"]}

    def forward_llamacpp(self):
        """Tokens/s of llama-perplexity, whose batch takes all windows in one pass."""
        args = self.args
        command = [args.llama_perplexity, "-m", args.model, "-f", args.text, "-t", args.threads]
        command += ["-c", WINDOW, "-b", TOKENS, "--chunks", WINDOWS]
        seconds = []
        for _ in range(args.repeats):
            printed, _ = run(command, stderr=subprocess.STDOUT)
            found = re.search(r"([\d.]+) seconds per pass", printed)
            if found is None:
                sys.exit(f"{args.llama_perplexity} did not say its seconds per pass:\n{printed}")
            seconds.append(float(found[1]))
        return {"tokens/s": TOKENS / statistics.median(seconds)}

    def diagnosis_torch(self):
        """Seconds with and without start and loading."""
        result, wall = self._torch_text("diagnosis", "--batch", self.torch_batch)
        return {
            "work, s": result["seconds"],
            "wall, s": wall,
            "nll": result["nll"],
            "removal": result["removal"],
            "angular_distance": result["angular_distance"],
        }

    def diagnosis_lns(self):
        """The same; work is the sum of what the probes took."""
        result, wall = self._lns_text("diagnose")
        return {
            "work, s": sum(probe["seconds"] for probe in result["probes"]),
            "wall, s": wall,
            "nll": result["baseline"]["nll"],
            "removal": [layer["removal"]["delta_nll"] for layer in result["layers"]],
            "angular_distance": result["angular_distance"],
        }

    def _generation(self):
        """Options that `lns bench` and the scripts of PyTorch share."""
        lengths = ["--prompt-tokens", PROMPT_TOKENS, "--new-tokens", NEW_TOKENS]
        return [*lengths, "--seconds", self.args.seconds]

    def generation_torch(self):
        """Tokens/s of prefill and decode."""
        result, _ = self._torch_model("generation", *self._generation())
        if "experts" in result:
            print(f"  torch computes experts by {result.pop('experts')}", flush=True)
        return {f"{mode} tokens/s": speed for mode, speed in result.items()}

    def generation_lns(self):
        """The same of `lns bench`, without its workloads."""
        args = self.args
        command = [args.lns, "bench", "--workload", "", "--model", args.model, *self._generation()]
        result, _ = run_json([*command, "--threads", args.threads, "--json", "--quiet"])
        return {f"{one['mode']} tokens/s": one["tokens_per_second"] for one in result["workloads"]}
