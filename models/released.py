"""``released``: the authors' MNIST network as their code has it. It takes 28x28 images alone, and has one width."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from .architecture import Architecture, Sizes
from .layers import Decoder, TwoHeads, conv_unit, dense_logits, from_tanh


class ReleasedEncoder(TwoHeads):
    """E of three channels; a grey image is seen three times over."""

    def __init__(self, _: Sizes) -> None:
        # Kernels 4, 2, 4, 4 as tabled from the authors' code: 28-14-8-4-2, then two k4 heads to 1x1.
        widths, kernels = (3, 128, 256, 512, 1024), (4, 2, 4, 4)
        features = nn.Sequential(
            *(
                conv_unit(nn.Conv2d(i, o, k, stride=2, padding=1, bias=False), o)
                for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
            )
        )
        mean, log_variance = (nn.Conv2d(1024, 2048, 4, stride=2, padding=1) for _ in range(2))
        super().__init__(features, mean, log_variance)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(N, 1 or 3, 28, 28)`` in [-1, 1] to ``(mu, log sigma^2)``, each ``(N, 2048, 1, 1)``."""
        return super().distribution(x.expand(-1, 3, -1, -1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1 or 3, 28, 28)`` in [-1, 1] to mu alone, ``(N, 2048, 1, 1)``."""
        return super().forward(x.expand(-1, 3, -1, -1))


def _decoder(_: Sizes) -> Decoder:
    # 1-2-4-8-14-28: the k2 layer mirrors the encoder's.
    widths, kernels = (2048, 1024, 512, 256, 128), (4, 4, 4, 2)
    return Decoder(
        nn.Sequential(
            *(
                conv_unit(nn.ConvTranspose2d(i, o, k, stride=2, padding=1, bias=False), o)
                for i, o, k in zip(widths[:-1], widths[1:], kernels, strict=True)
            ),
            nn.ConvTranspose2d(128, 3, 4, stride=2, padding=1),
            nn.Tanh(),
        )
    )


def _answer(x: Tensor, out: Tensor) -> Tensor:
    """A grey image is the mean of the three channels."""
    return from_tanh(x, out.mean(dim=1, keepdim=True) if x.shape[1] == 1 else out)


RELEASED = Architecture(
    encoder=ReleasedEncoder,
    decoder=_decoder,
    code_shape=lambda _: (2048, 1, 1),
    answer=_answer,
    discriminator=functools.partial(dense_logits, hidden=(1024, 256, 64)),
    only_size=28,
)
