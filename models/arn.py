"""The adversarial noise removing network of Zhou et al., ICML 2021: purify(x) = G(E(x)).

Public tensors are ``(N, C, H, W)`` float32 in [0, 1]. Inside, images live in [-1, 1] as the paper's Tanh output does.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from .colour import ColourDecoder, ColourEncoder, code_channels

Architecture = Literal["compact", "released", "colour", "skips"]


@dataclasses.dataclass(frozen=True)
class ArnConfig:
    """What rebuilds an :class:`Arn`.

    Args:
        architecture: ``compact`` (ours), ``released`` (the authors' MNIST network; 28x28 only), ``colour`` and
            ``skips`` (ours for larger images; :mod:`arn_purify.models.colour`).
        channels: colour channels C of the images taken and given back.
        size: height and width in pixels that the network is trained and evaluated at; ours take any other too.
        width: channels of the first stride-2 stage of ``compact``, doubled at the next; of the others at full size.
        code_channels: channels of the code of ``compact`` at a quarter of the size, of the others at half of it.
        blocks: residual blocks on each side of the code of ``compact``; of the others, at quarter size.
    """

    architecture: Architecture = "compact"
    channels: int = 1
    size: int = 28
    width: int = 32
    code_channels: int = 32
    blocks: int = 1

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise ValueError(f"unknown architecture {self.architecture!r}: {', '.join(get_args(Architecture))}")
        if self.architecture == "released" and self.size != 28:
            raise ValueError(f"the released network decodes to 28x28, not {self.size}x{self.size}")
        if min(self.width, self.code_channels) < 1 or self.blocks < 0:
            raise ValueError(f"width {self.width}, {self.code_channels} code channels, {self.blocks} blocks: too few")
        if self.size % 4:
            raise ValueError(f"the network halves twice: size must be a multiple of 4, not {self.size}")

    @classmethod
    def preset(cls, architecture: Architecture, channels: int, size: int) -> ArnConfig:
        """An architecture at the widths that it is meant to have."""
        if architecture in ("colour", "skips"):
            strict = architecture == "colour"
            return cls(architecture, channels, size, 16, 48 if strict else 32, 2 if strict else 1)
        return cls(architecture, channels, size)

    @property
    def any_size(self) -> bool:
        """Whether the network takes images of other sizes than the one that it was trained at."""
        return self.architecture != "released"

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape (channels, height, width) of the attack-invariant features."""
        if self.architecture == "released":
            return (2048, 1, 1)
        if self.architecture in ("colour", "skips"):
            return (code_channels(self), self.size // 2, self.size // 2)
        return (self.code_channels, self.size // 4, self.size // 4)


def _unit(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _unit(nn.Conv2d(channels, channels, 3, padding=1, bias=False), channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(x + self.body(x))
        return out


class Encoder(nn.Module):
    """E: an image in [-1, 1] to the mean and log variance of its attack-invariant features."""

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        if config.architecture == "released":
            # Kernels 4, 2, 4, 4 as tabled from the authors' code: 28-14-8-4-2, then two k4 heads to 1x1.
            widths, kernels = (3, 128, 256, 512, 1024), (4, 2, 4, 4)
            self.features = nn.Sequential(
                *(
                    _unit(nn.Conv2d(i, o, k, stride=2, padding=1, bias=False), o)
                    for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
                )
            )
            self.mean = nn.Conv2d(1024, 2048, 4, stride=2, padding=1)
            self.log_variance = nn.Conv2d(1024, 2048, 4, stride=2, padding=1)
            return
        w = config.width
        self.features = nn.Sequential(
            _unit(nn.Conv2d(config.channels, w, 4, stride=2, padding=1, bias=False), w),
            _unit(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1, bias=False), 2 * w),
            *(_Residual(2 * w) for _ in range(config.blocks)),
        )
        self.mean = nn.Conv2d(2 * w, config.code_channels, 3, padding=1)
        self.log_variance = nn.Conv2d(2 * w, config.code_channels, 3, padding=1)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` in [-1, 1] to ``(mu, log sigma^2)``, each ``(N, *code_shape)``."""
        features = self.features(x)
        return self.mean(features), self.log_variance(features)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [-1, 1] to mu alone, ``(N, *code_shape)``; sigma is for training."""
        out: Tensor = self.mean(self.features(x))
        return out


class Decoder(nn.Module):
    """G: attack-invariant features to an image in [-1, 1]."""

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        if config.architecture == "released":
            # 1-2-4-8-14-28: the k2 layer mirrors the encoder's.
            widths, kernels = (2048, 1024, 512, 256, 128), (4, 4, 4, 2)
            self.layers = nn.Sequential(
                *(
                    _unit(nn.ConvTranspose2d(i, o, k, stride=2, padding=1, bias=False), o)
                    for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
                ),
                nn.ConvTranspose2d(128, 3, 4, stride=2, padding=1),
                nn.Tanh(),
            )
            return
        w = config.width
        self.layers = nn.Sequential(
            _unit(nn.Conv2d(config.code_channels, 2 * w, 3, padding=1, bias=False), 2 * w),
            *(_Residual(2 * w) for _ in range(config.blocks)),
            _unit(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1, bias=False), w),
            nn.ConvTranspose2d(w, config.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """``(N, *code_shape)`` to ``(N, C, H, W)`` in [-1, 1]."""
        out: Tensor = self.layers(z)
        return out


class Arn(nn.Module):
    """The adversarial noise removing network. ``forward`` is pure, differentiable and, in eval mode, deterministic.

    >>> purified = Arn(ArnConfig()).eval()(torch.rand(2, 1, 28, 28))
    """

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        self.config = config
        ours = config.architecture in ("colour", "skips")
        self.encoder = ColourEncoder(config) if ours else Encoder(config)
        self.decoder = ColourDecoder(config) if ours else Decoder(config)
        # The authors' network sees grey images three times over and answers in three channels.
        self._replicate = config.architecture == "released" and config.channels == 1

    def encode_distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` in [0, 1] to ``(mu, log sigma^2)`` of the code, each ``(N, *code_shape)``."""
        return self.encoder.distribution(self._inward(x))

    def encode(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the features ``(N, *code_shape)``: the mean, never a sample."""
        out: Tensor = self.encoder(self._inward(x))
        return out

    def _inward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.config.channels:
            raise ValueError(f"expected (N, {self.config.channels}, H, W), got {tuple(x.shape)}")
        below, right = -x.shape[2] % 4, -x.shape[3] % 4
        if (below or right) and self.config.any_size:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        return 2 * (x.expand(-1, 3, -1, -1) if self._replicate else x) - 1

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        """``(N, *code_shape)`` to the restored image ``(N, C, H, W)`` in [0, 1].

        ``x`` is the image that was encoded: its size is the answer's, and ``skips`` adds to it.
        """
        out: Tensor = self.decoder(z)[..., : x.shape[2], : x.shape[3]]
        if self._replicate:
            out = out.mean(dim=1, keepdim=True)
        if self.config.architecture == "skips":
            return clipped(x + out / 2)
        out = (out + 1) / 2
        return clipped(out) if self.config.architecture == "colour" else out

    def forward(self, x: Tensor) -> Tensor:
        """purify(x) = G(E(x)): ``(N, C, H, W)`` float32 in [0, 1] to the same."""
        return self.decode(self.encode(x), x)

    purify = forward


def clipped(x: Tensor) -> Tensor:
    """``x`` inside [0, 1], with a gradient as if it were not clipped."""
    return x + (x.clamp(0, 1) - x).detach()
