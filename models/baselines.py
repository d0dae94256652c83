"""The learned purifiers that the paper compares ARN with: APE-G and HGD, at the default width as large as ``compact``.

Both take and give ``(N, C, H, W)`` float32 in [0, 1] and are differentiable, as :class:`~models.Arn` is.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import clipped, conv_unit


@dataclasses.dataclass(frozen=True)
class ApeGConfig:
    """What rebuilds an :class:`ApeG`: colour ``channels``, the ``size`` in pixels it is trained at, its ``width``."""

    channels: int = 1
    size: int = 28
    width: int = 64

    def __post_init__(self) -> None:
        if self.size % 4:
            raise ValueError(f"APE-G halves twice: size must be a multiple of 4, not {self.size}")

    @classmethod
    def preset(cls, channels: int, size: int) -> ApeGConfig:
        """As large as the ARN that it is compared with."""
        return cls(channels, size) if channels == 1 else cls(channels, size, 128)


class ApeG(nn.Module):
    """The generator of APE-GAN (Jin et al., ICASSP 2019): two stride-2 convolutions and their mirror, Tanh."""

    def __init__(self, config: ApeGConfig) -> None:
        super().__init__()
        self.config = config
        c, w = config.channels, config.width
        self.layers = nn.Sequential(
            conv_unit(nn.Conv2d(c, w, 4, stride=2, padding=1, bias=False), w),
            conv_unit(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1, bias=False), 2 * w),
            conv_unit(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1, bias=False), w),
            nn.ConvTranspose2d(w, c, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the same."""
        out: Tensor = self.layers(2 * x - 1)
        return (out + 1) / 2


class ApeGDiscriminator(nn.Module):
    """APE-GAN's discriminator: natural or restored, one logit each, positive means natural."""

    def __init__(self, config: ApeGConfig) -> None:
        super().__init__()
        widths = (config.channels, 64, 128, 256)
        self.layers = nn.Sequential()
        side = config.size
        for i, o in itertools.pairwise(widths):
            self.layers.append(conv_unit(nn.Conv2d(i, o, 4, stride=2, padding=1, bias=False), o))
            side //= 2
        self.layers.extend([nn.Flatten(), nn.Linear(256 * side * side, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N,)``."""
        out: Tensor = self.layers(2 * x - 1)
        return out.squeeze(1)


@dataclasses.dataclass(frozen=True)
class HgdConfig:
    """What rebuilds an :class:`Hgd`: ``width`` channels at full size, doubled at each of two halvings."""

    channels: int = 1
    size: int = 28
    width: int = 12
    any_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size % 4:
            raise ValueError(f"HGD's U-Net halves twice: size must be a multiple of 4, not {self.size}")

    @classmethod
    def preset(cls, channels: int, size: int) -> HgdConfig:
        """As large as the ARN that it is compared with."""
        return cls(channels, size) if channels == 1 else cls(channels, size, 24)


class Hgd(nn.Module):
    """The denoiser of HGD (Liao et al., CVPR 2018): a U-Net that gives the negative noise to add to its input.

    Trained on what the frozen classifier makes of the result alone, it may write outside [0, 1]; the sum is clipped
    for whoever stands behind, with a gradient as if it were not.
    """

    def __init__(self, config: HgdConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width

        def stage(i: int, o: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                conv_unit(nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False), o),
                conv_unit(nn.Conv2d(o, o, 3, padding=1, bias=False), o),
            )

        self.down = nn.ModuleList([stage(config.channels, w, 1), stage(w, 2 * w, 2), stage(2 * w, 4 * w, 2)])
        self.up = nn.ModuleList([stage(4 * w + 2 * w, 2 * w, 1), stage(2 * w + w, w, 1)])
        self.noise = nn.Conv2d(w, config.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the same."""
        full = self.down[0](x)
        half = self.down[1](full)
        out = self.down[2](half)
        for stage, skip in zip(self.up, (half, full), strict=True):
            out = stage(torch.cat([F.interpolate(out, size=skip.shape[2:], mode="nearest"), skip], 1))
        return clipped(x + self.noise(out))
