"""Blocks that several networks are built from."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

CodeShape = tuple[int, int, int]  # channels, height, width


def conv_unit(convolution: nn.Module, channels: int) -> nn.Sequential:
    """A convolution to ``channels``, BatchNorm and LeakyReLU."""
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2))


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut; same shape in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_unit(nn.Conv2d(channels, channels, 3, padding=1, bias=False), channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to the same."""
        out: Tensor = self.activation(x + self.body(x))
        return out


class Encoder(nn.Module):
    """E: an image in [-1, 1] to the mean and log variance of its attack-invariant features."""

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` in [-1, 1] to ``(mu, log sigma^2)``, each ``(N, *code_shape)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [-1, 1] to mu alone, ``(N, *code_shape)``; sigma is for training."""
        return self.distribution(x)[0]


class TwoHeads(Encoder):
    """Features that the heads for mu and log sigma^2 share."""

    def __init__(self, features: nn.Module, mean: nn.Module, log_variance: nn.Module) -> None:
        super().__init__()
        self.features, self.mean, self.log_variance = features, mean, log_variance

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Encoder`."""
        features = self.features(x)
        return self.mean(features), self.log_variance(features)

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Encoder`; the other head is not computed."""
        out: Tensor = self.mean(self.features(x))
        return out


class Decoder(nn.Module):
    """G: a code ``(N, *code_shape)`` to what an architecture's ``answer`` makes the image of."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, z: Tensor) -> Tensor:
        """``(N, *code_shape)`` to ``(N, C, H, W)``, in [-1, 1] where Tanh is the last layer."""
        out: Tensor = self.layers(z)
        return out


def from_tanh(_: Tensor, out: Tensor) -> Tensor:
    """The answer of a decoder that ends in Tanh: [-1, 1] to [0, 1], whatever the image given."""
    return (out + 1) / 2


def clipped(x: Tensor) -> Tensor:
    """``x`` inside [0, 1], with a gradient as if it were not clipped."""
    return x + (x.clamp(0, 1) - x).detach()


def dense_logits(code_shape: CodeShape, domains: int, hidden: tuple[int, ...] = (256, 64)) -> nn.Sequential:
    """A code ``(N, *code_shape)`` to logits ``(N, domains)`` through ``hidden`` units."""
    channels, height, width = code_shape
    sizes = (channels * height * width, *hidden)
    layers = nn.Sequential(nn.Flatten())
    for i, o in itertools.pairwise(sizes):
        layers.extend([nn.Linear(i, o), nn.LeakyReLU(0.2)])
    return layers.append(nn.Linear(sizes[-1], domains))


def convolutional_logits(code_shape: CodeShape, domains: int) -> nn.Sequential:
    """A code ``(N, *code_shape)`` of any height and width to logits ``(N, domains)``."""
    layers = nn.Sequential()
    for i, o, stride in ((code_shape[0], 64, 2), (64, 128, 2), (128, 128, 1)):
        layers.extend([nn.Conv2d(i, o, 3, stride=stride, padding=1), nn.LeakyReLU(0.2)])
    return layers.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, domains)])
