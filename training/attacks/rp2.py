"""AP: stickers at fixed places, by RP2. Through a purifier :mod:`.sticker_pgd` is the stronger attack.

Source: Eykholt et al., "Robust physical-world attacks on deep learning visual classification", CVPR 2018 (Eq. 3).
"""

from __future__ import annotations

import dataclasses
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import shift_images
from .base import Attack


@dataclasses.dataclass(frozen=True)
class Rp2(Attack):
    """AP_1 to AP_4, each with its own ``sticker`` mask; untargeted, one perturbation for each image."""

    sticker: int = 1

    @classmethod
    def preset(cls, name: str, _dataset: str) -> Self:
        """100 steps of Adam, without the weight on |M d|.

        With that weight an image that f is sure of stays as it is: the loss has no gradient to set against it.
        Without it the undefended error on the validation split is 62 to 64 %, near the paper's 55 to 62 %.
        """
        settings = {"iterations": 100, "rate": 0.1, "weight": 0.0, "nps_weight": 0.0, "transformations": 1}
        source = "Eykholt et al., CVPR 2018 (RP2), untargeted, an image at a time"
        return cls(name, "untargeted", "patch", None, settings, source, int(name.removeprefix("AP_")))

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """See :func:`robust_physical_perturbation`."""
        mask, settings = sticker_mask(self.sticker, *images.shape[2:]), self.settings
        return robust_physical_perturbation(
            classifier, images, labels, mask, int(settings["iterations"]), settings["rate"], settings["weight"],
            settings["nps_weight"], int(settings["transformations"]),
        )  # fmt: skip

    def shortened(self) -> Self:
        """30 steps."""
        return self.with_settings(iterations=30)


def sticker_mask(name: int, height: int, width: int) -> Tensor:
    """The ``name``-th (1 to 4) of four sticker masks, ``(1, 1, height, width)`` of 0 and 1, on a 32nd grid.

    Two black-and-white stickers each, 2.9 to 4.7 % of the pixels, as large as those that the DOA authors use on LISA.
    """
    stickers = {
        1: ((9, 8, 2, 8), (21, 16, 2, 8)),  # (top, left, height, width) at 32x32
        2: ((8, 10, 2, 12), (22, 10, 2, 12)),
        3: ((10, 7, 6, 3), (16, 22, 6, 3)),
        4: ((7, 14, 3, 5), (22, 12, 3, 5)),
    }
    if name not in stickers:
        raise ValueError(f"no sticker mask {name}: 1 to {len(stickers)}")
    mask = torch.zeros(1, 1, height, width)
    for top, left, tall, wide in stickers[name]:
        rows = slice(round(top * height / 32), round((top + tall) * height / 32))
        columns = slice(round(left * width / 32), round((left + wide) * width / 32))
        mask[..., rows, columns] = 1
    return mask


def non_printability(images: Tensor, mask: Tensor, printable: Tensor) -> Tensor:
    """NPS (Sharif et al., CCS 2016): the product over ``printable`` colours ``(P, C)`` of a pixel's distance to each.

    Summed over the pixels that ``mask`` ``(1 or N, 1, H, W)`` covers, averaged over ``images`` ``(N, C, H, W)``.
    """
    distance = (images[:, None] - printable[None, :, :, None, None]).abs().mean(2)  # (N, P, H, W)
    return (distance.prod(1) * mask[:, 0]).flatten(1).sum(1).mean()


def robust_physical_perturbation(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    mask: Tensor,
    iterations: int = 100,
    rate: float = 0.1,
    weight: float = 0.0,
    nps_weight: float = 0.0,
    transformations: int = 1,
    printable: Tensor | None = None,
) -> Tensor:
    """RP2, untargeted, one perturbation an image: images in [0, 1] that differ from ``images`` inside ``mask`` alone.

    Minimises weight * ||M d||_1 + nps_weight * NPS - E[J(f(T(x + M d)), y)] by Adam, the expectation over
    ``transformations`` draws of brightness (.8 to 1.2) and of a shift by up to one pixel, which moves image and
    sticker together.
    """
    mask = mask.to(images)
    colours = images.new_tensor([[0.0], [1.0]]).expand(-1, images.shape[1]) if printable is None else printable
    delta = torch.zeros_like(images, requires_grad=True)
    optimiser = torch.optim.Adam([delta], rate)
    for _ in range(iterations):
        adversarial = (images + mask * delta).clamp(0, 1)
        loss = weight * (mask * delta).abs().flatten(1).sum(1).sum()
        if nps_weight:
            loss = loss + nps_weight * len(images) * non_printability(adversarial, mask, colours)
        for _ in range(transformations):
            brightness = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, device=images.device)
            shift = torch.randint(0, 3, (len(images), 2))
            seen = shift_images((adversarial * brightness).clamp(0, 1), shift, 1)
            loss = loss - F.cross_entropy(classifier(seen), labels, reduction="sum") / transformations
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (images + mask * delta).clamp(0, 1).detach()
