"""MI-FGSM and DI-FGSM: sign-gradient steps with momentum, whose results mislead other classifiers too.

Sources: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018; Xie et al., "Improving transferability of
adversarial examples with input diversity", CVPR 2019.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, budget_of, goal_of
from .gradient import gradient_of, sign_ascent, summed_cross_entropy, with_momentum


@dataclasses.dataclass(frozen=True)
class MomentumFgsm(Attack):
    """MI_FGSM; DI_FGSM where ``diverse`` is the probability that a step sees the images resized and padded."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """Ten steps that together are as long as the budget, and a momentum of 1, as both papers have it."""
        eps = budget_of(name, spec_of(dataset).attacks.linf_eps)
        settings: dict[str, float | int] = {"iterations": 10, "step": eps / 10, "decay": 1.0}
        source = "Dong et al., CVPR 2018, MI-FGSM"
        if name.startswith("DI"):
            settings |= {"diverse": 0.5, "smallest": 0.9}
            source = (
                "Xie et al., CVPR 2019, M-DI2-FGSM; images shrink where theirs grow, as the classifier's size is fixed"
            )
        return cls(name, goal_of(name), "linf", eps, settings, source)

    def with_settings(self, eps: float | None = None, **settings: float | int) -> Self:
        """As of every attack; the step is the budget over the iterations unless it is set."""
        changed = super().with_settings(eps, **settings)
        if "step" in settings:
            return changed
        step = changed.budget / int(changed.settings["iterations"])
        return dataclasses.replace(changed, settings={**changed.settings, "step": step})

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """From the images themselves, without a random start."""
        eps, step = self.budget, self.settings["step"]

        def loss(x: Tensor) -> Tensor:
            return summed_cross_entropy(classifier(self._diverse(x)), labels)

        low, high = (images - eps).clamp_(min=0), (images + eps).clamp_(max=1)
        steps = itertools.repeat(-step if self.goal == "targeted" else step, int(self.settings["iterations"]))
        return sign_ascent(with_momentum(gradient_of(loss), self.settings["decay"]), images, low, high, steps)

    def _diverse(self, x: Tensor) -> Tensor:
        """``x``, or with probability ``diverse`` shrunk to a random size from ``smallest`` on, anywhere on black."""
        if torch.rand(()) >= self.settings.get("diverse", 0.0):
            return x
        smallest = self.settings["smallest"]
        share = smallest + (1 - smallest) * float(torch.rand(()))
        height, width = (round(share * side) for side in x.shape[2:])
        below, right = x.shape[2] - height, x.shape[3] - width
        above, before = (int(torch.randint(0, room + 1, ())) for room in (below, right))
        small = F.interpolate(x, (height, width), mode="bilinear")
        return F.pad(small, (before, right - before, above, below - above))
