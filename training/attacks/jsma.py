"""JSMA: few pixels, chosen by a saliency map.

Source: Papernot et al., "The limitations of deep learning in adversarial settings", EuroS&P 2016.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack
from .wrappers import ContiguousGradient, number_of_classes

# Its map has an entry for each pair of an image's values: as many as those of 50 images of MNIST at a time.
_ENTRIES = 50 * 784**2


class Jsma(Attack):
    """JSMA_T."""

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """As many pixels may change as the data set says: all, but on the toy set in colour."""
        settings = {"theta": 1.0, "gamma": spec_of(dataset).attacks.jsma_gamma}
        source = "Papernot et al., EuroS&P 2016; advertorch JacobianSaliencyMapAttack"
        return cls(name, "targeted", "l0", None, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """By advertorch, a few images at a time."""
        from .advertorch_shim import attacks

        attack = attacks.JacobianSaliencyMapAttack(
            ContiguousGradient(classifier),
            number_of_classes(classifier, images),
            theta=self.settings["theta"],
            gamma=self.settings["gamma"],
        )
        batch = max(1, _ENTRIES // images[0].numel() ** 2)
        parts = zip(images.contiguous().split(batch), labels.split(batch), strict=True)
        return torch.cat([attack.perturb(x, y) for x, y in parts])
