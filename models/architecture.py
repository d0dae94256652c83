"""What one architecture of the network brings: its two halves, its answer, and the shape of its code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor, nn

from .layers import CodeShape, Encoder, dense_logits, from_tanh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that a network is built from; :class:`~arn_purify.models.ArnConfig` says what each means."""

    channels: int = 1
    size: int = 28
    width: int = 32
    code_channels: int = 32
    blocks: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of ``ARCHITECTURES`` in :mod:`arn_purify.models.config`, made by the architecture's own module.

    Args:
        encoder: builds E.
        decoder: builds G, from a code ``(N, *code_shape)`` to ``(N, C, H, W)``.
        code_shape: shape (channels, height, width) of the code at the trained size.
        answer: ``(x, G(z))``, both ``(N, C, H, W)`` and ``x`` in [0, 1], to the restored image in [0, 1].
            It must be differentiable.
        discriminator: ``(code_shape, domains)`` to the layers of D_A, which give logits ``(N, domains)``.
        preset: width, code channels and blocks that it is meant to have.
        multiple: E needs sides that are multiples of this; other images are padded and cropped back.
        reach: a pixel of the answer depends on none further away than this, a multiple of ``multiple``, so that large
            images can be purified in tiles; None where it may depend on all of them.
        only_size: the one height and width in pixels that it takes; None for any.
    """

    encoder: Callable[[Sizes], Encoder]
    decoder: Callable[[Sizes], nn.Module]
    code_shape: Callable[[Sizes], CodeShape]
    answer: Callable[[Tensor, Tensor], Tensor] = from_tanh
    discriminator: Callable[[CodeShape, int], nn.Sequential] = dense_logits
    preset: tuple[int, int, int] = (32, 32, 1)
    multiple: int = 4
    reach: int | None = None
    only_size: int | None = None
