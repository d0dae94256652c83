"""Percent-encoding (RFC 3986, section 2.1), undone without an object for each escape: bodies may have millions."""

from __future__ import annotations

import numpy as np

_PIECE, _PERCENT = 2**18, ord("%")
_VALUES = np.full(256, -1, np.int16)  # of the hexadecimal digits; what has none stays negative
_VALUES[list(b"0123456789abcdefABCDEF")] = [*range(16), *range(10, 16)]


def unquoted(data: bytes) -> bytes:
    """What :func:`urllib.parse.unquote_to_bytes` answers: escapes as bytes, all else as it is."""
    if b"%" not in data:
        return data
    raw, pieces, start = np.frombuffer(data, np.uint8), [], 0
    while start < len(raw):
        stop = start + _PIECE
        if stop < len(raw):  # not within an escape
            stop -= 1 if raw[stop - 1] == _PERCENT else 2 if raw[stop - 2] == _PERCENT else 0
        piece = raw[start:stop].copy()
        at = np.flatnonzero(piece[:-2] == _PERCENT)
        values = _VALUES[piece[at + 1]] << 4 | _VALUES[piece[at + 2]]
        at, values = at[values >= 0], values[values >= 0]
        piece[at] = values
        pieces.append(np.delete(piece, np.concatenate([at + 1, at + 2])).tobytes())
        start = stop
    return b"".join(pieces)
