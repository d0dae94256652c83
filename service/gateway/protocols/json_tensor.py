"""A large tensor in a JSON text as an array, without Python's lists in between, which take up to 30 times its text.

Brackets and commas alone show the shape. The numbers are parsed in pieces, between which other threads run.
"""

from __future__ import annotations

import re

import numpy as np
import orjson

from . import Numbers

FEWEST_CHARACTERS = 2**16
"""Anything smaller is quickly scanned as lists."""

_PIECE = 2**18  # characters
_RUN = re.compile(r"[\[\]0-9,.eE+\- \t\n\r]*")
_SPACE, _NUMBER = b" \t\n\r", b"0123456789.eE+-"
_AS_DIGIT = bytes.maketrans(_NUMBER, b"0" * len(_NUMBER))
_AS_SPACE = bytes.maketrans(b"[]", b"  ")
_MAX_DEPTH = 8
_MOST_BEHIND = 8  # brackets that close the arrays around it


def run_end(text: str, start: int) -> int:
    """Where the first character stands that is in no list of numbers."""
    while True:
        end = _RUN.match(text, start, start + _PIECE).end()  # type: ignore[union-attr]
        if end < start + _PIECE:
            return end
        start = end


def most_bytes(text: str, start: int, end: int) -> int:
    """The most that the array of such a run may take."""
    return 8 * (text.count(",", start, end) + 1)


def read(text: str, start: int, end: int) -> tuple[Numbers, int] | None:
    """The array that begins at a ``[``, int64 or float64 as numpy makes it of lists, and where it ends.

    None for anything but a tensor of numbers in valid JSON. ``end`` is that of the run of characters that it may have.
    """
    run = text[start:end].encode("ascii")
    marks = run.translate(None, _NUMBER + _SPACE)
    if (found := _shape(marks)) is None:
        return None
    shape, length = found
    at, behind = len(run), marks.count(b"]", length)
    if behind > _MOST_BEHIND:
        return None
    for _ in range(behind + 1):
        at = run.rfind(b"]", 0, at)
    count = marks.count(b",", 0, length) + 1
    del marks
    run = run[: at + 1]
    # A number outside of the innermost lists would join the next one once the brackets are gone.
    plain = run.translate(_AS_DIGIT, _SPACE)
    for begin in range(0, len(plain), _PIECE):
        piece = plain[begin : begin + _PIECE + 1]
        if b"]0" in piece or b"0[" in piece:
            return None
    del plain
    array = _numbers(run.translate(_AS_SPACE), count, any(sign in run for sign in (b".", b"e", b"E")))
    return None if array is None else (array.reshape(shape), start + at + 1)


def _shape(marks: bytes) -> tuple[tuple[int, ...], int] | None:
    """The shape of the lists at the beginning of brackets and commas, and the length of these; None if ragged."""
    depth = len(marks) - len(marks.lstrip(b"["))
    close = marks.find(b"]")
    if not 1 <= depth <= _MAX_DEPTH or close < 0 or marks[depth:close].strip(b","):
        return None
    shape = [close - depth + 1]
    unit = marks[depth - 1 : close + 1]
    for level in range(2, depth + 1):
        begin = depth - level
        end = marks.find(b"]" * level, begin)
        count, rest = divmod(end + level - begin - 1, len(unit) + 1)
        if end < 0 or rest:
            return None
        unit = b"".join((b"[", (unit + b",") * (count - 1), unit, b"]"))
        if not marks.startswith(unit, begin):
            return None
        shape.insert(0, count)
    return tuple(shape), len(unit)


def _numbers(flat: bytes, count: int, floating: bool) -> Numbers | None:
    """So many numbers with commas between; None where they are not, or no int64."""
    array = np.empty(count, np.float64 if floating else np.int64)
    position = filled = 0
    while position <= len(flat):
        cut = flat.find(b",", position + _PIECE)
        cut = len(flat) if cut < 0 else cut
        try:
            values = orjson.loads(b"[" + flat[position:cut] + b"]")
        except orjson.JSONDecodeError:
            return None
        piece = np.array(values, np.float64 if floating else None)
        if not values or (not floating and piece.dtype != np.int64):
            return None
        array[filled : filled + len(values)] = piece
        filled += len(values)
        position = cut + 1
    return array if filled == count else None
