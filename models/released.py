"""``released``: the authors' MNIST network as their code has it, for 28x28 images alone.

At width 32 and 32 code channels it is theirs: 128 to 1024 channels and a code of 2048. Less of both makes it thinner.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn

from .architecture import Architecture, Sizes
from .layers import CodeShape, Decoder, TwoHeads, conv_unit, dense_logits, from_tanh


def _code_shape(sizes: Sizes) -> CodeShape:
    return (64 * sizes.code_channels, 1, 1)


class ReleasedEncoder(TwoHeads):
    """E of three channels; a grey image is seen three times over."""

    def __init__(self, sizes: Sizes) -> None:
        # Kernels 4, 2, 4, 4 as tabled from the authors' code: 28-14-8-4-2, then two k4 heads to 1x1.
        w, kernels = sizes.width, (4, 2, 4, 4)
        widths = (3, 4 * w, 8 * w, 16 * w, 32 * w)
        features = nn.Sequential(
            *(
                conv_unit(nn.Conv2d(i, o, k, stride=2, padding=1, bias=False), o)
                for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
            )
        )
        code = _code_shape(sizes)[0]
        mean, log_variance = (nn.Conv2d(32 * w, code, 4, stride=2, padding=1) for _ in range(2))
        super().__init__(features, mean, log_variance)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 1 or 3, 28, 28)`` in [-1, 1] to ``(mu, log sigma^2)``, each ``(N, *code_shape)``."""
        return super().distribution(x.expand(-1, 3, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1 or 3, 28, 28)`` in [-1, 1] to mu alone, ``(N, *code_shape)``."""
        return super().forward(x.expand(-1, 3, -1, -1))


def _decoder(sizes: Sizes) -> Decoder:
    # 1-2-4-8-14-28: the k2 layer mirrors the encoder's.
    w, kernels = sizes.width, (4, 4, 4, 2)
    widths = (_code_shape(sizes)[0], 32 * w, 16 * w, 8 * w, 4 * w)
    return Decoder(
        nn.Sequential(
            *(
                conv_unit(nn.ConvTranspose2d(i, o, k, stride=2, padding=1, bias=False), o)
                for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
            ),
            nn.ConvTranspose2d(4 * w, 3, 4, stride=2, padding=1),
            nn.Tanh(),
        )
    )


def _answer(x: Tensor, out: Tensor) -> Tensor:
    """A grey image is the mean of the three channels."""
    return from_tanh(x, out.mean(dim=1, keepdim=True) if x.shape[1] == 1 else out)


RELEASED = Architecture(
    encoder=ReleasedEncoder,
    decoder=_decoder,
    code_shape=_code_shape,
    answer=_answer,
    discriminator=functools.partial(dense_logits, hidden=(1024, 256, 64)),
    only_size=28,
)
