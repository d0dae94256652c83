"""The attack inside adversarial training: PGD through f after g as both stand, for as little arithmetic as it takes.

It aims at what ``training.attacks`` calls by the same name. What it leaves out is what only a measurement needs: the
check of the budget, the count of successes, float32.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from arn_purify.models.folding import folded

from ..learning.recipes import Recipe
from . import Attack, objective

# Shares of a one-step attack that are tried on the way to all of it.
_PARTIAL = (1 / 3, 2 / 3)
# What the last step is, as a share of the first.
_LAST = 0.05


def as_learned(attack: Attack, recipe: Recipe) -> Attack:
    """The attack with the steps of ``recipe``, at the budget that its ramp ends at."""
    eps = round(recipe.eps_to * (attack.eps or 0.0), 6)
    learned = attack.with_settings(eps, iterations=recipe.inner_steps, step=recipe.inner_step * eps)
    once = {key: value for key, value in learned.settings.items() if key != "restarts"}
    return dataclasses.replace(learned, settings=once)


def frozen(*modules: nn.Module) -> nn.Module:
    """What is attacked: a copy of ``modules`` in a row as they are deployed, in which no parameter asks for a gradient.

    In eval mode, since its statistics are those that an attacker will meet, and since an attack must not move them.
    """
    target = folded(nn.Sequential(*modules)).requires_grad_(False)
    return target.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.enable_grad()
def attacked(
    target: nn.Module, x: Tensor, labels: Tensor, attack: Attack, share: float, seed: int, mixed_precision: bool = True
) -> Tensor:
    """``x`` ``(N, C, H, W)`` in [0, 1] after ``attack``'s iterations from a random start, at ``share`` of its budget.

    The attack's ``step`` is the first; the others shrink in even parts.
    After a single step each image keeps the smallest share of its perturbation that makes f err: what guards against
    catastrophic overfitting, in which the whole step is defended and what lies before it is not (Kim, Lee & Lee, AAAI
    2021).
    """
    eps, first, iterations = share * (attack.eps or 0.0), share * attack.settings["step"], attack.settings["iterations"]
    generator = torch.Generator().manual_seed(seed)
    loss = objective(attack.name)

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed_precision):
            out: Tensor = target(images)
        return out.float()

    uphill, goals = 1.0, labels
    if attack.goal == "targeted":
        with torch.no_grad():
            classes = logits_of(x[:1]).shape[1]
        goals = (labels + torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)) % classes
        uphill = -1.0
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    found = (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1).to(x)).clamp(0, 1)
    for index in range(int(iterations)):
        step = first * (1 - (1 - _LAST) * index / max(1, iterations - 1))
        found = found.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(logits_of(found), goals), found)
        found = torch.min(torch.max(found.detach() + uphill * step * gradient.sign(), low), high)
    if iterations == 1:
        with torch.no_grad():
            whole = found
            for part in reversed(_PARTIAL):
                before = torch.lerp(x, whole, part)
                errs = logits_of(before).argmax(1) != labels
                found = torch.where(errs.reshape(-1, 1, 1, 1), before, found)
    return found.contiguous(memory_format=torch.channels_last)
