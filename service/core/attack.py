"""An attack that the page shows on request: the PGD that the purifiers are measured with.

Sign steps up the summed cross-entropy from a random start (Madry et al., ICLR 2018, arXiv:1706.06083).
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 40
_STEP = 0.01


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack to show instead of purifying: on the classifier alone, or through the purifier too."""

    eps: float
    through_purifier: bool = False


def pgd(target: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Untargeted l-inf PGD on ``target``, images ``(N, C, H, W)`` in [0, 1] to logits, away from ``labels`` ``(N,)``.

    ``eps`` is the budget on [0, 1]; the random start is always the same, on every device.
    """
    start = torch.empty(images.shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    delta = (images + eps * start.to(images)).clamp(0, 1) - images
    for _ in range(_STEPS):
        delta.requires_grad_(True)
        loss = F.cross_entropy(target(images + delta), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + _STEP * gradient.sign()).clamp(-eps, eps)
        delta = (images + delta).clamp(0, 1) - images
    return (images + delta).detach()
