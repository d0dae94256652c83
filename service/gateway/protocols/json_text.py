"""JSON with places: values, and where their text lies, so that one can be replaced and all else stays as it came.

Objects are followed member by member, as are arrays, nested ones too, that begin with an object or a string; any other
value is one leaf, scanned by the standard library's C scanner. NaN and Infinity pass, as TensorFlow Serving's JSON
allows them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from ...errors import BrokenBody
from . import MAX_PLACES

_scan = JSONDecoder().scan_once  # type: ignore[attr-defined] # in CPython, not in its stubs
_SPACE = re.compile(r"[ \t\n\r]*")
_OPENED = re.compile(r"[\[ \t\n\r]*")
_REASONS = {RecursionError: "it is nested too deeply", IndexError: "it ends too early"}
_MAX_DEPTH = 8  # of objects and arrays that are followed; deeper ones are leaves


@dataclasses.dataclass(frozen=True)
class Node:
    """A value at ``text[start:end]``: the members of an object, the elements of such an array, or a leaf."""

    start: int
    end: int
    leaf: Any = None
    members: dict[str, Node] | None = None
    elements: list[Node] | None = None

    def get(self, key: str) -> Node | None:
        """A member of an object; None where there is none, or no object."""
        return (self.members or {}).get(key)


def parse(data: bytes | bytearray) -> tuple[str, Node]:
    """The text of a JSON body and its root.

    Raises:
        BrokenBody: no JSON in UTF-8, or an object that names a member twice, which parsers read in different ways.
    """
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("a value is expected at character 0, not a byte-order mark")
        root = _Reader(text).value(_skip(text, 0))
        if _skip(text, root.end) != len(text):
            raise ValueError("something follows the value")
    except (ValueError, StopIteration, RecursionError, IndexError) as error:
        reason = _REASONS.get(type(error)) or str(error)
        if isinstance(error, StopIteration):  # the C scanner's, with the place
            reason = f"a value is expected at character {error.value}"
            reason += ", where the body ends" if error.value >= len(text) else ""
        raise BrokenBody(f"not a JSON body: {reason}") from error
    return text, root


def splice(text: str, replacements: Iterable[tuple[Node, str]]) -> str:
    """``text`` with the text of some nodes replaced."""
    pieces, position = [], 0
    for node, replacement in sorted(replacements, key=lambda pair: pair[0].start):
        pieces += [text[position : node.start], replacement]
        position = node.end
    return "".join([*pieces, text[position:]])


def _skip(text: str, index: int) -> int:
    return _SPACE.match(text, index).end()  # type: ignore[union-attr]


def _inside(text: str, index: int) -> int:
    """Where the first value begins that is no array."""
    return _OPENED.match(text, index).end()  # type: ignore[union-attr]


@dataclasses.dataclass
class _Reader:
    """A text as nodes, of which no more may come than ``left``."""

    text: str
    left: int = MAX_PLACES

    def value(self, index: int, depth: int = _MAX_DEPTH) -> Node:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has more than {MAX_PLACES} members and elements beside those of tensors")
        text = self.text
        if text.startswith("{", index) and depth:
            return self._object(index, depth)
        if text.startswith("[", index) and depth and text.startswith(("{", '"'), _inside(text, index)):
            return self._array(index, depth)
        value, end = _scan(text, index)
        return Node(index, end, leaf=value)

    def _object(self, start: int, depth: int) -> Node:
        text, members = self.text, dict[str, Node]()
        index = _skip(text, start + 1)
        while text[index] != "}":
            if text[index] != '"':
                raise ValueError(f"a member's name is expected at character {index}")
            name, index = scanstring(text, index + 1)
            if name in members:
                raise ValueError(f"an object names {name!r} twice")
            index = _skip(text, index)
            if text[index] != ":":
                raise ValueError(f"':' is expected at character {index}")
            members[name] = self.value(_skip(text, index + 1), depth - 1)
            index = _next(text, members[name].end, "}")
        return Node(start, index + 1, members=members)

    def _array(self, start: int, depth: int) -> Node:
        text, elements = self.text, list[Node]()
        index = _skip(text, start + 1)
        while text[index] != "]":
            elements.append(self.value(index, depth - 1))
            index = _next(text, elements[-1].end, "]")
        return Node(start, index + 1, elements=elements)


def _next(text: str, index: int, close: str) -> int:
    """Where the next item begins, or the closing bracket stands."""
    index = _skip(text, index)
    if text[index] == ",":
        index = _skip(text, index + 1)
        if text[index] == close:
            raise ValueError(f"a value is expected at character {index}")
    elif text[index] != close:
        raise ValueError(f"',' or '{close}' is expected at character {index}")
    return index
