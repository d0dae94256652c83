"""``compact``: our small network. Two stride-2 convolutions to a quarter of the size, residual blocks, and a mirror."""

from __future__ import annotations

from torch import nn

from .architecture import Architecture, Sizes
from .layers import CodeShape, Decoder, Encoder, ResidualUnit, TwoHeads, conv_unit


def _encoder(sizes: Sizes) -> Encoder:
    w = sizes.width
    features = nn.Sequential(
        conv_unit(nn.Conv2d(sizes.channels, w, 4, stride=2, padding=1, bias=False), w),
        conv_unit(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1, bias=False), 2 * w),
        *(ResidualUnit(2 * w) for _ in range(sizes.blocks)),
    )
    mean, log_variance = (nn.Conv2d(2 * w, sizes.code_channels, 3, padding=1) for _ in range(2))
    return TwoHeads(features, mean, log_variance)


def _decoder(sizes: Sizes) -> Decoder:
    w = sizes.width
    return Decoder(
        nn.Sequential(
            conv_unit(nn.Conv2d(sizes.code_channels, 2 * w, 3, padding=1, bias=False), 2 * w),
            *(ResidualUnit(2 * w) for _ in range(sizes.blocks)),
            conv_unit(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1, bias=False), w),
            nn.ConvTranspose2d(w, sizes.channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )
    )


def _code_shape(sizes: Sizes) -> CodeShape:
    return (sizes.code_channels, sizes.size // 4, sizes.size // 4)


COMPACT = Architecture(encoder=_encoder, decoder=_decoder, code_shape=_code_shape)
