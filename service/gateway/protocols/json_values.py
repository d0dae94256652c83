"""The values in a JSON text that may be images: strings, and nested lists of numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from ...errors import BrokenBody, shown
from . import MAX_PLACES, Numbers, Slot, Value
from .formats import HEAD_BYTES, format_of
from .json_text import Node
from .spelling import read

_QUOTED = re.compile(r"\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*")
UNNAMED = "(empty)"
"""The name of a member whose key is empty; without any are the elements of an array."""
_UNEVEN = "its lists have different lengths, or hold something that is no number"
_AMONG = "it stands in a list of other values, where it cannot be replaced"


def scan(text: str, name: str, node: Node | None) -> Iterator[tuple[Node, Slot]]:
    """The values at and below a node, each under the nearest member's name; ``{"b64": ...}`` is one value."""
    if node is None:
        return
    if node.members is not None and list(node.members) == ["b64"]:
        yield from scan(text, name, node.members["b64"])
    elif node.members is not None:
        if name:
            yield node, Slot(name, None)  # an object under an input's name is no image, whatever it holds
        for key, member in node.members.items():
            yield from scan(text, key or UNNAMED, member)
    elif node.elements is not None:
        if shape := _quoted_shape(node):
            yield node, Slot(name, None, "its numbers are in quotes", shape)
        for element in node.elements:
            yield from scan(text, name, element)
    elif isinstance(node.leaf, str):
        yield node, Slot(name, node.leaf)
    elif isinstance(node.leaf, np.ndarray):
        yield node, Slot(name, node.leaf, typed=False)
    elif isinstance(node.leaf, (list, dict)):
        # Of one string among numbers numpy would make as long a string of each: gigabytes of a small body.
        quoted = isinstance(node.leaf, dict) or text.find('"', node.start, node.end) >= 0
        array = None if quoted else _numbers(node.leaf)
        slots = _pieces(name, node.leaf) if array is None else [Slot(name, array, typed=False)]
        yield from ((node, slot) for slot in slots)
    else:
        yield node, Slot(name, None)


def _numbers(value: Any) -> Numbers | None:
    """Nested lists as an array; None where they are no rectangular tensor of numbers."""
    try:
        array = np.array(value)
    except (ValueError, OverflowError):  # ragged, or an integer that no dtype holds
        return None
    return array if array.dtype.kind in "iuf" and array.size else None


def _pieces(name: str, value: Any) -> Iterator[Slot]:
    """What could be an image in nested lists that are no tensor: a string, a list of bytes, a shape that they have.

    Raises:
        BrokenBody: too many strings among numbers.
    """
    yield Slot(name, None, _UNEVEN, _shape(value))
    shapes, left, strings = {_shape(value)}, [value], 0
    while left:
        part = left.pop()
        if isinstance(part, str):
            strings += 1
            if strings > MAX_PLACES:
                raise BrokenBody(f"input {shown(name)}: more than {MAX_PLACES} strings among other values")
            if read(part):
                yield Slot(name, part, _AMONG)
        elif isinstance(part, dict):
            left.extend(part.values())
        elif isinstance(part, list):
            if (shape := _shape(part)) not in shapes:
                shapes.add(shape)
                yield Slot(name, None, _UNEVEN, shape)
            head = part[:HEAD_BYTES]
            if all(type(number) is int and -128 <= number < 256 for number in head):
                data = bytes(number & 255 for number in head)
                yield from [Slot(name, data, _AMONG)] if format_of(data) else []
            left.extend(inner for inner in part if isinstance(inner, (str, list, dict)))


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of nested lists, by the first of each."""
    shape: list[int] = []
    while isinstance(value, list) and len(shape) < 32:
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _quoted_shape(node: Node) -> tuple[int, ...]:
    """The shape of nested lists of numbers in quotes, by the first of each; empty for anything else."""
    shape: list[int] = []
    while node.elements:
        shape.append(len(node.elements))
        node = node.elements[0]
    return tuple(shape) if isinstance(node.leaf, str) and _QUOTED.fullmatch(node.leaf) else ()


def written(value: Value) -> str:
    """A new value as JSON."""
    if isinstance(value, (str, bytes)):
        return json.dumps(value if isinstance(value, str) else value.decode("latin-1"))
    return orjson.dumps(np.ascontiguousarray(value), option=orjson.OPT_SERIALIZE_NUMPY).decode()
