"""Holds a diagnosis of SmolLM2-135M by `lns` against the reference values of transformers.

    lns diagnose SmolLM2-135M-Instruct.Q4_1.gguf --text 1962-Kennedy-1.txt --max-tokens 2048 \\
        --probes default,lens --out diagnosis
    python golden/check_smollm2.py diagnosis/diagnose.json

The reference is golden/smollm2_expected.json (golden/smollm2.py). Exits with 1 if a bound is broken.
"""

import json
import sys
from pathlib import Path

expected = json.loads((Path(__file__).parent / "smollm2_expected.json").read_text())
found = json.loads(Path(sys.argv[1]).read_text())
failed = False


def check(what, pairs, bound, relative=False):
    """The largest difference of the pairs (found, expected), against the bound."""
    global failed
    differences = [abs(a - b) / (max(abs(b), 1e-3) if relative else 1) for a, b in pairs]
    worst = max(differences)
    failed |= not worst <= bound
    kind = "relative" if relative else "absolute"
    print(f"{what:<34} {len(differences):>4} values  largest {kind} difference {worst:.2e}  bound {bound:.0e}")


layers = list(zip(found["layers"], expected["layers"], strict=True))
stream = list(zip(found["stream"], expected["stream"], strict=True))
check("nll", [(found["baseline"]["nll"], expected["baseline"]["nll"])], 1e-3)
check("nll_stderr", [(found["baseline"]["nll_stderr"], expected["baseline"]["nll_stderr"])], 1e-3)
removal = [(a["removal"], b["removal"]) for a, b in layers]
check("removal delta_nll", [(a["delta_nll"], b["delta_nll"]) for a, b in removal], 2e-3)
check("removal stderr", [(a["stderr"], b["stderr"]) for a, b in removal], 2e-3)
check("removal margin", [(a["margin"], b["margin"]) for a, b in removal], 7e-3)
for key in ("cosine", "block_influence", "branch_to_stream"):
    check(key, [(a[key], b[key]) for a, b in layers], 1e-3)
branches = ("attention_variance", "mlp_variance")
for key in (*branches, *(f"{key}_median" for key in branches), "attention_to_stream", "mlp_to_stream"):
    check(key, [(a[key], b[key]) for a, b in layers], 1e-3, relative=True)
for key in ("variance", "variance_without_first", "variance_content", "variance_median", "rms"):
    check(f"stream {key}", [(a[key], b[key]) for a, b in stream], 1e-3, relative=True)
heavy = list(zip(found["heavy_tokens"], expected["heavy_tokens"], strict=True))
check("heavy tokens' ratio", [(a["ratio"], b["ratio"]) for a, b in heavy], 1e-3, relative=True)
places = ("window", "position", "id", "layer")
same = [all(a.get(key) == b.get(key) for key in places) for a, b in heavy]
print(f"{'heavy tokens':<34} {sum(same)} of {len(same)} equal")
failed |= not all(same)
angles = zip(found["angular_distance"], expected["angular_distance"], strict=True)
check("angular_distance", [p for a, b in angles for p in zip(a, b, strict=True)], 1e-3)
same = [(a["n"], a["start"]) == (b["n"], b["start"]) for a, b in zip(found["blocks"], expected["blocks"])]
print(f"{'most redundant blocks':<34} {sum(same)} of {len(same)} equal")
failed |= not all(same)
if found.get("lens"):
    lens = list(zip(found["lens"], expected["lens"], strict=True))
    check("lens kl", [(a["kl"], b["kl"]) for a, b in lens], 1e-3, relative=True)
    check("lens agreement", [(a["agreement"], b["agreement"]) for a, b in lens], 2e-3)
sys.exit(failed)
