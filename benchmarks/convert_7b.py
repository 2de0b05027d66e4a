"""Memory and speed of converting a checkpoint of 7B's size, beside copying its files.

    python golden/make_7b.py /tmp/7b                    # or any checkpoint of plain Llama kind
    python benchmarks/convert_7b.py /tmp/7b /tmp/out [--lns target/release/lns] [--rounds 2]

In turns: `cp -r` and a sync of what it wrote, `lns retrofit`, again `cp -r`, `lns fold` of what the
retrofit made. Both of lns's verbs sync what they write and hash what they read. Prints seconds, peak
resident memory, and the speed as a share of the copy before it. Needs room for three times the
checkpoint.
"""

import argparse
import os
import shutil
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--lns", default="target/release/lns")
parser.add_argument("--rounds", type=int, default=2)
args = parser.parse_args()


def run(*command):
    start = time.monotonic()
    child = os.spawnvp(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, command
    return time.monotonic() - start, usage.ru_maxrss / 1024


args.out.mkdir(parents=True, exist_ok=True)
copy, scaled, folded = (args.out / name for name in ("copy", "scaled", "folded"))
gigabytes = sum(file.stat().st_size for file in args.model.iterdir()) / 1e9
for _ in range(args.rounds):
    for verb, source, target in (("retrofit", args.model, scaled), ("fold", scaled, folded)):
        os.sync()
        seconds_cp, _ = run("sh", "-c", f"cp -r '{source}' '{copy}' && sync -f '{copy}'")
        shutil.rmtree(copy)
        os.sync()
        seconds, memory = run(args.lns, "-q", verb, str(source), "--out", str(target))
        print(f"{verb:9} {seconds:6.1f} s  {gigabytes / seconds:5.2f} GB/s  {memory:6.0f} MiB   "
              f"cp and sync {seconds_cp:6.1f} s   {seconds_cp / seconds:.2f} of its speed")
    shutil.rmtree(scaled)
    shutil.rmtree(folded)
