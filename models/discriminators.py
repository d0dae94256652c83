"""The two adversaries of ARN's training: D_A guesses the attack from the code, D_I the origin from the image."""

from __future__ import annotations

from torch import Tensor, nn

from .baselines import HgdConfig
from .config import ArnConfig


class AttackDiscriminator(nn.Module):
    """D_A (Eq. 1): which of ``domains`` attacks (natural is one) produced a code. Answers logits ``(N, domains)``."""

    def __init__(self, config: ArnConfig, domains: int) -> None:
        super().__init__()
        self.layers = config.parts.discriminator(config.code_shape, domains)

    def forward(self, z: Tensor) -> Tensor:
        """``(N, *code_shape)`` to logits ``(N, domains)``."""
        out: Tensor = self.layers(z)
        return out


class ImageDiscriminator(nn.Module):
    """D_I (Eq. 5): natural or synthesised. Takes images in [0, 1], answers one logit each, ``(N,)``."""

    def __init__(self, config: ArnConfig | HgdConfig) -> None:
        super().__init__()
        widths, kernels = (config.channels, 32, 64, 128, 256), (4, 2, 4, 4)
        self.layers = nn.Sequential()
        side = config.size
        for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True):
            self.layers.append(nn.Conv2d(i, o, k, stride=2, padding=1))
            self.layers.append(nn.LeakyReLU(0.2))
            side = (side + 2 - k) // 2 + 1
        self.layers.extend([nn.Flatten(), nn.Linear(256 * side * side, 512), nn.LeakyReLU(0.2), nn.Linear(512, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] to logits ``(N,)``; positive means natural."""
        out: Tensor = self.layers(2 * x - 1)
        return out.squeeze(1)
