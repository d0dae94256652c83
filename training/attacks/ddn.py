"""DDN: the smallest l2 change by decoupling its direction and norm.

Source: Rony et al., "Decoupling direction and norm for efficient gradient-based l2 adversarial attacks and defenses",
CVPR 2019.
"""

from __future__ import annotations

import warnings
from typing import Self

from torch import Tensor, nn

from .base import Attack, goal_of


class Ddn(Attack):
    """DDN_N and DDN_T, rounded to 256 levels."""

    @classmethod
    def preset(cls, name: str, _dataset: str) -> Self:
        """100 iterations, as the authors set it."""
        settings = {"iterations": 100, "gamma": 0.05, "init_norm": 1.0, "levels": 256}
        return cls(name, goal_of(name), "l2", None, settings, "Rony et al., CVPR 2019; advertorch DDNL2Attack")

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By advertorch."""
        from .advertorch_shim import attacks

        attack = attacks.DDNL2Attack(
            classifier,
            nb_iter=self.settings["iterations"],
            gamma=self.settings["gamma"],
            init_norm=self.settings["init_norm"],
            quantize=True,
            levels=self.settings["levels"],
            targeted=self.goal == "targeted",
        )
        with warnings.catch_warnings():
            # Its authors step the cosine schedule before the optimiser, which torch warns of.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            x_adv: Tensor = attack.perturb(images, labels)
        return x_adv
