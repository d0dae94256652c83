"""Encoded images in every spelling in which clients send them, read and written again in the same one.

A file may travel as bytes, as text (base64 of either alphabet, with or without padding and line breaks, behind a
``data:`` prefix or in quotes; hexadecimal digits; percent-encoded; Latin-1), or as the numbers of its bytes.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

from .formats import FEWEST_BYTES, FIRST_PAIRS, HEAD_BYTES, MAY_GO_ON, OPEN_ENDED, READ, format_of
from .marks import MOST_PLACES, decoded, place
from .percent import unquoted

Numbers = NDArray[Any]
Value = Numbers | bytes | str
"""A value of a request: a numeric tensor, bytes, or text."""

_PAIRS = np.array([int.from_bytes(pair, "big") for pair in FIRST_PAIRS])
_LAYERS = 3  # of one spelling within another, such as base64 of base64
_HEAD_DIGITS = HEAD_BYTES // 3 * 4
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+")
_STANDARD_BASE64 = re.compile(r"[A-Za-z0-9+/]+")
_SKIPPED = re.compile(r"[^A-Za-z0-9+/]")  # by Python's b64decode, unless it is told to validate
_FOREIGN = re.compile(r"[^A-Za-z0-9+/_\-=\s]")
_LIKE_BASE64 = re.compile(r"[A-Za-z0-9+/_\-=\s]{64,}")
_QUOTE = re.compile(r"""\s*b?(['"])""")
_PREFIX = re.compile(r"\s*+[^,]{0,256},")
_DATA_URI = re.compile(r"\s*data:[^,]{0,256},", re.IGNORECASE)
_HEX = re.compile(r"\s*(?:0x)?(?=[0-9a-fA-F]{2})")
_HEX_DIGITS = re.compile(r"(?:[0-9a-fA-F]{2}){10,}")
_JSON = re.compile(r"""[\ufeff\xef\xbb\xbf\s]*+[\[{"]""")
_ESCAPED = re.compile(r"(?<!\\)\\++u00([0-9a-fA-F]{2})")  # as JSON has them, however often escaped
_MANY_LINES, _FEWEST_A_LINE = 2**16, 16  # of so many lines, characters on average
# The letters of a file's base64, as numbers.
_LETTERS = re.compile(rb"(?:data:[^,]{0,64},)?\s*([A-Za-z0-9+/_\-=\s]{40,})", re.IGNORECASE)
_HEAD_LETTERS = 144


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded images that were found in one value.

    ``files`` are their bytes, or ``reason`` says why they cannot be read. ``write`` makes the same value of others.
    """

    files: Sequence[bytes]
    write: Callable[[Sequence[bytes]], Value]
    reason: str = ""


def read(value: Value) -> Encoded | None:
    """The encoded images in a value, in whatever spelling; None where it holds none."""
    if isinstance(value, (bytes, str)) and len(value) < FEWEST_BYTES:
        return None
    if isinstance(value, np.ndarray):
        return _in_numbers(value)
    return _in_bytes(value, _LAYERS) if isinstance(value, bytes) else _in_text(value, _LAYERS)


def _found(kind: str, data: bytes, write: Callable[[bytes], Value]) -> Encoded:
    if kind not in READ:
        return _unreadable(f"a {kind} file, which is not read here: {', '.join(READ)} are")
    return Encoded([data], lambda files: write(files[0]))


def _unreadable(reason: str) -> Encoded:
    return Encoded([], lambda _: "", reason)


def _within(inner: Encoded | None, write: Callable[[Any], Value]) -> Encoded | None:
    """What was found in the value that a spelling stands for, written back in that spelling."""
    return inner and Encoded(inner.files, lambda files: write(inner.write(files)), inner.reason)


# -- bytes and text -----------------------------------------------------------------------------------------------


def _in_bytes(data: bytes, layers: int) -> Encoded | None:
    if kind := format_of(data):
        return _found(kind, data, lambda new: new)
    if layers and _is_text(data[:64]):
        return _within(_in_text(data.decode("latin-1"), layers), lambda text: text.encode("latin-1"))
    if place(data) is not None:  # a serialized tf.Example, say
        return _unreadable("other bytes stand around those of an image")
    return None


def _is_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n\f\v" for byte in head.removeprefix(b"\xef\xbb\xbf"))


def _in_text(text: str, layers: int) -> Encoded | None:
    if kind := format_of(_plain(text if MAY_GO_ON.match(text) else text[:HEAD_BYTES])):
        try:
            return _found(kind, text.encode("latin-1"), lambda new: new.decode("latin-1"))
        except UnicodeEncodeError:
            return _unreadable(f"begins as a {kind} file, but goes on with characters that are no bytes")
    if found := (layers and "%" in text and _in_percent(text, layers)) or _in_hex(text):
        return found
    for start, end in _places(text):
        if found := _in_base64(text, start, end, layers):
            return found
    if (at := place(_plain(text))) is not None:
        return _unreadable(f"other text stands around an image, which begins at character {at}")
    if "\\" in text and place(_plain(_unescaped(text))) is not None:
        return _unreadable("other text stands around an image, with backslashes in between")
    return _in_json(text, layers) if layers else None


def _plain(text: str) -> bytes:
    """A text of as many bytes; other characters than Latin-1's are question marks."""
    return text.encode("latin-1", "replace")


def _in_json(text: str, layers: int) -> Encoded | None:
    """Why a text cannot be read that is JSON, one of whose strings holds an image."""
    for number, inner in enumerate(_json_strings(text), 1):
        if number > MOST_PLACES:
            return _unreadable(f"holds more than {MOST_PLACES} texts as JSON")
        if _in_text(inner, layers - 1):
            return _unreadable("is JSON, one of whose texts holds an image")
    return None


def _json_strings(text: str) -> Iterator[str]:
    """The strings of a text that begins as JSON, names of members too, up to the first that is none."""
    at = text.find('"') if _JSON.match(text) else -1
    with suppress(ValueError):
        while at >= 0:
            inner, end = scanstring(text, at + 1, False)
            if len(inner) >= FEWEST_BYTES:
                yield inner
            at = text.find('"', end)


def _unescaped(text: str) -> str:
    """A text without the backslashes of JSON within it; enough to recognise how an image begins, not to read it."""
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
    return plain.replace("\\r", "\r").replace("\\n", "\n").replace("\\", "")


def _places(text: str) -> list[tuple[int, int]]:
    """Where base64 may begin and end: in quotes, behind a prefix such as ``data:image/png;base64,``, or everywhere."""
    whole, places = (0, len(text)), []
    quoted = _QUOTE.match(text)
    for start, end in ([(quoted.end(), text.rfind(quoted[1]))] if quoted else []) + [whole]:
        prefix = _PREFIX.match(text, start)
        places += [(prefix.end(), end)] if prefix else []
        places.append((start, end))
    return [(start, end) for start, end in places if start < end]


def _in_percent(text: str, layers: int) -> Encoded | None:
    uri = _DATA_URI.match(text)
    before, body = (uri[0], text[uri.end() :]) if uri else ("", text)
    plain = unquoted(body.encode("utf-8", "replace"))
    return _within(_in_bytes(plain, layers - 1), lambda new: before + _percent(body, new))


def _percent(text: str, new: bytes) -> str:
    """``new`` percent-encoded as ``text`` was: what stands plainly there may stand plainly here."""
    return quote_from_bytes(new, safe="".join(sign for sign in "+/=:;,-_.~!*'()" if sign in text))


def _in_hex(text: str) -> Encoded | None:
    if not (start := _HEX.match(text)):
        return None
    # Readers skip white space between the digits.
    runs = text[start.end() :].split(None, 2 * HEAD_BYTES)
    head = _HEX_DIGITS.match("".join(run[: 2 * HEAD_BYTES] for run in runs[: 2 * HEAD_BYTES])[: 2 * HEAD_BYTES])
    kind = head and format_of(bytes.fromhex(head[0]))
    if not kind:
        return None
    before, body = text[: start.end()], text[start.end() :].rstrip()
    after = text[len(before) + len(body) :]
    try:
        data = bytes.fromhex(body)
    except ValueError:
        return _unreadable(f"begins as the hexadecimal digits of a {kind} file, but does not go on so")
    upper = body != body.lower()
    return _found(kind, data, lambda new: before + (new.hex().upper() if upper else new.hex()) + after)


# -- base64 -------------------------------------------------------------------------------------------------------


def _in_base64(text: str, start: int, end: int, layers: int) -> Encoded | None:
    head = text[start : min(end, start + _HEAD_DIGITS)]
    kind = format_of(decoded(_plain(head)))
    if not kind and _SKIPPED.search(head):
        heads = (_digits(text, start, end, letters) for letters in (_BASE64, _STANDARD_BASE64))
        kind = next(filter(None, (format_of(decoded(digits.encode())) for digits in heads)), None)
    if not kind and not (layers and _LIKE_BASE64.match(head)):
        return None
    spelled = _Base64.of(text[start:end])
    if isinstance(spelled, str):
        return _unreadable(f"begins as the base64 of a {kind} file, but {spelled}") if kind else None
    if kind in OPEN_ENDED:
        kind = format_of(spelled.data)
    elif kind and format_of(spelled.data) != kind:
        return _unreadable(f"is the base64 of a {kind} file to those who skip some of its characters")

    def write(new: bytes) -> str:
        return text[:start] + spelled.encode(new) + text[end:]

    if kind:
        return _found(kind, spelled.data, write)
    # Base64 of base64, or of bytes around an image.
    return _within(_in_bytes(spelled.data, layers - 1), write) if layers else None


def _digits(text: str, start: int, end: int, letters: re.Pattern[str]) -> str:
    """The first digits, however many other characters stand before and between them: some readers skip these."""
    digits = ""
    for run in letters.finditer(text, start, end):
        digits += run[0][:_HEAD_DIGITS]
        if len(digits) >= _HEAD_DIGITS:
            break
    return digits[:_HEAD_DIGITS]


@dataclasses.dataclass(frozen=True)
class _Base64:
    """Decoded bytes, and how they were written: alphabet, padding, white space around, line breaks."""

    data: bytes
    url_safe: bool
    padded: bool
    before: str
    after: str
    width: int
    line_break: str

    @staticmethod
    def of(text: str) -> _Base64 | str:
        """Read base64; a sentence's end that says what is wrong with it where it is none."""
        with suppress(binascii.Error, ValueError):  # as nearly everybody writes it
            return _Base64(base64.b64decode(text, validate=True), False, True, "", "", 0, "")
        stripped = text.strip()
        breaks = sum(map(stripped.count, string.whitespace))
        if breaks > _MANY_LINES and len(stripped) < _FEWEST_A_LINE * breaks:
            return "is broken into too many lines"
        at = text.find(stripped)
        lines = stripped.split()
        body = "".join(lines)
        if foreign := _FOREIGN.search(body):
            return f"has {foreign[0]!r} at character {text.find(foreign[0])}"
        digits = body.rstrip("=")
        url_safe = "-" in digits or "_" in digits
        if "=" in digits or len(body) - len(digits) > 2:
            return "has '=' elsewhere than at its end"
        if url_safe and ("+" in digits or "/" in digits):
            return "mixes the letters of two alphabets ('+/' and '-_')"
        if len(digits) % 4 == 1:
            return "is cut off"
        try:
            plain = digits + "=" * (-len(digits) % 4)
            data = base64.urlsafe_b64decode(plain) if url_safe else base64.b64decode(plain, validate=True)
        except (binascii.Error, ValueError) as error:
            return f"cannot be decoded ({error})"
        padded = body != digits or not len(digits) % 4
        width, line_break = 0, ""
        if len(lines) > 1 and {len(line) for line in lines[:-1]} == {len(lines[0])} and len(lines[-1]) <= len(lines[0]):
            width = len(lines[0])
            line_break = stripped[width : stripped.index(lines[1], width)]
        return _Base64(data, url_safe, padded, text[:at], text[at + len(stripped) :], width, line_break)

    def encode(self, data: bytes) -> str:
        """Other bytes, written the same way."""
        body = (base64.urlsafe_b64encode if self.url_safe else base64.b64encode)(data).decode()
        body = body if self.padded else body.rstrip("=")
        if self.width:
            body = self.line_break.join(body[at : at + self.width] for at in range(0, len(body), self.width))
        return self.before + body + self.after


# -- numbers ------------------------------------------------------------------------------------------------------


def _in_numbers(tensor: Numbers) -> Encoded | None:
    """A file's bytes as numbers, or several as the rows of a matrix, which zeros fill up to one length."""
    if tensor.dtype.kind not in "iuf" or not tensor.size:
        return None
    single = max(tensor.shape, default=1) == tensor.size
    rows = tensor.reshape(1, -1) if single else tensor.reshape(-1, tensor.shape[-1])
    likely = np.ones(1, bool) if single else _likely(rows)
    if likely.sum() > MOST_PLACES:
        return _unreadable(f"has more than {MOST_PLACES} rows that may begin as images")
    kinds = _formats(rows, likely, sure=not single)
    if not any(kinds):
        if reason := _packed(tensor) or _in_letters(rows if tensor.ndim <= 2 else rows[:0]):
            return _unreadable(reason)
        whole = tensor.reshape(1, -1)
        flat = None if single else _formats(whole, _likely(whole), sure=True)[0]
        return _unreadable(f"holds the bytes of a {flat} file in the shape {list(tensor.shape)}") if flat else None
    kind = next(filter(None, kinds))
    if not all(kinds):
        return _unreadable(f"one of its rows begins as a {kind} file, another as none")
    if odd := [kind for kind in kinds if kind not in READ]:
        return _unreadable(f"a {odd[0]} file, which is not read here: {', '.join(READ)} are")
    data = _as_bytes(rows)
    if data is None:
        return _unreadable(f"begins as the bytes of a {kind} file, but goes on with numbers that are no bytes")
    padded = bool((data[:, -1] == 0).any())
    signed = tensor.dtype == np.int8 or bool((rows < 0).any())

    def write(files: Sequence[bytes]) -> Numbers:
        longest = max(map(len, files))
        width = max(longest, data.shape[1]) if padded else longest
        new = np.zeros((len(files), width), np.uint8)
        for row, file in zip(new, files, strict=True):
            row[: len(file)] = np.frombuffer(file, np.uint8)
        numbers = (new.view(np.int8) if signed else new).astype(tensor.dtype)
        return numbers.reshape(_with_length(tensor.shape, single, width))

    return Encoded([row.tobytes() for row in data], write)


def _packed(tensor: Numbers) -> str:
    """Why a file's bytes cannot be read of which several make up a number; empty for anything else."""
    if tensor.dtype.itemsize == 1:
        return ""
    kind = format_of(tensor.reshape(-1)[:HEAD_BYTES].tobytes(), sure=True)
    return f"holds the bytes of a {kind} file as {tensor.dtype} numbers" if kind in (*READ, "GIF") else ""


def _in_letters(rows: Numbers) -> str:
    """Why the numbers of the letters of a file's base64 cannot be read; empty for anything else."""
    start = rows[:, :_HEAD_LETTERS]
    if start.dtype.kind == "f":
        return ""
    likely = ((start >= 9) & (start < 127)).all(axis=1)
    heads, width = start[likely].astype(np.uint8).tobytes(), start.shape[1]
    for at in range(0, len(heads), width):
        letters = _LETTERS.match(heads, at, at + width)
        if letters and decoded(letters[1][:16])[:2] in FIRST_PAIRS and format_of(decoded(letters[1])):
            return "holds the letters of an image's base64 as numbers"
    return ""


def _likely(rows: Numbers) -> NDArray[np.bool_]:
    """Which rows begin with two bytes with which an image begins: only those are looked at one by one."""
    start = rows[:, :12]
    likely: NDArray[np.bool_] = (start != 0).any(axis=1) & (start.shape[1] == 12)
    if start.dtype.kind == "f":
        likely &= ((start == np.floor(start)) & (start >= -128) & (start <= 255)).all(axis=1)
    if likely.any():
        pairs = start[likely, :2].astype(np.int64) & 255
        likely[likely] = np.isin(256 * pairs[:, 0] + pairs[:, 1], _PAIRS)
    return likely


def _formats(rows: Numbers, likely: NDArray[np.bool_], sure: bool) -> list[str | None]:
    """The format that the numbers of each row that is ``likely``, as bytes, begin as."""
    found: list[str | None] = [None] * len(rows)
    for row in np.flatnonzero(likely):
        whole = not sure and rows.dtype.itemsize == 1
        head = _as_bytes(rows[row : row + 1, : None if whole else HEAD_BYTES])
        if head is None:  # a file's first bytes, and numbers that are none behind them
            head = _as_bytes(rows[row : row + 1, :12])
        found[row] = None if head is None else format_of(head.tobytes(), sure)
    return found


def _with_length(shape: tuple[int, ...], single: bool, length: int) -> tuple[int, ...]:
    """The shape with another number of bytes on the axis on which they lie."""
    axis = shape.index(max(shape)) if single else len(shape) - 1
    return (*shape[:axis], length, *shape[axis + 1 :])


def _as_bytes(numbers: Numbers) -> NDArray[np.uint8] | None:
    """Numbers as bytes, negative ones as signed ones; None where some are neither."""
    if numbers.dtype.itemsize == 1:
        return np.ascontiguousarray(numbers).view(np.uint8)
    if not (numbers.min() >= -128 and numbers.max() <= 255):  # false for NaN too
        return None
    whole = numbers.astype(np.int16)
    return whole.astype(np.uint8) if (whole == numbers).all() else None
