"""The adversarial noise removing network of Zhou et al., ICML 2021: purify(x) = G(E(x)).

Public tensors are ``(N, C, H, W)`` float32 in [0, 1]. Inside, images live in [-1, 1] as the paper's Tanh output does.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ArnConfig

TILE = 1024
"""Height and width of a tile in pixels, without what it shares with its neighbours."""


class Arn(nn.Module):
    """The adversarial noise removing network. ``forward`` is pure, differentiable and, in eval mode, deterministic.

    >>> purified = Arn(ArnConfig()).eval()(torch.rand(2, 1, 28, 28))
    """

    def __init__(self, config: ArnConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.parts.encoder(config)
        self.decoder = config.parts.decoder(config)

    def encode_distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, C, H, W)`` in [0, 1] to ``(mu, log sigma^2)`` of the code, each ``(N, *code_shape)``."""
        return self.encoder.distribution(self._for_encoder(x))

    def encode(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to the features ``(N, *code_shape)``: the mean, never a sample."""
        out: Tensor = self.encoder(self._for_encoder(x))
        return out

    def _for_encoder(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.config.channels:
            raise ValueError(f"expected (N, {self.config.channels}, H, W), got {tuple(x.shape)}")
        multiple = self.config.parts.multiple
        below, right = -x.shape[2] % multiple, -x.shape[3] % multiple
        if (below or right) and self.config.any_size:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        return 2 * x - 1

    def decode(self, z: Tensor, x: Tensor) -> Tensor:
        """``(N, *code_shape)`` to the restored image ``(N, C, H, W)`` in [0, 1].

        ``x`` is the image that was encoded: its size is the answer's, and some architectures add to it.
        """
        return self.config.parts.answer(x, self.decoder(z)[..., : x.shape[2], : x.shape[3]])

    def forward(self, x: Tensor) -> Tensor:
        """purify(x) = G(E(x)): ``(N, C, H, W)`` float32 in [0, 1] to the same.

        Without gradients an image of more than :data:`TILE` pixels a side is purified in tiles where the architecture
        allows it, in bounded memory and to the same bits.
        """
        # Not every layer passes an empty batch on. An exported program has a symbol in the place of its length.
        if not torch.compiler.is_compiling() and not len(x):
            return x.clone()
        if self.config.parts.reach is None or torch.is_grad_enabled() or max(x.shape[2:]) <= TILE:
            return self.decode(self.encode(x), x)
        return self._in_tiles(x, self.config.parts.reach)

    def _in_tiles(self, x: Tensor, reach: int) -> Tensor:
        purified = torch.empty_like(x)
        height, width = x.shape[2:]
        for top, left in itertools.product(range(0, height, TILE), range(0, width, TILE)):
            above, before = min(top, reach), min(left, reach)
            tile = x[..., top - above : top + TILE + reach, left - before : left + TILE + reach]
            done = self.decode(self.encode(tile), tile)[..., above : above + TILE, before : before + TILE]
            purified[..., top : top + TILE, left : left + TILE] = done
        return purified

    purify = forward
