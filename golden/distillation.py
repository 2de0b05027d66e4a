"""Distillation as PyTorch computes it: objective, losses, divergences and gradients of a few rows.

    python golden/distillation.py crates/kernels/tests/golden/distillation.json

Student and teacher have other widths; the student's vocabulary is padded by one entry, which only its own
loss sees. Everything in f64.
"""

import json
import sys

import torch
import torch.nn.functional as F

IGNORED = 0xFFFF_FFFF


def capped(logits, cap):
    return logits if cap is None else cap * torch.tanh(logits / cap)


def case(seed, weight, temperature, z_loss, cap):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        # Values that f32 holds, so that both sides begin with the same numbers.
        return torch.randn(*shape, generator=generator, dtype=torch.float32).double()

    rows, vocabulary = 5, 11
    hidden, head = normal(rows, 4), normal(vocabulary + 1, 4)
    teacher_hidden, teacher_head = normal(rows, 3), normal(vocabulary, 3)
    targets = [3, 0, IGNORED, 10, 7]
    counted = torch.tensor([target != IGNORED for target in targets])
    for tensor in (hidden, head):
        tensor.requires_grad_(True)

    logits = capped(hidden @ head.T, cap)
    teacher_cap = None if cap is None else 2 * cap
    teacher = capped(teacher_hidden @ teacher_head.T, teacher_cap)
    safe = torch.tensor([0 if target == IGNORED else target for target in targets])
    nll = F.cross_entropy(logits, safe, reduction="none")
    log_sums = torch.logsumexp(logits, dim=-1)
    kl = F.kl_div(
        F.log_softmax(logits[:, :vocabulary] / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    row = (1 - weight) * (nll + z_loss * log_sums**2) + weight * temperature**2 * kl
    objective = (row * counted).sum() / counted.sum()
    objective.backward()
    flat = lambda tensor: tensor.detach().flatten().tolist()
    return {
        "weight": weight,
        "temperature": temperature,
        "z_loss": z_loss,
        "softcap": cap,
        "targets": targets,
        "hidden": flat(hidden),
        "head": flat(head),
        "teacher_hidden": flat(teacher_hidden),
        "teacher_head": flat(teacher_head),
        "objective": objective.item(),
        "nll": flat(nll * counted),
        "divergence": flat(kl * counted),
        "hidden_gradient": flat(hidden.grad),
        "head_gradient": flat(head.grad),
    }


def main():
    cases = [
        case(1, 0.5, 1.0, 0.0, None),
        case(2, 1.0, 2.0, 0.0, None),
        case(3, 0.25, 4.0, 1e-2, None),
        case(4, 0.75, 2.0, 1e-2, 3.0),
    ]
    with open(sys.argv[1], "w") as file:
        json.dump(cases, file, indent=1)
        file.write("\n")


main()
