"""A batch in pieces that the device's memory holds, and how large they may be at present."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from .codec import Images
from .engine import Purified

logger = logging.getLogger(__name__)

# How long batches stay at the size that fitted into memory before a full one is tried again.
_SECONDS_HALVED = 60.0


class Pieces:
    """Runs batches of any size.

    Args:
        max_images: most images in a piece.
        on_halved: called for every piece that did not fit into memory.
    """

    def __init__(self, max_images: int, on_halved: Callable[[], object]) -> None:
        self._max_images, self._on_halved = max_images, on_halved
        self._halved: dict[tuple[object, ...], tuple[int, float]] = {}  # a batch's key -> most images, until when

    def most(self, key: tuple[object, ...]) -> int:
        """Most images in a piece of a batch of this kind."""
        images, until = self._halved.get(key, (self._max_images, math.inf))
        return images if time.monotonic() < until else self._max_images

    def run(
        self,
        key: tuple[object, ...],
        images: Images,
        run: Callable[[Images], Purified],
        abandoned: Callable[[], bool],
    ) -> Purified:
        """The results of ``run`` for each piece, joined; pieces that raise ``MemoryError`` are halved.

        Once ``abandoned``, nothing more is run, and there are fewer results than images.

        Raises:
            MemoryError: one image does not fit.
        """
        most, halved = self.most(key), False
        pieces: list[Purified] = []
        start = 0
        while start < len(images):
            if pieces and abandoned():
                break
            piece = images[start : start + most]
            try:
                pieces.append(run(piece))
            except MemoryError:
                if len(piece) == 1:
                    raise
                most, halved = len(piece) // 2, True
                self._on_halved()
                continue  # after this block, where the error no longer keeps the device's memory allocated
            start += len(piece)
            if halved:
                halved = False
                self._remember(key, most)
        return Purified.join(pieces)

    def _remember(self, key: tuple[object, ...], most: int) -> None:
        """Keep batches at the size that worked for a while."""
        now = time.monotonic()
        halved = {k: v for k, v in self._halved.items() if v[1] > now}
        if key not in halved:
            logger.warning("memory holds %d images of %s and no more: smaller batches for a while", most, key[-1])
        self._halved = halved | {key: (most, now + _SECONDS_HALVED)}


def checked(result: Purified, images: Images) -> Purified:
    """The result, which must have one answer for each image; raises ``RuntimeError`` otherwise."""
    if len(result) != len(images):
        raise RuntimeError(f"{len(images)} images went in, {len(result)} came out")
    return result
