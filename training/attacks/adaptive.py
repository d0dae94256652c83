"""The attack inside adversarial training: PGD through f after g as both stand, with little arithmetic.

It has the loss and the goal of the attack of the same name. It leaves out what only a measurement needs: the check of
the budget, the count of successes, float32.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor, nn

from arn_purify.models.inference import folded

from .base import Attack
from .gradient import gradient_of, sign_ascent, summed_cross_entropy
from .pgd import LinfPgd

# Shares of a one-step attack that are tried on the way to all of it.
_PARTIAL = (1 / 3, 2 / 3)
# The last step as a share of the first.
_LAST = 0.05


class InnerAttack(Protocol):
    """What a recipe says of the attack inside its training."""

    @property
    def eps_to(self) -> float:
        """The share of the attack's budget that its ramp ends at."""

    @property
    def inner_steps(self) -> int:
        """Steps for each batch."""

    @property
    def inner_step(self) -> float:
        """Length of the first step, as a share of the budget."""


def as_learned(attack: Attack, recipe: InnerAttack) -> Attack:
    """The attack with the steps of ``recipe``, at the budget that its ramp ends at."""
    eps = round(recipe.eps_to * (attack.eps or 0.0), 6)
    learned = attack.with_settings(eps, iterations=recipe.inner_steps, step=recipe.inner_step * eps)
    once = {key: value for key, value in learned.settings.items() if key != "restarts"}
    return dataclasses.replace(learned, settings=once)


def frozen(*modules: nn.Module) -> nn.Module:
    """A copy of ``modules`` in a row as they are deployed, in eval mode, in which no parameter asks for a gradient.

    An attacker meets the statistics of eval mode, and an attack must not change them.
    """
    target = folded(nn.Sequential(*modules)).requires_grad_(False)
    return target.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.enable_grad()
def attacked(
    target: nn.Module, x: Tensor, labels: Tensor, attack: Attack, share: float, seed: int, mixed_precision: bool = True
) -> Tensor:
    """``x`` ``(N, C, H, W)`` in [0, 1] after ``attack``'s iterations from a random start, at ``share`` of its budget.

    The attack's ``step`` is the first; the others shrink in even parts. After a single step each image keeps the
    smallest share of its perturbation that f misclassifies. That guards against catastrophic overfitting, in which the
    whole step is defended and shorter ones are not (Kim, Lee & Lee, AAAI 2021).
    """
    eps, first, iterations = share * (attack.eps or 0.0), share * attack.settings["step"], attack.settings["iterations"]
    generator = torch.Generator().manual_seed(seed)
    loss = attack.loss if isinstance(attack, LinfPgd) else summed_cross_entropy

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed_precision):
            logits: Tensor = target(images)
        return logits.float()

    uphill, goals = 1.0, labels
    if attack.goal == "targeted":
        with torch.no_grad():
            classes = logits_of(x[:1]).shape[1]
        goals = (labels + torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)) % classes
        uphill = -1.0
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    start = (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1).to(x)).clamp(0, 1)
    last = max(1, iterations - 1)
    steps = (uphill * first * (1 - (1 - _LAST) * index / last) for index in range(int(iterations)))
    x_adv = sign_ascent(gradient_of(lambda images: loss(logits_of(images), goals)), start, low, high, steps)
    if iterations == 1:
        with torch.no_grad():
            whole = x_adv
            for part in reversed(_PARTIAL):
                before = torch.lerp(x, whole, part)
                wrong = logits_of(before).argmax(1) != labels
                x_adv = torch.where(wrong.reshape(-1, 1, 1, 1), before, x_adv)
    return x_adv.contiguous(memory_format=torch.channels_last)
