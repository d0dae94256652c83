"""The wire formats of model servers, one module each: find the images in a request, put them back. No I/O, no model.

Whatever is not an image stays as it came, byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BrokenBody

Numbers = NDArray[Any]
Images = Numbers | bytes
"""A numeric tensor as it was sent, or the bytes of one encoded image."""

# Values, elements, inputs or parts of one request that are looked at one by one; a body of millions of empty ones would
# take minutes and gigabytes. A full queue of images is far less.
MAX_PLACES = 2**16
# Axes of a tensor. A list of numbers that stands for a shape is multiplied together without giving the others a turn.
_MAX_AXES = 32

_MAGICS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
_BASE64_MAGICS = ("iVBORw0KGgo", "/9j/", "UklGR", "Qk")


@dataclasses.dataclass(frozen=True)
class Message:
    """A body and the headers that belong to it, by lower-case name."""

    body: bytes | bytearray
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A place in a request that may hold images; places of one name stand or fall together.

    ``images`` is None for what is neither numbers nor bytes. ``typed``: the protocol said what type the numbers are.
    ``raw``: bytes of a tensor whose type and shape are the model's own affair.
    """

    name: str
    images: Images | None
    typed: bool = True
    raw: bool = False


@dataclasses.dataclass(frozen=True)
class ParsedRequest:
    """The slots of a request, and how to write others in their place (by their index; the rest stay)."""

    slots: Sequence[Slot]
    replace_images: Callable[[Mapping[int, Images]], Message]


def shaped(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """The shape of an input as it was sent.

    Raises:
        BrokenBody: too many axes, or extents that are no counts.
    """
    if len(shape) > _MAX_AXES or not all(type(extent) is int and 0 <= extent < 2**63 for extent in shape):
        raise BrokenBody(f"input {name!r}: its shape is not made of at most {_MAX_AXES} counts")
    return tuple(shape)


def is_encoded_image(data: bytes | bytearray) -> bool:
    """Whether bytes begin as one of the image formats that are decoded here."""
    return data.startswith(_MAGICS) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def from_base64(text: Any) -> bytes | None:
    """The bytes in a base64 string that may be an encoded image; None for any other value."""
    if not isinstance(text, str) or not text.startswith(_BASE64_MAGICS):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def numbers(value: Any) -> Numbers | None:
    """Nested lists as an array; None where they are no rectangular tensor of numbers of two or more dimensions."""
    if not isinstance(value, list) or not value:
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # ragged, or an integer that no dtype holds
        return None
    return array if array.dtype.kind in "iuf" and array.size else None
