"""The adversarial noise removing network of Zhou et al., ICML 2021: purify(x) = G(E(x)).

Public tensors are ``(N, C, H, W)`` float32 in [0, 1]. Inside, images live in [-1, 1] as the paper's Tanh output does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .config import ArnConfig


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
        """purify(x) = G(E(x)): ``(N, C, H, W)`` float32 in [0, 1] to the same."""
        return self.decode(self.encode(x), x)

    purify = forward
