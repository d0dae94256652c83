"""Which loaded purifier takes an image. Pure decisions over cards: no engine, no queue, no bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

from arn_purify.models import Card, any_size

from ..errors import UnknownModel, WrongSize

Sizes = Literal["evaluated", "any"]


def takes(card: Card, size: tuple[int, ...], channels: int | None = None, sizes: Sizes = "evaluated") -> bool:
    """Whether a purifier takes images of (height, width), and of so many channels where they are fixed.

    With ``sizes="any"`` another size than the evaluated one will do, where the network can take it.
    """
    if not any(card.input_shape):
        return True
    fits = tuple(size) == card.input_shape[1:] or (sizes == "any" and any_size(card))
    return fits and channels in (None, card.input_shape[0])


class DecodePlan(NamedTuple):
    """The model that an image goes to, its number of channels, and the (height, width) to resample to, if any."""

    model: str
    channels: int
    resize_to: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Selection:
    """How one request selects purifiers.

    Args:
        cards: the loaded purifiers, in the order in which they are tried.
        sizes: the sizes that are taken.
        wanted: the name that the request asks for; None takes the first that fits.
        resize: an image that no purifier takes is resampled.
        channels: by (height, width), the channels to decode to where a purifier takes any number of them.
    """

    cards: tuple[Card, ...]
    sizes: Sizes = "evaluated"
    wanted: str | None = None
    resize: bool = False
    channels: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)

    def choose(self, size: tuple[int, ...], channels: int | None = None, resample_to: int = 0) -> Card:
        """The card of the model asked for, or of the first that takes (height, width).

        Args:
            size: height and width.
            channels: how many the images have, where that cannot be changed.
            resample_to: an image that none takes may be resampled, best for a model of so many channels.

        Raises:
            UnknownModel: ``wanted`` names none that is loaded.
            WrongSize: no model takes the size; the sentence names those that are taken.
        """
        cards = [card for card in self.cards if self.wanted in (None, card.name)]
        if not cards:
            loaded = ", ".join(card.name for card in self.cards)
            raise UnknownModel(f"no model {self.wanted!r} is loaded: {loaded}")
        for card in cards:
            if takes(card, size, channels):
                return card
        if resample_to:
            return next((card for card in cards if card.input_shape[0] == resample_to), cards[0])
        for card in cards:
            if takes(card, size, channels, self.sizes):
                return card
        sizes = ", ".join(
            f"{c.name} {c.input_shape[2]}x{c.input_shape[1]} with {c.input_shape[0]} channel(s)" for c in cards
        )
        given = f"{size[1]}x{size[0]}" + (f" with {channels} channel(s)" if channels is not None else "")
        hint = "" if channels is not None else "; ?resize=true resamples"
        raise WrongSize(f"no model takes {given}: {sizes}{hint}")

    def plan(self, size: tuple[int, int], shown_channels: int) -> DecodePlan:
        """How to decode an image of (height, width) that ``shown_channels`` are enough to show.

        Raises:
            UnknownModel, WrongSize: as :meth:`choose` says.
        """
        card = self.choose(size, resample_to=shown_channels if self.resize else 0)
        fixed, height, width = card.input_shape
        channels = fixed or self.channels.get(size) or shown_channels
        return DecodePlan(card.name, channels, (height, width) if self.resize and height else None)
