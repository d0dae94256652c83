"""STA: pixels moved by a smooth flow.

Source: Xiao et al., "Spatially transformed adversarial examples", ICLR 2018.
"""

from __future__ import annotations

import warnings
from typing import Self

import torch
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, goal_of
from .wrappers import number_of_classes


class SpatialTransform(Attack):
    """STA_N and STA_T. One search serves a whole batch, so the batch's size is a setting."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """Searches and iterations of the data set. advertorch's own: 20 of 5000 on MNIST, 20 of 100 on CIFAR-10."""
        known = spec_of(dataset).attacks
        settings = {
            "confidence": 0.0,
            "initial_const": 1.0,
            "iterations": known.spatial_iterations,
            "searches": known.spatial_searches,
            "batch": 50,
        }
        source = "Xiao et al., ICLR 2018; advertorch SpatialTransformAttack"
        return cls(name, goal_of(name), "flow", None, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By advertorch. The natural image where it fails: advertorch returns a black one."""
        from .advertorch_shim import attacks

        attack = attacks.SpatialTransformAttack(
            classifier,
            num_classes=number_of_classes(classifier, images),
            confidence=self.settings["confidence"],
            initial_const=self.settings["initial_const"],
            max_iterations=self.settings["iterations"],
            search_steps=self.settings["searches"],
            targeted=self.goal == "targeted",
        )
        batch = int(self.settings["batch"])
        parts = zip(images.split(batch), labels.split(batch), strict=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Default (grid_sample|affine_grid)")  # today's default is meant
            warnings.filterwarnings("ignore", ".*iprint", DeprecationWarning)
            x_adv = torch.cat([attack.perturb(x, y) for x, y in parts])
        failed = x_adv.flatten(1).amax(1) == 0
        return torch.where(failed.reshape(-1, 1, 1, 1), images, x_adv).clamp(0, 1)

    def shortened(self) -> Self:
        """3 searches of 50 iterations."""
        return self.with_settings(iterations=50, searches=3)
