"""How an image begins that stands within other bytes or text."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterator

from .formats import FIRST_PAIRS, HEAD_BYTES, LONG_STARTS, TIFF_STARTS, format_of, is_jpeg

MOST_PLACES = 2**16
"""So many places are looked at, of each mark."""

_HEAD_LETTERS = 2 * HEAD_BYTES  # and line breaks
_MOST_SEGMENT_LETTERS = 2**12
_NO_TEXT = re.compile(rb"[^\t\n\v\f\r -~]")
_TO_STANDARD, _TO_URL_SAFE = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")
_LETTERS = re.compile(rb"[A-Za-z0-9+/_-]+")
_NO_LETTER = re.compile(rb"[^A-Za-z0-9+/_-]+")
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
_HEX_RUN = re.compile(rb"(?:[0-9a-fA-F]{2}){10,}+")


def _is_format(data: bytes, at: int) -> bool:
    return format_of(data[at : at + HEAD_BYTES], sure=True) is not None


def _is_there(_data: bytes, _at: int) -> bool:
    return True


def _is_no_word(data: bytes, at: int) -> bool:
    """Whether it is an image, and no text that begins like one."""
    return _is_format(data, at) and _NO_TEXT.search(data, at, at + HEAD_BYTES) is not None


def _is_tiff(data: bytes, at: int) -> bool:
    """Whether the first directory lies within the data, and its first entry makes sense."""
    order = "<" if data.startswith(b"I", at) else ">"
    big = b"+" in data[at + 2 : at + 4]
    try:
        (place,) = struct.unpack_from(order + ("8xQ" if big else "4xI"), data, at)
        count, tag, kind = struct.unpack_from(order + ("QHH" if big else "HHH"), data, min(at + place, len(data)))
    except struct.error:
        return False
    return bool(0 < count < 2**10 and tag >= 254 and 0 < kind <= 18)


def _is_jpeg_in_base64(data: bytes, at: int) -> bool:
    letters = _LETTERS.match(data, at, at + _MOST_SEGMENT_LETTERS)
    return letters is not None and is_jpeg(decoded(letters[0]))


# How each begins, and what else must be so.
_Marks = tuple[tuple[re.Pattern[bytes], Callable[[bytes, int], bool]], ...]
_MARKS: _Marks = (
    *((re.compile(re.escape(start)), _is_format) for start in LONG_STARTS),
    (re.compile(rb"\xff\xd8(?=\xff)"), is_jpeg),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _is_format),
    (re.compile(rb"BM"), _is_format),
    (re.compile(rb"GIF8[79]a[\t\n\v\f\r -~]{0,6}[^\t\n\v\f\r -~]"), _is_format),
    (re.compile(rb"\xff\x4f\xff\x51\x00[\x29-\xff]"), _is_format),
    *((re.compile(re.escape(start)), _is_tiff) for start in TIFF_STARTS),
    (re.compile(rb"\0\0..ftyp", re.DOTALL), _is_format),
    (re.compile(rb"P[1-6f]\s"), _is_no_word),
    (re.compile(rb"\n[\x00\x02\x03\x05]\x01"), _is_format),
)
_MARKS_IN_BASE64: _Marks = (
    *((re.compile(start), _is_there) for start in (rb"iVBORw0KGgo", rb"R0lGODlh", rb"R0lGODdh", rb"UklGR.{7}RUJQVlA4")),
    *((re.compile(start), _is_jpeg_in_base64) for start in (rb"/9j(?=/)", rb"_9j(?=_)")),
    (re.compile(rb"Qk[A-Za-z0-9+/_-]{6}AAAA[A-Za-z0-9+/_-]{4}AA(?:Ao|Bs|B8)"), _is_there),
)
_SURE_PAIRS = {*FIRST_PAIRS} - {b"\xff\x0a"}
_PAIRS = {base64.b64encode(pair)[:2].translate(to) for pair in _SURE_PAIRS for to in (None, _TO_URL_SAFE)}
_HEX_PAIRS = {pair.hex().encode() for pair in _SURE_PAIRS}


def decoded(head: bytes) -> bytes:
    """The first bytes of what may be base64 of either alphabet, whatever other characters stand in between."""
    digits = head.translate(_TO_STANDARD)
    try:
        return base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        digits = _NO_LETTER.sub(b"", digits)
        return base64.b64decode(digits[: len(digits) // 4 * 4])


def place(data: bytes) -> int | None:
    """Where an image begins within other bytes or text; of too much to look at, the last place that was."""
    marks = (() if data.isascii() and b"\0" not in data else _MARKS) + _MARKS_IN_BASE64
    for pattern, is_image in marks:
        for number, found in enumerate(pattern.finditer(data), 1):
            if number == MOST_PLACES or is_image(data, found.start()):
                return found.start()
    for number, (at, head) in enumerate(_heads(data), 1):
        if number == MOST_PLACES or format_of(head, sure=True):
            return at
    return None


def _heads(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What the letters of base64 and hexadecimal digits stand for that may begin an image, and where they begin."""
    for run in _RUN.finditer(data):
        at = run.start()
        if data[at : at + 2] in _PAIRS and not data.startswith(b"AAAAA", at):
            yield at, decoded(data[at : at + _HEAD_LETTERS])[:HEAD_BYTES]
        for digits in _HEX_RUN.finditer(data, at, run.end()):
            at = digits.start()
            if data[at : at + 4].lower() in _HEX_PAIRS and not data.startswith(b"00000000", at):
                yield at, bytes.fromhex(data[at : min(at + 2 * HEAD_BYTES, digits.end())].decode())
