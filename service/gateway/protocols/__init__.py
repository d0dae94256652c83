"""The wire formats of model servers, one module each: find the values in a request, put images back. No I/O, no model.

Whatever is not replaced stays as it came, byte for byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import BrokenBody, shown
from .spelling import Numbers, Value

__all__ = ["MAX_PLACES", "Message", "Numbers", "ParsedRequest", "Reserve", "Slot", "Value", "shaped", "unlimited"]

# Values, elements, inputs or parts of one request that are looked at one by one; a body of millions of empty ones would
# take minutes and gigabytes. A full queue of images is far less.
MAX_PLACES = 2**16
_LONGEST_NAME = 1024
# Axes of a tensor. A list of numbers that stands for a shape is multiplied together without giving the others a turn.
_MAX_AXES = 32

Reserve = Callable[[int], object]
"""Reserves so many bytes of memory until the request ends."""


def unlimited(size: int) -> None:
    """Reserves nothing."""


@dataclasses.dataclass(frozen=True)
class Message:
    """A body and the headers that belong to it, by lower-case name.

    ``reserve`` is told of memory before it is taken, in bytes beside those of the body; it may raise, which ends all.
    """

    body: bytes | bytearray
    headers: Mapping[str, str]
    reserve: Reserve = dataclasses.field(default=unlimited, compare=False)


@dataclasses.dataclass(frozen=True)
class Slot:
    """A value of a request, which may hold images; values of one name stand or fall together.

    Args:
        name: of the input, the member or the part.
        value: numbers, bytes or text; None where it is neither, or cannot be read.
        reason: why ``value`` cannot be read, or cannot be replaced.
        shape: of a tensor that cannot be read.
        typed: the protocol says what type the numbers are.
        raw: bytes of a tensor whose type and shape are the model's own affair.
        declared: the client says that it is an image.
    """

    name: str
    value: Value | None
    reason: str = ""
    shape: tuple[int, ...] = ()
    typed: bool = True
    raw: bool = False
    declared: bool = False

    def __post_init__(self) -> None:
        """Raises ``BrokenBody`` for a name that no input has."""
        if len(self.name) > _LONGEST_NAME:
            raise BrokenBody(f"the name {shown(self.name)} has more than {_LONGEST_NAME} characters")


@dataclasses.dataclass(frozen=True)
class ParsedRequest:
    """The slots of a request, and how to write other values in their place (by their index; the rest stay).

    A new value has the type of the old one; of a tensor, the shape may be another. ``model`` is the one that the
    request is for, where its body names it.
    """

    slots: Sequence[Slot]
    replace_images: Callable[[Mapping[int, Value]], Message]
    model: str = ""


def shaped(name: str, shape: Sequence[Any] | Numbers) -> tuple[int, ...]:
    """The shape of an input as it was sent.

    Raises:
        BrokenBody: too many axes, or extents that are no counts.
    """
    if len(shape) <= _MAX_AXES:  # the list that is made of a long array would take many times its memory
        extents = shape.tolist() if isinstance(shape, np.ndarray) else list(shape)
        if all(type(extent) is int and 0 <= extent < 2**63 for extent in extents):
            return tuple(extents)
    raise BrokenBody(f"input {shown(name)}: its shape is not made of at most {_MAX_AXES} counts")
