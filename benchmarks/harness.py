"""lns against lm-evaluation-harness, on the same questions: every answer compared, and the time of both in turn.

    python benchmarks/harness.py --lns target/release/lns --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --data DATA --tasks piqa,arc_easy --limit 200
    python benchmarks/harness.py --lns target/release/lns --model SmolLM2-135M-Instruct.Q4_1.gguf \\
        --data DATA --data mmlu=MMLU --tasks hellaswag,mmlu --shots 5 --limit 100 --rounds 3

--data and --split are those of `lns eval`: folders as the hub has them. mmlu may be Arrow files as `datasets`
saves them, one folder per subject. The harness is the package's own task files, its wording, requests and
metrics, on its Hugging Face backend (f32, batches of --batch, transformers reads the GGUF), told only where the
data is. Its time is that of `loglikelihood` alone, the model being loaded. Of lns it is a whole command, and
beside it that command less one that asks a single document, which starts and loads alike. Rounds go lns,
harness, lns, harness; times are medians.

`worst` is the largest difference of a log-likelihood in nats, `other choice` the documents in which the
likeliest choice or a metric differs, each listed. transformers 5 reads a SmolLM2 GGUF without the rule that
digits stand alone, which the published tokenizer has; here the harness is given that rule.

Needs lm_eval, transformers, torch and gguf (golden/README.md).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

# The harness' file of each task, and the folder of the data under that of the task.
TASKS = {
    "arc_challenge": ("arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge"),
    "arc_easy": ("arc/arc_easy.yaml", "ai2_arc/ARC-Easy"),
    "blimp": ("blimp/{}.yaml", "blimp/data"),
    "boolq": ("super_glue/boolq/default.yaml", "boolq/data"),
    "commonsense_qa": ("commonsense_qa/default.yaml", "commonsense_qa/data"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag/data"),
    "lambada": ("lambada/lambada_openai.yaml", "lambada/data"),
    "mmlu": ("mmlu/default/mmlu_{}.yaml", "mmlu"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "openbookqa/main"),
    "piqa": ("piqa/piqa.yaml", "piqa/data"),
    "sciq": ("sciq/sciq.yaml", "sciq/data"),
    "siqa": ("siqa/siqa.yaml", "siqa/default"),
    "winogrande": ("winogrande/default.yaml", "winogrande/winogrande_xl"),
}
DEFAULT_SPLIT = {name: "test" for name in ("arc_challenge", "arc_easy", "lambada", "mmlu", "openbookqa", "sciq")}
FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json"}


def data_file(options, task, group, split):
    """The file of a split: its name, or its folder's, names the split; of a group, the group's."""
    named = dict(item.split("=", 1) for item in options.data if "=" in item)
    folder = named.get(task)
    roots = [Path(folder)] if folder else [Path(d) / TASKS[task][1] for d in options.data if "=" not in d]
    for root in roots:
        files = sorted(f for f in root.rglob("*") if f.suffix in FORMATS)
        names = [str(f.relative_to(root)) for f in files]
        if task == "blimp":
            found = [f for f in files if f.stem == group]
        else:
            found = [f for f, name in zip(files, names) if split in name and (not group or group in name.split("/"))]
        if found:
            return str(found[0])
    sys.exit(f"no file of {task} {group} ({split}) under {', '.join(map(str, roots))}")


def harness_task(options, task, group, split):
    config = dict(load_yaml(Path(lm_eval.__file__).parent / "tasks" / TASKS[task][0].format(group)))
    file = data_file(options, task, group, split)
    files = {config.get(f"{kind}_split"): file for kind in ("training", "validation", "test")}
    if task == "mmlu":
        files["dev"] = data_file(options, task, group, "dev")
    if task == "boolq":
        # google/boolq says the answer as true or false, the harness' own copy as 0 or 1.
        config["doc_to_target"] = "{{answer|int}}"
    files.pop(None, None)
    config.update(dataset_path=FORMATS[Path(file).suffix], dataset_name=None, dataset_kwargs={"data_files": files})
    for key in ("tag", "task_alias", "metadata"):
        config.pop(key, None)
    found = ConfigurableTask(config=config)
    if options.shots:
        found.set_config("num_fewshot", options.shots)
    return found


def ours(options, task, limit):
    """The lines of --samples and the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        command = [options.lns, "eval", options.model, "--tasks", task, "--limit", limit, "--json"]
        command += ["--samples", samples, "--threads", options.threads]
        command += [word for data in options.data for word in ("--data", data)]
        command += ["--split", options.split] if options.split else []
        command += ["--shots", options.shots] if options.shots else []
        start = time.perf_counter()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        return [json.loads(line) for line in samples.read_text().splitlines()], seconds


def requests(options, task, samples):
    """The harness' tasks by group with our line of each of its documents, and what it asks."""
    groups = {}
    for sample in samples:
        group = groups.setdefault(sample.get("group") or "", {})
        # A document's number counts over all groups here, and within its group there.
        group[len(group) if sample.get("group") else sample["doc_id"]] = sample
    tasks, asked = {}, []
    for group, mine in groups.items():
        found = harness_task(options, task, group, options.split or DEFAULT_SPLIT.get(task, "validation"))
        found.build_all_requests(rank=0, world_size=1, limit=max(mine) + 1)
        tasks[group] = found, mine, list(found.eval_docs)
        asked += [(group, instance) for instance in found.instances if instance.doc_id in mine]
    return tasks, asked


def compare(tasks, asked, answers):
    by_document = {}
    for (group, instance), answer in zip(asked, answers):
        by_document.setdefault((group, instance.doc_id), []).append(answer)
    worst, differ, sums = 0.0, [], {}
    for (group, at), theirs in by_document.items():
        task, mine, documents = tasks[group]
        metrics = task.process_results(documents[at], theirs)
        choices = mine[at]["choices"]
        if len(choices) != len(theirs):
            sys.exit(f"{group} {at}: {len(choices)} choices and {len(theirs)}")
        a, b = [choice["logprob"] for choice in choices], [answer[0] for answer in theirs]
        worst = max([worst] + [abs(x - y) for x, y in zip(a, b)])
        same = a.index(max(a)) == b.index(max(b))
        for metric in ("acc", "acc_norm"):
            if metric in metrics:
                x, y = sums.get(metric, (0, 0))
                sums[metric] = x + mine[at][metric], y + metrics[metric]
                same = same and mine[at][metric] == metrics[metric]
        if not same:
            differ.append(f"{group} {at}: lns {a}, harness {b}")
    return worst, differ, {metric: [100 * x / len(by_document) for x in pair] for metric, pair in sums.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--lns", required=True)
    arguments.add_argument("--model", required=True, help="a GGUF file or a folder")
    arguments.add_argument("--data", action="append", required=True, help="FOLDER or TASK=FOLDER, as of lns eval")
    arguments.add_argument("--tasks", required=True)
    arguments.add_argument("--split")
    arguments.add_argument("--shots", type=int, default=0)
    arguments.add_argument("--limit", type=int, default=200)
    arguments.add_argument("--rounds", type=int, default=1)
    arguments.add_argument("--batch", type=int, default=8)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    path = Path(options.model)
    where = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    if where and "SmolLM" in path.name:
        digits = pre_tokenizers.Digits(individual_digits=True)
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch)
    for task in options.tasks.split(","):
        times, built = ([], [], []), None
        for _ in range(options.rounds):
            times[2].append(ours(options, task, 1)[1])
            samples, seconds = ours(options, task, options.limit)
            times[0].append(seconds)
            built = built or requests(options, task, samples)
            start = time.perf_counter()
            answers = harness.loglikelihood([instance for _, instance in built[1]], disable_tqdm=True)
            times[1].append(time.perf_counter() - start)
        worst, differ, metrics = compare(*built, answers)
        scores = "  ".join(f"{name} {a:.2f} lns {b:.2f} harness" for name, (a, b) in metrics.items())
        print(f"{task}, {options.shots} shots, {len(samples)} documents: worst {worst:.1e} nats, "
              f"other choice in {len(differ)}; {scores}")
        for line in differ:
            print(f"  {line}")
        ours_s, theirs_s, one = map(statistics.median, times)
        rounds = ", ".join(f"{a:.1f}/{b:.1f}" for a, b in zip(*times[:2]))
        print(f"  lns {ours_s:.1f} s, of which start {one:.1f}; harness {theirs_s:.1f} s; ratio {theirs_s / ours_s:.2f}, "
              f"without start {theirs_s / (ours_s - one):.2f} (rounds {rounds})", flush=True)


if __name__ == "__main__":
    main()
