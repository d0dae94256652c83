"""Every architecture by name, and the configuration that rebuilds a network."""

from __future__ import annotations

import dataclasses

from .architecture import Architecture, Sizes
from .colour import COLOUR, SKIPS
from .compact import COMPACT
from .layers import CodeShape
from .photo import PHOTO
from .released import RELEASED

ARCHITECTURES: dict[str, Architecture] = {
    "compact": COMPACT,
    "released": RELEASED,
    "colour": COLOUR,
    "skips": SKIPS,
    "photo": PHOTO,
}
"""To add an architecture, write one module that makes an :class:`~arn_purify.models.architecture.Architecture` (its
encoder, its decoder, the shape of its code, how its answer is made from (x, G(z))), and add one row here. Its name is
then an ``ArnConfig.architecture`` and an ``arn-train train --arch``; checkpoints and the discriminators follow. Such a
module imports ``architecture`` and ``layers``, never this one. ``compact.py`` is the shortest example."""


@dataclasses.dataclass(frozen=True)
class ArnConfig(Sizes):
    """What rebuilds an :class:`~arn_purify.models.Arn`.

    Args:
        architecture: ``compact`` (ours), ``released`` (the authors' MNIST network; 28x28 only), ``colour`` and
            ``skips`` (ours for larger images; :mod:`arn_purify.models.colour`), ``photo`` (ours for photographs;
            :mod:`arn_purify.models.photo`).
        channels: colour channels C of the images taken and given back.
        size: height and width in pixels that the network is trained and evaluated at; ours take any other too.
        width: channels of the first stride-2 stage of ``compact``, a quarter of them in ``released``, doubled at each
            next; of the others at full size.
        code_channels: channels of the code: of ``compact`` at a quarter of the size, of ``released`` a 64th of them, of
            the others at half size.
        blocks: residual blocks on each side of the code of ``compact``; of the others, at quarter size.

    Raises:
        ValueError: an unknown architecture, or sizes that it cannot have.
    """

    architecture: str = "compact"

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}: {', '.join(ARCHITECTURES)}")
        only, multiple = self.parts.only_size, self.parts.multiple
        if only not in (None, self.size):
            raise ValueError(f"the {self.architecture} network takes {only}x{only}, not {self.size}x{self.size}")
        if min(self.width, self.code_channels) < 1 or self.blocks < 0:
            raise ValueError(f"width {self.width}, {self.code_channels} code channels, {self.blocks} blocks: too few")
        if self.size % multiple:
            raise ValueError(f"{self.architecture} halves its images: size must be a multiple of {multiple}, "
                             f"not {self.size}")  # fmt: skip

    @classmethod
    def preset(cls, architecture: str, channels: int, size: int) -> ArnConfig:
        """An architecture at the widths that it is meant to have."""
        default = ARCHITECTURES.get(architecture, COMPACT)
        width, code_channels, blocks = default.preset
        return cls(
            architecture, channels=channels, size=size, width=width, code_channels=code_channels, blocks=blocks
        )  # fmt: skip

    @property
    def parts(self) -> Architecture:
        """What the architecture brings."""
        return ARCHITECTURES[self.architecture]

    @property
    def any_size(self) -> bool:
        """Whether the network takes images of other sizes than the one that it was trained at."""
        return self.parts.only_size is None

    @property
    def in_tiles(self) -> bool:
        """Whether large images are purified in tiles, to the same bits as in one piece."""
        return self.parts.reach is not None

    @property
    def code_shape(self) -> CodeShape:
        """Shape (channels, height, width) of the attack-invariant features."""
        return self.parts.code_shape(self)
