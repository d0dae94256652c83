"""PGD: projected gradient descent in l-infinity from a random start, on cross-entropy or on the margin.

Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, budget_of, goal_of
from .gradient import Loss, input_gradient, sign_ascent, summed_cross_entropy, summed_margin


@dataclasses.dataclass(frozen=True)
class LinfPgd(Attack):
    """PGD_N and PGD_T; PGDM_N and PGDM_T with the margin as ``loss``."""

    loss: Loss = summed_cross_entropy
    starts_at_random: ClassVar[bool] = True

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """40 steps, as the paper tests."""
        known, on_margin = spec_of(dataset).attacks, name.startswith("PGDM")
        eps = budget_of(name, known.linf_eps)
        settings = {"iterations": 40, "step": known.step or eps / 4}
        what = "the margin of Carlini & Wagner, S&P 2017" if on_margin else "summed cross-entropy"
        source = f"Madry et al., ICLR 2018; advertorch LinfPGDAttack, {what}, random start"
        loss = summed_margin if on_margin else summed_cross_entropy
        return cls(name, goal_of(name), "linf", eps, settings, source, loss)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By advertorch, and on CUDA by :func:`linf_pgd`, which launches fewer kernels."""
        step, iterations, targeted = self.settings["step"], int(self.settings["iterations"]), self.goal == "targeted"
        if images.is_cuda:
            return linf_pgd(classifier, images, labels, self.budget, step, iterations, targeted, self.loss)
        from .advertorch_shim import attacks

        attack = attacks.LinfPGDAttack(
            classifier,
            loss_fn=self.loss,
            eps=self.budget,
            nb_iter=iterations,
            eps_iter=step,
            rand_init=True,
            targeted=targeted,
        )
        x_adv: Tensor = attack.perturb(images, labels)
        return x_adv

    def shortened(self) -> Self:
        """Half the steps, each twice as long; ten of a quarter of the budget where that is below .1."""
        if self.budget < 0.1:
            return self.with_settings(iterations=10, step=self.budget / 4)
        return self.with_settings(iterations=int(self.settings["iterations"]) // 2, step=2 * self.settings["step"])

    def crossing_its_budget(self) -> Self:
        """Steps at least long enough to cross the whole ball, from one side to the other."""
        across = round(2 * self.budget / self.settings["iterations"], 6)
        return self.with_settings(step=max(self.settings["step"], across))


def linf_pgd(
    classifier: nn.Module, images: Tensor, labels: Tensor, eps: float, step: float, iterations: int, targeted: bool,
    loss: Loss = summed_cross_entropy,
) -> Tensor:  # fmt: skip
    """PGD from a random start on ``images`` ``(N, C, H, W)`` in [0, 1]; equal to advertorch's but for rounding.

    ``labels`` ``(N,)`` are the targets where ``targeted``.
    """
    gradient = input_gradient(classifier, images, labels, loss)
    start = torch.empty_like(images).uniform_(-1, 1).mul_(eps)
    low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
    steps = itertools.repeat(-step if targeted else step, iterations)
    return sign_ascent(gradient, (images + start).clamp_(0, 1), low, high, steps)
