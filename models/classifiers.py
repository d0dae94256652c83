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


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """What rebuilds an :class:`Mlp`: ``channels`` and ``size`` of the images, and ``classes``."""

    channels: int = 1
    size: int = 28
    classes: int = 10


class Mlp(nn.Module):
    """Two hidden layers of 512 and 256 units and no convolution: what a purifier trained beside LeNet-5 never saw."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.size * config.size
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()
        )  # fmt: skip
        self.linear = nn.Linear(256, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, size, size)`` in [0, 1] to logits ``(N, classes)``."""
        return self.forward_with_features(x)[1]

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features (N, 256), logits)`` in one pass, for losses on the frozen target's representation."""
        features = self.hidden(x)
        return features, self.linear(features)


class _Shortcut(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o),
        )  # fmt: skip
        self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride=stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.body(x))


@dataclasses.dataclass(frozen=True)
class ResNet8Config:
    """What rebuilds a :class:`ResNet8`: ``channels`` of the images, and ``classes``."""

    channels: int = 1
    classes: int = 10


class ResNet8(nn.Module):
    """He et al.'s CIFAR network (CVPR 2016) at n = 1, for small images of any size: 16, 32 and 64 channels."""

    def __init__(self, config: ResNet8Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            nn.Conv2d(config.channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            _Shortcut(16, 16, 1), _Shortcut(16, 32, 2), _Shortcut(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.linear = nn.Linear(64, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        return self.forward_with_features(x)[1]

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features (N, 64), logits)`` in one pass, for losses on the frozen target's representation."""
        features = self.layers(x)
        return features, self.linear(features)
