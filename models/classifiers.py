"""The target classifiers. Each takes ``(N, C, H, W)`` float32 in [0, 1] and answers logits ``(N, classes)``."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class LeNet5Config:
    """What rebuilds a :class:`LeNet5`: ``channels`` of 28x28 images and ``classes``."""

    channels: int = 1
    classes: int = 10


class LeNet5(nn.Module):
    """LeNet-5 as the advertorch toolbox defines it: the paper's MNIST target."""

    def __init__(self, config: LeNet5Config) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(config.channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * 7 * 7, 200)
        self.linear2 = nn.Linear(200, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """``(N, C, 28, 28)`` to the representation before the last layer, ``(N, 200)``."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return F.relu(self.linear1(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, 28, 28)`` in [0, 1] to logits ``(N, classes)``."""
        return self.forward_with_features(x)[1]

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features, logits)`` in one pass, for losses on the frozen target's representation."""
        features = self.features(x)
        return features, self.linear2(features)
