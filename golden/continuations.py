"""Log-likelihoods of continuations under tiny checkpoints, by transformers.

    python golden/continuations.py crates/score/tests/golden/continuations.json

The rule is that of lm-evaluation-harness (`HFLM._loglikelihood_tokens`): of context and continuation the
last `window + 1` ids count, all but the last are the model's input, and the log-probabilities of the
continuation's ids are summed; greedy is whether each is the largest of its row. Every request is run by
itself, without a cache, in f32.
"""

import argparse
import json
import random

import torch
from transformers import AutoModelForCausalLM

WINDOW = 32
# With what makes a cache err: windowed attention, frequencies that depend on the length, learned positions,
# two tables of positions, capped scores and logits.
MODELS = ["llama", "mistral", "qwen2", "phi3-longrope", "gpt2", "gpt_neox", "gemma2", "gemma3_text"]


@torch.no_grad()
def scored(model, context, continuation):
    ids = (context + continuation)[-(WINDOW + 1) :]
    logits = model(torch.tensor([ids[:-1]])).logits[0].float()
    rows = torch.log_softmax(logits, dim=-1)[-len(continuation) :]
    targets = torch.tensor(continuation)
    return {
        "context": context,
        "continuation": continuation,
        "log_probability": rows.gather(1, targets[:, None]).double().sum().item(),
        "greedy": bool((rows.argmax(dim=-1) == targets).all()),
        "dropped": len(context) - (len(ids) - len(continuation)),
    }


@torch.no_grad()
def greedy(model, context, count):
    ids = list(context)
    for _ in range(count):
        ids.append(model(torch.tensor([ids[-WINDOW:]])).logits[0, -1].argmax().item())
    return ids[len(context) :]


def requests(model, seed):
    """Choices of several lengths behind shared contexts, alone, and behind contexts that must be cut."""
    draw = random.Random(seed)
    drawn = lambda count: [draw.randrange(model.config.vocab_size) for _ in range(count)]
    contexts = [drawn(12), [1], drawn(45)]
    for context in contexts:
        for count in (1, 1, 2, 5, 9):
            yield context, drawn(count)
        for count in (1, 3):
            yield context, greedy(model, context, count)
    # The first context again, in another order of requests; and a continuation as long as the window.
    yield contexts[0], drawn(4)
    yield drawn(3), drawn(WINDOW)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for seed, name in enumerate(MODELS):
        model = AutoModelForCausalLM.from_pretrained(
            f"golden/tiny/{name}", dtype=torch.float32, attn_implementation="eager"
        ).eval()
        found[name] = [scored(model, *request) for request in requests(model, seed)]
    with open(args.out, "w") as file:
        json.dump({"window": WINDOW, "models": found}, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
