"""E and G for colour images: fully convolutional, most of their work at half and quarter size, GroupNorm throughout.

``colour`` is strict, G sees nothing but the code. ``skips`` hands the finer scales over as well and answers what to add
to the image; its skips are a part of its code, so that D_A and L_nor reach them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .arn import ArnConfig


def _conv(i: int, o: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, stride=stride, padding=1)


class _Norm(nn.GroupNorm):
    """In float32: on a CPU PyTorch's kernel for bfloat16, channels last, takes three to five times as long."""

    def __init__(self, channels: int) -> None:
        super().__init__(8, channels)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that it has in PyTorch)
        return super().forward(input.float()).to(input.dtype)


def _active(channels: int) -> nn.Sequential:
    return nn.Sequential(_Norm(channels), nn.SiLU())


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _active(channels), _conv(channels, channels), _active(channels), _conv(channels, channels)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _upwards(i: int, o: int) -> nn.Sequential:
    """Twice the height and width."""
    return nn.Sequential(nn.Conv2d(i, 4 * o, 1), nn.PixelShuffle(2))


def scales(config: ArnConfig) -> tuple[int, int, int]:
    """Channels at full, half and quarter size."""
    return (config.width, 3 * config.width, 6 * config.width)


def code_scales(config: ArnConfig) -> tuple[int, int, int]:
    """Channels that the code has of each scale; it is kept at half size, where each full one takes four."""
    if config.architecture == "colour":
        return (0, config.code_channels, 0)
    return (config.code_channels // 4, config.code_channels, 2 * config.code_channels)


def code_channels(config: ArnConfig) -> int:
    """Channels of the code at half size."""
    full, half, quarter = code_scales(config)
    return 4 * full + half + quarter // 4


class ColourEncoder(nn.Module):
    """E: an image in [-1, 1], its sides multiples of 4, to mean and log variance ``(N, code_channels, H/2, W/2)``."""

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        full, half, quarter = scales(config)
        self.skips = config.architecture == "skips"
        self.fine = _conv(config.channels, full)
        self.middle = nn.Sequential(_active(full), _conv(full, half, stride=2), _Residual(half))
        blocks = (_Residual(quarter) for _ in range(config.blocks))
        self.coarse = nn.Sequential(_active(half), _conv(half, quarter, stride=2), *blocks)
        self.fuse = None if self.skips else _upwards(quarter, half)
        self.mean, self.log_variance = self._heads(config), self._heads(config)

    @staticmethod
    def _heads(config: ArnConfig) -> nn.ModuleList:
        pairs = zip(scales(config), code_scales(config), strict=True)
        return nn.ModuleList(nn.Sequential(_active(i), _conv(i, o)) for i, o in pairs if o)

    def _scales(self, x: Tensor) -> list[Tensor]:
        full = self.fine(x)
        half = self.middle(full)
        quarter = self.coarse(half)
        return [full, half, quarter] if self.fuse is None else [half + self.fuse(quarter)]

    def _code(self, heads: nn.ModuleList, features: list[Tensor]) -> Tensor:
        codes = [head(feature) for head, feature in zip(heads, features, strict=True)]
        if self.skips:
            codes = [F.pixel_unshuffle(codes[0], 2), codes[1], F.pixel_shuffle(codes[2], 2)]
        return torch.cat(codes, 1)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(mu, log sigma^2)`` of the code."""
        features = self._scales(x)
        return self._code(self.mean, features), self._code(self.log_variance, features)

    def forward(self, x: Tensor) -> Tensor:
        """Mu alone."""
        return self._code(self.mean, self._scales(x))


class ColourDecoder(nn.Module):
    """G: the code to an image that :meth:`models.Arn.decode` clips to [-1, 1], or for ``skips`` to a change of one."""

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        full, half, quarter = scales(config)
        self.given = code_scales(config)
        of_full, of_half, of_quarter = self.given
        self.coarse = (
            nn.Sequential(_conv(of_quarter, quarter), _active(quarter), _upwards(quarter, half)) if of_quarter else None
        )
        self.middle = nn.Sequential(
            _conv(of_half + (half if of_quarter else 0), half), _Residual(half), _active(half),
            _conv(half, 4 * full), nn.PixelShuffle(2),
        )  # fmt: skip
        self.fine = nn.Sequential(
            *([_conv(of_full + full, full)] if of_full else []), _Residual(full), _active(full),
            _conv(full, config.channels),
        )  # fmt: skip
        if config.architecture == "skips":  # nothing is added until it was learned what
            for parameter in self.fine[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """``(N, code_channels, H/2, W/2)`` to ``(N, C, H, W)``."""
        out: Tensor
        if self.coarse is None:
            out = self.fine(self.middle(z))
        else:
            of_full, of_half, of_quarter = self.given
            fine, middle, coarse = z.split([4 * of_full, of_half, of_quarter // 4], 1)
            half = self.middle(torch.cat([middle, self.coarse(F.pixel_unshuffle(coarse, 2))], 1))
            out = self.fine(torch.cat([F.pixel_shuffle(fine, 2), half], 1))
        return out
