"""What a ``ModelInferRequest`` takes in memory once it is parsed, read from its wire format before it is."""

from __future__ import annotations

from ...errors import BodyTooLarge, BrokenBody

# Field numbers of open_inference.proto that hold messages, by the field that they are in.
_MESSAGES: dict[str, dict[int, str]] = {
    "request": {4: "entry", 5: "input", 6: "output"},
    "input": {4: "entry", 5: "contents"},
    "output": {2: "entry"},
    "entry": {2: "parameter"},
    "parameter": {},
    "contents": {},
}
# Bytes of a list's numbers, and of the array made of them, for each packed byte; an integer may be one byte there.
_GROWTH = {"contents": {1: 1, 2: 8, 3: 16, 4: 8, 5: 16, 6: 2, 7: 2}, "input": {3: 8}}
_BYTES_OF_FIELD = 128  # a message's, or a string's in a list
_MOST_FIELDS = 2**18


def parsed_bytes(body: bytes | bytearray) -> int:
    """How many bytes, beside as many as the body has.

    Raises:
        BrokenBody: no message.
        BodyTooLarge: of more fields than are looked at.
    """
    left, total = _MOST_FIELDS, 0
    open_spans = [("request", 0, len(body))]
    while open_spans:
        kind, at, end = open_spans.pop()
        while at < end:
            left -= 1
            if left < 0:
                raise BodyTooLarge(f"the message has more than {_MOST_FIELDS} fields: send tensors as raw contents")
            key, at = _varint(body, at, end)
            number, wire = key >> 3, key & 7
            total += _BYTES_OF_FIELD
            if wire == 0:
                _, at = _varint(body, at, end)
                continue
            if wire not in (1, 2, 5):
                raise BrokenBody("not a ModelInferRequest: a field of an unknown kind")
            size, at = _varint(body, at, end) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > end - at:
                raise BrokenBody("not a ModelInferRequest: a field is cut off")
            if wire == 2 and number in _MESSAGES[kind]:
                open_spans.append((_MESSAGES[kind][number], at, at + size))
            total += size * _GROWTH.get(kind, {}).get(number, 0) if wire == 2 else 0
            at += size
    return total


def _varint(body: bytes | bytearray, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise BrokenBody("not a ModelInferRequest: a number is cut off")
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BrokenBody("not a ModelInferRequest: a number is too long")
