"""E and G for colour images: fully convolutional, most of their work at half and quarter size, GroupNorm throughout.

``colour`` is strict: G sees nothing but the code. ``skips`` hands the finer scales over as well, and its answer is what
to add to the image. Its skips are a part of its code, so D_A and L_nor reach them too.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, Sizes
from .layers import CodeShape, Encoder, clipped, convolutional_logits, from_tanh


def _conv(i: int, o: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, stride=stride, padding=1)


class _Norm(nn.GroupNorm):
    """In float32: on a CPU PyTorch's kernel for bfloat16, channels last, takes three to five times as long."""

    def __init__(self, channels: int) -> None:
        super().__init__(8, channels)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that it has in PyTorch)
        return super().forward(input.to(self.weight.dtype)).to(input.dtype)


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


def _scales(sizes: Sizes) -> tuple[int, int, int]:
    """Channels at full, half and quarter size."""
    return (sizes.width, 3 * sizes.width, 6 * sizes.width)


def _code_scales(sizes: Sizes, skips: bool) -> tuple[int, int, int]:
    """Channels that the code has of each scale; it is kept at half size, where each full one takes four."""
    of_half = sizes.code_channels
    return (of_half // 4, of_half, 2 * of_half) if skips else (0, of_half, 0)


def _code_shape(sizes: Sizes, skips: bool) -> CodeShape:
    full, half, quarter = _code_scales(sizes, skips)
    return (4 * full + half + quarter // 4, sizes.size // 2, sizes.size // 2)


class ColourEncoder(Encoder):
    """E: an image in [-1, 1], its sides multiples of 4, to mean and log variance ``(N, code channels, H/2, W/2)``."""

    def __init__(self, sizes: Sizes, skips: bool) -> None:
        super().__init__()
        full, half, quarter = _scales(sizes)
        self.skips = skips
        self.fine = _conv(sizes.channels, full)
        self.middle = nn.Sequential(_active(full), _conv(full, half, stride=2), _Residual(half))
        blocks = (_Residual(quarter) for _ in range(sizes.blocks))
        self.coarse = nn.Sequential(_active(half), _conv(half, quarter, stride=2), *blocks)
        self.fuse = None if skips else _upwards(quarter, half)
        self.mean, self.log_variance = self._heads(sizes), self._heads(sizes)

    def _heads(self, sizes: Sizes) -> nn.ModuleList:
        pairs = zip(_scales(sizes), _code_scales(sizes, self.skips), strict=True)
        return nn.ModuleList(nn.Sequential(_active(i), _conv(i, o)) for i, o in pairs if o)

    def _features(self, x: Tensor) -> list[Tensor]:
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
        features = self._features(x)
        return self._code(self.mean, features), self._code(self.log_variance, features)

    def forward(self, x: Tensor) -> Tensor:
        """Mu alone."""
        return self._code(self.mean, self._features(x))


class ColourDecoder(nn.Module):
    """G: the code to an image around [-1, 1], or with ``skips`` to twice the change of the image given."""

    def __init__(self, sizes: Sizes, skips: bool) -> None:
        super().__init__()
        full, half, quarter = _scales(sizes)
        self.given = _code_scales(sizes, skips)
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
            _conv(full, sizes.channels),
        )  # fmt: skip
        if skips:  # the identity, until it has learned what to add
            for parameter in self.fine[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """``(N, code channels, H/2, W/2)`` to ``(N, C, H, W)``."""
        out: Tensor
        if self.coarse is None:
            out = self.fine(self.middle(z))
        else:
            of_full, of_half, of_quarter = self.given
            fine, middle, coarse = z.split([4 * of_full, of_half, of_quarter // 4], 1)
            half = self.middle(torch.cat([middle, self.coarse(F.pixel_unshuffle(coarse, 2))], 1))
            out = self.fine(torch.cat([F.pixel_shuffle(fine, 2), half], 1))
        return out


def _architecture(skips: bool) -> Architecture:
    return Architecture(
        encoder=functools.partial(ColourEncoder, skips=skips),
        decoder=functools.partial(ColourDecoder, skips=skips),
        code_shape=functools.partial(_code_shape, skips=skips),
        answer=(lambda x, out: clipped(x + out / 2)) if skips else (lambda x, out: clipped(from_tanh(x, out))),
        discriminator=convolutional_logits,
        preset=(16, 32, 1) if skips else (16, 48, 2),
    )


COLOUR, SKIPS = _architecture(skips=False), _architecture(skips=True)
