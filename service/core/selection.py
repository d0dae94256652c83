"""Which loaded purifier takes an image. Pure decisions over cards: no engine, no queue, no bytes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from arn_purify.models import SMALLEST_PHOTOGRAPH, Card, any_size, for_photographs

from ..errors import NoClassifier, UnknownModel, WrongSize, shown
from .fit import Fit

Sizes = Literal["evaluated", "any"]


def takes(card: Card, size: tuple[int, ...], channels: int | None = None, sizes: Sizes = "evaluated") -> bool:
    """Whether a purifier takes images of (height, width), and of so many channels where they are fixed.

    One of photographs takes all that are no smaller than they are. With ``sizes="any"`` another size than the evaluated
    one will do for the others too, where the network can take it.
    """
    if takes_exactly(card, size, channels):
        return True
    other = (sizes == "any" and any_size(card)) or (min(size) >= SMALLEST_PHOTOGRAPH and for_photographs(card))
    return other and channels in (None, card.input_shape[0])


def takes_exactly(card: Card, size: tuple[int, ...], channels: int | None = None) -> bool:
    """Whether a purifier was evaluated at this size, or takes any image."""
    if not any(card.input_shape):
        return True
    return tuple(size) == card.input_shape[1:] and channels in (None, card.input_shape[0])


def is_classifier_of(classifier: Card, purifier: Card) -> bool:
    """Whether a classifier was trained on the purifier's data set: another tells other things apart.

    A purifier without a data set, which is ``identity``, changes no image and has any classifier.
    """
    if not purifier.dataset:
        return True
    names = classifier.class_names, purifier.class_names  # two folders of users' own images differ in these
    return classifier.dataset == purifier.dataset and (not all(names) or names[0] == names[1])


def choose_classifier(classifiers: Iterable[Card], purifier: Card, shape: tuple[int, ...]) -> Card:
    """The classifier of a purifier for its images of shape (C, H, W).

    Raises:
        NoClassifier: none, or more than one, was trained on its data set.
        WrongSize: those that were take another shape.
    """
    cards = list(classifiers)
    own = [card for card in cards if is_classifier_of(card, purifier)]
    if not own:
        loaded = ", ".join(f"{card.name} ({card.dataset})" for card in cards) or "none"
        wanted = f"classifier of {purifier.dataset}" if purifier.dataset else "classifier"
        raise NoClassifier(f"no {wanted} is embedded for {purifier.name}: {loaded} loaded")
    fitting = [card for card in own if card.input_shape == shape]
    if not fitting:
        known = " or ".join(str(card.input_shape) for card in own)
        raise WrongSize(f"the embedded classifiers take {known} (C, H, W), the images are {shape}")
    if len(fitting) > 1:
        names = " and ".join(card.name for card in fitting)
        raise NoClassifier(f"{purifier.name} has no data set that chooses between the classifiers {names}")
    return fitting[0]


def sizes_of_classifiers(classifiers: Iterable[Card], purifiers: Iterable[Card]) -> dict[str, tuple[int, int]]:
    """By the name of each purifier of photographs that has one classifier, the (height, width) which that one takes."""
    cards, found = list(classifiers), {}
    for purifier in filter(for_photographs, purifiers) if cards else ():
        own = {card.input_shape[1:] for card in cards if is_classifier_of(card, purifier)}
        if len(own) == 1:
            found[purifier.name] = own.pop()
    return found


class Target(NamedTuple):
    """The model that an image goes to, its number of channels, and the (height, width) to bring it to, if any."""

    model: str
    channels: int
    resize_to: tuple[int, int] | None = None
    fit: Fit = "crop"


class DecodePlan(NamedTuple):
    """How to decode an image: as ``colour`` says, or as ``grey`` where no pixel has a colour.

    An image that was saved in colour may show none; only its pixels tell. Where both are the same, ``grey`` is None.
    ``colour`` is None where only grey images are taken; ``refusal`` says why.
    """

    colour: Target | None
    grey: Target | None = None
    refusal: str = ""

    def settled(self, has_colour: bool) -> Target:
        """The one that applies.

        Raises:
            WrongSize: the image has colours, and no model takes them.
        """
        chosen = self.colour if has_colour or self.grey is None else self.grey
        if chosen is None:
            raise WrongSize(self.refusal)
        return chosen


@dataclasses.dataclass(frozen=True)
class Selection:
    """How one request selects purifiers.

    A model of one channel takes a colour image only where ``wanted`` names it.

    Args:
        cards: the loaded purifiers, in the order in which they are tried.
        sizes: the sizes that are taken.
        wanted: the name that the request asks for; None takes the first that fits.
        fit: an image is brought to the size that its purifier was evaluated at; None refuses one of another size,
            unless the purifier takes any.
        channels: by (height, width), the channels to decode to where a purifier takes any number of them.
        hint: what a refusal for an image's size ends with.
        classified: by the name of a purifier of photographs, the (height, width) to bring an image to before it is
            purified: that of the classifier which is to see it.
    """

    cards: tuple[Card, ...]
    sizes: Sizes = "evaluated"
    wanted: str | None = None
    fit: Fit | None = None
    channels: Mapping[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    hint: str = ""
    classified: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def choose(self, size: tuple[int, ...], channels: int | None = None) -> Card:
        """The card of the model asked for, or of the first that takes (height, width).

        Args:
            size: height and width.
            channels: how many the images have, where that cannot be changed.

        Raises:
            UnknownModel: ``wanted`` names none that is loaded.
            WrongSize: no model takes the size; the sentence names those that are taken.
        """
        cards = self._cards()
        ways: tuple[Callable[..., bool], ...] = takes_exactly, takes, functools.partial(takes, sizes=self.sizes)
        for way in ways:
            for card in cards:
                if way(card, size, channels):
                    return card
        raise WrongSize(self._refusal(size, channels))

    def plan(self, size: tuple[int, int], shown_channels: int) -> DecodePlan:
        """How to decode an image of (height, width) that ``shown_channels`` are enough to show.

        Raises:
            UnknownModel, WrongSize: as :meth:`choose` says.
        """
        grey = self._first(size, 1)
        colour = self._first(size, 3) if shown_channels == 3 else None
        if shown_channels == 1:
            if grey is None:
                raise WrongSize(self._refusal(size))
            return DecodePlan(grey)
        if colour is None and grey is None:
            raise WrongSize(self._refusal(size))
        if colour is None:
            assert grey is not None
            refusal = f"the image is in colour, and {grey.model} takes grey ones; ?model={grey.model} makes it grey"
            return DecodePlan(None, grey, refusal if self.hint else refusal.partition(";")[0])
        return DecodePlan(colour, None if grey in (None, colour) else grey)

    def _first(self, size: tuple[int, int], channels: int) -> Target | None:
        """How to decode an image that has colours (``channels`` 3), or none (1), for the first model that takes it."""
        for card, resized in self._candidates(size, channels):
            fixed, height, width = card.input_shape
            wide = fixed or self.channels.get(size) or channels
            if wide >= channels or self.wanted:
                own = self.classified.get(card.name) or ((height, width) if resized else size)
                return Target(card.name, wide, None if own == size else own, self.fit or "crop")
        return None

    def _candidates(self, size: tuple[int, int], channels: int) -> Iterator[tuple[Card, bool]]:
        """The models that take the size, the best first, and whether the image is to be resampled for them."""
        cards = self._cards()
        alike = [card for card in cards if card.input_shape[0] == channels]
        yield from ((card, False) for card in cards if takes_exactly(card, size))
        yield from ((card, bool(self.fit) and for_photographs(card)) for card in cards if takes(card, size))
        if self.fit:
            yield from ((card, bool(card.input_shape[1])) for card in (*alike, *cards))
        elif self.sizes == "any":
            yield from ((card, False) for card in (*alike, *cards) if takes(card, size, sizes="any"))

    def _cards(self) -> list[Card]:
        cards = [card for card in self.cards if self.wanted in (None, card.name)]
        if not cards:
            loaded = ", ".join(card.name for card in self.cards)
            raise UnknownModel(f"no model {shown(self.wanted)} is loaded: {loaded}")
        return cards

    def _refusal(self, size: tuple[int, ...], channels: int | None = None) -> str:
        taken = ", ".join(map(_sizes_of, self._cards()))
        given = f"{size[1]}x{size[0]}" + (f" with {channels} channel(s)" if channels is not None else "")
        return f"no model takes {given}: {taken}{'' if channels is not None else self.hint}"


def _sizes_of(card: Card) -> str:
    channels, height, width = card.input_shape
    larger = f" and from {SMALLEST_PHOTOGRAPH}x{SMALLEST_PHOTOGRAPH} up" if for_photographs(card) else ""
    return f"{card.name} {width}x{height}{larger} with {channels} channel(s)"
