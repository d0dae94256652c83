"""E and G for photographs of any size.

They work at a half, a quarter and an eighth of the size, and the code has a part of each, so D_A and L_nor reach all
that passes from E to G. The image comes back as x + G(z). No layer computes statistics over the image's area: a pixel
of the answer depends on no pixel further away than 80, and large images can be purified in tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, Sizes
from .layers import CodeShape, Encoder, clipped, convolutional_logits

# Of what a 5x5 mean leaves over, as an input of its own. Noise is a hundredth of the image's range: where E had to find
# it in the image itself, 400 steps on pixels alone lowered the error by 2 %, with this by a third.
_DETAIL_GAIN = 10.0


class _Active(nn.LeakyReLU):
    def __init__(self) -> None:
        super().__init__(0.1)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _Active(), nn.Conv2d(channels, channels, 3, padding=1),
            _Active(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _scales(sizes: Sizes) -> tuple[int, int, int]:
    """Channels at a half, a quarter and an eighth of the size."""
    return (sizes.width, 2 * sizes.width, 4 * sizes.width)


def _code_scales(sizes: Sizes) -> tuple[int, int, int]:
    """Channels of the code at each scale."""
    return (sizes.code_channels // 2, sizes.code_channels, 2 * sizes.code_channels)


def _code_shape(sizes: Sizes) -> CodeShape:
    half, quarter, eighth = _code_scales(sizes)
    return (4 * half + quarter + eighth // 4, sizes.size // 4, sizes.size // 4)


class PhotoEncoder(Encoder):
    """E: an image in [-1, 1], its sides multiples of 8, to mean and log variance ``(N, code channels, H/4, W/4)``."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        half, quarter, eighth = _scales(sizes)
        blocks = range(sizes.blocks)
        self.fine = nn.Sequential(nn.Conv2d(8 * sizes.channels, half, 3, padding=1), *(_Residual(half) for _ in blocks))
        self.middle = nn.Sequential(
            _Active(), nn.Conv2d(half, quarter, 3, stride=2, padding=1), *(_Residual(quarter) for _ in blocks)
        )
        self.coarse = nn.Sequential(
            _Active(), nn.Conv2d(quarter, eighth, 3, stride=2, padding=1), *(_Residual(eighth) for _ in blocks)
        )
        self.active = _Active()
        self.mean, self.log_variance = self._heads(sizes), self._heads(sizes)

    @staticmethod
    def _heads(sizes: Sizes) -> nn.ModuleList:
        return nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(_scales(sizes), _code_scales(sizes), strict=True))

    def _maps(self, x: Tensor) -> list[Tensor]:
        blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, 1)
        half = self.fine(F.pixel_unshuffle(torch.cat([_DETAIL_GAIN * (x - blurred), x], 1), 2))
        quarter = self.middle(half)
        return [self.active(found) for found in (half, quarter, self.coarse(quarter))]

    @staticmethod
    def _code(heads: nn.ModuleList, maps: list[Tensor]) -> Tensor:
        half, quarter, eighth = (head(found) for head, found in zip(heads, maps, strict=True))
        return torch.cat([F.pixel_unshuffle(half, 2), quarter, F.pixel_shuffle(eighth, 2)], 1)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(mu, log sigma^2)`` of the code."""
        maps = self._maps(x)
        return self._code(self.mean, maps), self._code(self.log_variance, maps)

    def forward(self, x: Tensor) -> Tensor:
        """Mu alone."""
        return self._code(self.mean, self._maps(x))


class PhotoDecoder(nn.Module):
    """G: the code to twice the change of the image given."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        half, quarter, eighth = _scales(sizes)
        self.given = _code_scales(sizes)
        of_half, of_quarter, of_eighth = self.given
        blocks = range(sizes.blocks)
        self.coarse = nn.Sequential(
            nn.Conv2d(of_eighth, eighth, 1), *(_Residual(eighth) for _ in blocks), _Active(),
            nn.Conv2d(eighth, 4 * quarter, 1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.of_middle = nn.Conv2d(of_quarter, quarter, 1)
        self.middle = nn.Sequential(
            *(_Residual(quarter) for _ in blocks), _Active(), nn.Conv2d(quarter, 4 * half, 1), nn.PixelShuffle(2)
        )
        self.of_fine = nn.Conv2d(of_half, half, 1)
        self.fine = nn.Sequential(
            *(_Residual(half) for _ in blocks), _Active(), nn.Conv2d(half, 4 * sizes.channels, 3, padding=1),
            nn.PixelShuffle(2),
        )  # fmt: skip
        for parameter in self.fine[-2].parameters():  # the identity, until it has learned what to add
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """``(N, code channels, H/4, W/4)`` to ``(N, C, H, W)``."""
        of_half, of_quarter, of_eighth = self.given
        half, quarter, eighth = z.split([4 * of_half, of_quarter, of_eighth // 4], 1)
        out = self.coarse(F.pixel_unshuffle(eighth, 2)) + self.of_middle(quarter)
        out = self.middle(out) + self.of_fine(F.pixel_shuffle(half, 2))
        restored: Tensor = self.fine(out)
        return restored


PHOTO = Architecture(
    encoder=PhotoEncoder,
    decoder=PhotoDecoder,
    code_shape=_code_shape,
    answer=lambda x, out: clipped(x + out / 2),
    discriminator=convolutional_logits,
    preset=(16, 16, 1),
    multiple=8,
    reach=80,
)
