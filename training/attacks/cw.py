"""CW: the smallest l2 change by optimisation.

Source: Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, goal_of
from .wrappers import ContiguousGradient, number_of_classes


class CarliniWagner(Attack):
    """CW_N and CW_T."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """4 searches, as many iterations as the data set says."""
        settings = {
            "confidence": 1.0,
            "iterations": spec_of(dataset).attacks.carlini_wagner_iterations,
            "searches": 4,
            "initial_const": 1.0,
            "step": 0.01,
        }
        source = "Carlini & Wagner, S&P 2017; advertorch CarliniWagnerL2Attack"
        return cls(name, goal_of(name), "l2", None, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By advertorch."""
        from .advertorch_shim import attacks

        attack = attacks.CarliniWagnerL2Attack(
            ContiguousGradient(classifier),
            num_classes=number_of_classes(classifier, images),
            confidence=self.settings["confidence"],
            learning_rate=self.settings["step"],
            binary_search_steps=self.settings["searches"],
            max_iterations=self.settings["iterations"],
            initial_const=self.settings["initial_const"],
            targeted=self.goal == "targeted",
        )
        x_adv: Tensor = attack.perturb(images.contiguous(), labels)
        return x_adv
