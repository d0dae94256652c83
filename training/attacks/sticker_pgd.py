"""APM: stickers at RP2's places, by projected gradient descent (PGD) on the margin.

Through a purifier it is far stronger than RP2, whose Adam moves most values out of [0, 1], where they have no gradient.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from .base import Attack
from .gradient import input_gradient, sign_ascent, summed_margin
from .rp2 import sticker_mask


@dataclasses.dataclass(frozen=True)
class StickerPgd(Attack):
    """APM_1 to APM_4, with the masks of AP_1 to AP_4; untargeted, one perturbation for each image."""

    sticker: int = 1
    starts_at_random: ClassVar[bool] = True

    @classmethod
    def preset(cls, name: str, _dataset: str) -> Self:
        """100 steps of .05, from a random start."""
        settings = {"iterations": 100, "step": 0.05}
        source = "PGD (Madry et al., ICLR 2018) inside a mask, on the margin of Carlini & Wagner (S&P 2017)"
        return cls(name, "untargeted", "patch", None, settings, source, int(name.removeprefix("APM_")))

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Sign steps on the pixels that the mask covers, each anywhere in [0, 1]; the others stay as they are."""
        mask = sticker_mask(self.sticker, *images.shape[2:]).to(images).bool()
        low, high = images.masked_fill(mask, 0), images.masked_fill(mask, 1)
        start = torch.where(mask, torch.rand_like(images), images)
        gradient = input_gradient(classifier, images, labels, summed_margin)
        steps = itertools.repeat(self.settings["step"], int(self.settings["iterations"]))
        return sign_ascent(gradient, start, low, high, steps)

    def shortened(self) -> Self:
        """30 steps."""
        return self.with_settings(iterations=30)
