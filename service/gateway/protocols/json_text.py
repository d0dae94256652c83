"""JSON with places: values, and where their text lies, so that one can be replaced and all else stays as it came.

Objects are followed member by member, as are arrays, nested ones too, that begin with an object or a string; any other
value is one leaf: a large tensor is read as an array, all else is scanned by the standard library's C scanner. NaN and
Infinity pass, as TensorFlow Serving's JSON allows them.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from ...errors import BodyTooLarge, BrokenBody, shown
from . import MAX_PLACES, Reserve, json_tensor, unlimited

_BEGIN = re.compile(rb"[ \t\r\n\xef\xbb\xbf]*+[{\[]")


def begins_as_json(body: bytes | bytearray) -> bool:
    """Whether a body begins as an object or a list of JSON."""
    return _BEGIN.match(body) is not None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object within a leaf.

    Raises:
        ValueError: it names one twice.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"an object names {shown(next(name for name in times if times[name] > 1))} twice")
    return members


_scan = JSONDecoder(object_pairs_hook=_once).scan_once  # type: ignore[attr-defined] # in CPython, not in its stubs
_SPACE = re.compile(r"[ \t\n\r]*")
_OPENED = re.compile(r"[\[ \t\n\r]*")
_REASONS = {RecursionError: "it is nested too deeply", IndexError: "it ends too early"}
_MAX_DEPTH = 8  # of objects and arrays that are followed; deeper ones are leaves
# What Python takes for each: a number or string and its place in a list; a list, also as numpy goes through it; an
# object of one member.
_BYTES_OF = {",": 48, "[": 112, "{": 240}
_MOST_BYTES = 64 * 2**20  # of all leaves that are no tensors; a second's work
_RESERVED_AT_ONCE = 2**18
_WINDOWS = (2**12, 2**16, 2**20)
_FAILED_TENSORS = 4  # a large tensor that turns out to be none is not looked for more often
_WIDE, _WIDEST = re.compile(rb"[\xc4-\xff]"), re.compile(rb"[\xf0-\xff]")


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


def parse(data: bytes | bytearray, reserve: Reserve = unlimited) -> tuple[str, Node]:
    """The text of a JSON body and its root; ``reserve`` is told what they take beside as many bytes as the body has.

    Raises:
        BrokenBody: no JSON in UTF-8, or an object that names a member twice, which parsers read in different ways.
        BodyTooLarge: lists and objects that would take too much memory and time.
    """
    if not data.isascii():  # the widest character decides how many bytes each one takes
        reserve(len(data) * (3 if _WIDEST.search(data) else 1 if _WIDE.search(data) else 0))
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise ValueError("a value is expected at character 0, not a byte-order mark")
        root = _Reader(text, reserve).value(_skip(text, 0))
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
    reserve: Reserve
    left: int = MAX_PLACES
    tensors_left: int = _FAILED_TENSORS
    taken: int = 0
    reserved: int = 0
    spare: int = 0  # reserved for what turned out to be no tensor
    run: tuple[int, int] = (0, 0)  # where the last characters were found of which lists of numbers consist

    def value(self, index: int, depth: int = _MAX_DEPTH) -> Node:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has more than {MAX_PLACES} members and elements beside those of tensors")
        text = self.text
        if text.startswith("{", index) and depth:
            return self._object(index, depth)
        if text.startswith("[", index) and depth and text.startswith(("{", '"'), _inside(text, index)):
            return self._array(index, depth)
        value, end = self._nested(index) if text.startswith(("[", "{"), index) else _scan(text, index)
        return Node(index, end, leaf=value)

    def _nested(self, index: int) -> tuple[Any, int]:
        """A leaf that is an array or an object, and its end."""
        text, left = self.text, len(self.text) - index
        if left >= json_tensor.FEWEST_CHARACTERS and self.tensors_left and text.startswith("[", index):
            if not self.run[0] <= index < self.run[1]:  # each is looked through once, however many lists it has
                self.run = (index, json_tensor.run_end(text, index))
            run = self.run[1]
            if run - index >= json_tensor.FEWEST_CHARACTERS:
                if (needed := json_tensor.most_bytes(text, index, run)) > self.spare:
                    self.reserve(needed - self.spare)
                    self.spare = needed
                if tensor := json_tensor.read(text, index, run):
                    self.spare = 0
                    return tensor
                self.tensors_left -= 1
        # Nobody knows where it ends, and what follows may be a large tensor.
        for window in _WINDOWS:
            if window >= left:
                break
            with suppress(ValueError, StopIteration, RecursionError):
                value, end = _scan(text[index : index + window], 0)
                self._take(index, index + end)
                return value, index + end
        before = self.taken
        self._take(index, len(text))
        value, end = _scan(text, index)
        self.taken = before + _bytes_of(text, index, end)
        return value, end

    def _take(self, start: int, end: int) -> None:
        """Account for the memory of a leaf."""
        self.taken += _bytes_of(self.text, start, end)
        if self.taken > _MOST_BYTES:
            reason = "have too many elements: send numbers as a regular tensor, or in binary"
            raise BodyTooLarge(f"the body's lists and objects {reason}")
        if (more := self.taken - self.reserved) > _RESERVED_AT_ONCE:
            self.reserve(more)
            self.reserved += more

    def _object(self, start: int, depth: int) -> Node:
        text, members = self.text, dict[str, Node]()
        index = _skip(text, start + 1)
        while text[index] != "}":
            if text[index] != '"':
                raise ValueError(f"a member's name is expected at character {index}")
            name, index = scanstring(text, index + 1)
            if name in members:
                raise ValueError(f"an object names {shown(name)} twice")
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


def _bytes_of(text: str, start: int, end: int) -> int:
    return sum(size * text.count(sign, start, end) for sign, size in _BYTES_OF.items())


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
