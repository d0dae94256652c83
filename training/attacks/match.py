"""MATCH: pull the features of a purifier's encoder to those of an image of another class.

Source: Sabour et al., "Adversarial manipulation of deep representations", ICLR 2016.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ..data.datasets import spec_of
from .base import Attack, AttackError, budget_of
from .gradient import gradient_of, sign_ascent


class FeatureMatching(Attack):
    """MATCH_N, through a classifier behind an ARN: each image takes one of the ``nearest`` others of its batch."""

    whole_batch: ClassVar[bool] = True
    starts_at_random: ClassVar[bool] = True

    @classmethod
    def preset(cls, name: str, dataset: str) -> Self:
        """100 steps."""
        known = spec_of(dataset).attacks
        eps = budget_of(name, known.linf_eps)
        settings = {"iterations": 100, "step": known.step or eps / 10, "nearest": 5}
        source = "features of E pulled to those of another class (feature adversaries: Sabour et al., ICLR 2016)"
        return cls(name, "untargeted", "linf", eps, settings, source)

    def perturb(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Descend the squared distance between codes by sign steps."""
        encode = getattr(classifier[0], "encode", None) if isinstance(classifier, nn.Sequential) else None
        if encode is None:
            raise AttackError("MATCH_N attacks the features of an ARN: white box, through a purifier that has a code")
        with torch.no_grad():
            codes = encode(images).flatten(1)
            distances = torch.cdist(codes, codes).masked_fill(labels[:, None] == labels, torch.inf)
            others = int((distances < torch.inf).sum(1).min())
            if not others:
                return images
            near = distances.topk(min(int(self.settings["nearest"]), others), largest=False).indices
            chosen = torch.randint(near.shape[1], (len(images), 1)).to(near.device)
            wanted = codes[near.gather(1, chosen).squeeze(1)]
        eps = self.budget
        start = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
        gradient = gradient_of(lambda x: (encode(x).flatten(1) - wanted).square().sum())
        steps = itertools.repeat(-self.settings["step"], int(self.settings["iterations"]))
        return sign_ascent(gradient, start, (images - eps).clamp(min=0), (images + eps).clamp(max=1), steps)
