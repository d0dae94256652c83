"""The target classifiers. Each takes ``(N, C, H, W)`` float32 in [0, 1] and answers logits ``(N, classes)``.

What a network wants its input to look like (mean and deviation) it sees to itself.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """Features of an image, and a linear layer on them, ``linear`` unless it is called otherwise."""

    last: ClassVar[str] = "linear"

    def features(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the representation before the last layer, ``(N, width)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N, classes)``."""
        return self.forward_with_features(x)[1]

    def forward_with_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(features, logits)`` in one pass, for losses on the frozen target's representation."""
        features = self.features(x)
        return features, self.get_submodule(self.last)(features)


@dataclasses.dataclass(frozen=True)
class LeNet5Config:
    """What rebuilds a :class:`LeNet5`: ``channels`` of 28x28 images and ``classes``."""

    channels: int = 1
    classes: int = 10


class LeNet5(Classifier):
    """LeNet-5 as the advertorch toolbox defines it: the paper's MNIST target."""

    last = "linear2"

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


@dataclasses.dataclass(frozen=True)
class MlpConfig:
    """What rebuilds an :class:`Mlp`: ``channels`` and ``size`` of the images, and ``classes``."""

    channels: int = 1
    size: int = 28
    classes: int = 10


class Mlp(Classifier):
    """Two hidden layers of 512 and 256 units and no convolution: what a purifier trained beside LeNet-5 never saw."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.size * config.size
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()
        )  # fmt: skip
        self.linear = nn.Linear(256, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """``(N, C, size, size)`` to ``(N, 256)``."""
        out: Tensor = self.hidden(x)
        return out


class ColourClassifier(Classifier):
    """Layers that make ``width`` features of a normalised colour image, and a linear layer on them."""

    # CIFAR-10's training images, each channel on [0, 1].
    mean: Sequence[float] = (0.4914, 0.4822, 0.4465)
    deviation: Sequence[float] = (0.2470, 0.2435, 0.2616)
    shift: Tensor
    scale: Tensor

    def __init__(self, layers: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.layers, self.linear = layers, nn.Linear(width, classes)
        self.register_buffer("shift", torch.tensor(self.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(self.deviation).reshape(1, 3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] to the representation before the last layer, ``(N, width)``."""
        out: Tensor = self.layers((x - self.shift) * self.scale)
        return out


def _conv(i: int, o: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False)


def _pool() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class _Block(nn.Module):
    """Two convolutions beside a shortcut: a projection where the shape changes, or strided and padded with zeros."""

    def __init__(self, i: int, o: int, stride: int, projects: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(i, o, stride), nn.BatchNorm2d(o), nn.ReLU(), _conv(o, o), nn.BatchNorm2d(o)
        )  # fmt: skip
        self.stride, self.grown = stride, o - i
        self.projection = (
            nn.Sequential(nn.Conv2d(i, o, 1, stride=stride, bias=False), nn.BatchNorm2d(o))
            if projects and (self.grown or stride > 1)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.projection is not None:
            short = self.projection(x)
        else:
            half = self.grown // 2
            short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half)) if self.grown else x
        return F.relu(short + self.body(x))


def _stages(widths: Sequence[int], blocks: int, make: Callable[[int, int, int], nn.Module]) -> list[nn.Module]:
    """``blocks`` to each of ``widths[1:]``; every stage but the first halves height and width.

    ``make``: a block from its channels, those that it gives, and its stride.
    """
    return [
        make(i if block == 0 else o, o, 2 if block == 0 and stage else 1)
        for stage, (i, o) in enumerate(itertools.pairwise(widths))
        for block in range(blocks)
    ]


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """What rebuilds a :class:`ResNet`: 6n + 2 layers, or 18."""

    depth: int = 110
    classes: int = 10

    def __post_init__(self) -> None:
        if self.depth != 18 and (self.depth < 8 or (self.depth - 2) % 6):
            raise ValueError(f"a ResNet for 32x32 images has 18 or 6n + 2 layers, not {self.depth}")


class ResNet(ColourClassifier):
    """He et al., CVPR 2016: their CIFAR network of 6n + 2 layers (16, 32, 64 channels), or ResNet-18 without its stem.

    The paper's CIFAR-10 target is ResNet-110.
    """

    def __init__(self, config: ResNetConfig) -> None:
        small = config.depth != 18
        widths = (16, 16, 32, 64) if small else (64, 64, 128, 256, 512)
        blocks = (config.depth - 2) // 6 if small else 2
        stem = (_conv(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())
        layers = nn.Sequential(*stem, *_stages(widths, blocks, partial(_Block, projects=not small)), *_pool())
        super().__init__(layers, widths[-1], config.classes)
        self.config = config


class _PreActivated(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU())
        self.body = nn.Sequential(_conv(i, o, stride), nn.BatchNorm2d(o), nn.ReLU(), _conv(o, o))
        self.projection = nn.Conv2d(i, o, 1, stride=stride, bias=False) if i != o or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        out: Tensor = (x if self.projection is None else self.projection(active)) + self.body(active)
        return out


@dataclasses.dataclass(frozen=True)
class WideResNetConfig:
    """What rebuilds a :class:`WideResNet`: 6n + 4 layers, ``widen`` times the channels of the CIFAR ResNet."""

    depth: int = 28
    widen: int = 20
    classes: int = 10

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"a wide ResNet has 6n + 4 layers, not {self.depth}")


class WideResNet(ColourClassifier):
    """Zagoruyko & Komodakis, BMVC 2016; the paper's is WRN-28-20, RobustBench's WRN-28-10."""

    def __init__(self, config: WideResNetConfig) -> None:
        widths = (16, *(config.widen * width for width in (16, 32, 64)))
        blocks = _stages(widths, (config.depth - 4) // 6, _PreActivated)
        last = (nn.BatchNorm2d(widths[-1]), nn.ReLU())
        super().__init__(nn.Sequential(_conv(3, 16), *blocks, *last, *_pool()), widths[-1], config.classes)
        self.config = config


@dataclasses.dataclass(frozen=True)
class Vgg19Config:
    """What rebuilds a :class:`Vgg19`."""

    classes: int = 10


class Vgg19(ColourClassifier):
    """VGG-19 (Simonyan & Zisserman, ICLR 2015) for 32x32 images: BatchNorm, and one linear layer in place of three."""

    def __init__(self, config: Vgg19Config) -> None:
        layers, i = nn.Sequential(), 3
        for o, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            for _ in range(count):
                layers.extend([_conv(i, o), nn.BatchNorm2d(o), nn.ReLU()])
                i = o
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers.extend(_pool()), 512, config.classes)
        self.config = config


@dataclasses.dataclass(frozen=True)
class AirbenchConfig:
    """What rebuilds an :class:`Airbench`: ``width`` of the first group, a quarter of that of the other two."""

    width: int = 48
    classes: int = 10


class Airbench(ColourClassifier):
    """A fast network for 32x32 images after Jordan's airbench94 (2024): six convolutions, each group pools at once.

    At width 48 it costs 126 MFLOP, no more time than ResNet-20 on a CPU, and has far less error.
    """

    def __init__(self, config: AirbenchConfig) -> None:
        w = config.width
        layers: list[nn.Module] = [nn.Conv2d(3, w // 2, 2), nn.GELU()]
        for i, o in ((w // 2, w), (w, 4 * w), (4 * w, 4 * w)):
            layers += [
                _conv(i, o), nn.MaxPool2d(2), nn.BatchNorm2d(o), nn.GELU(), _conv(o, o), nn.BatchNorm2d(o), nn.GELU(),
            ]  # fmt: skip
        super().__init__(nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten()), 4 * w, config.classes)
        for module in layers:
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                nn.init.dirac_(module.weight[: module.in_channels])
        self.config = config


@dataclasses.dataclass(frozen=True)
class LisaCnnConfig:
    """What rebuilds a :class:`LisaCnn`."""

    classes: int = 16


class LisaCnn(ColourClassifier):
    """LISA-CNN (Eykholt et al., CVPR 2018): three convolutions and one linear layer on 32x32 signs."""

    mean = (0.5, 0.5, 0.5)
    deviation = (1.0, 1.0, 1.0)

    def __init__(self, config: LisaCnnConfig) -> None:
        layers = nn.Sequential(
            nn.Conv2d(3, 64, 8, stride=2, padding=3), nn.ReLU(),
            nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
            nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        super().__init__(layers, 512, config.classes)
        self.config = config


@dataclasses.dataclass(frozen=True)
class ResNet8Config:
    """What rebuilds a :class:`ResNet8`: ``channels`` of the images, and ``classes``."""

    channels: int = 1
    classes: int = 10


class ResNet8(Classifier):
    """He et al.'s CIFAR network (CVPR 2016) at n = 1, for small images of any size: 16, 32 and 64 channels."""

    def __init__(self, config: ResNet8Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.Sequential(
            _conv(config.channels, 16), nn.BatchNorm2d(16), nn.ReLU(),
            *_stages((16, 16, 32, 64), 1, partial(_Block, projects=True)), *_pool(),
        )  # fmt: skip
        self.linear = nn.Linear(64, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 64)``."""
        out: Tensor = self.layers(x)
        return out
