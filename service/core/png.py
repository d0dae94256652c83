"""The short way in and out for plain PNGs.

In: the pixels of a file go to Pillow's PNG decoder without the rest of Pillow, for with small images opening a file
costs several times what decoding its pixels does. Everything that is not plain is read by ``PIL.Image.open``.

Out: Pillow tries the filters on each row and compresses the best by zlib. Here there is one filter for all rows, and
ISA-L, which compresses several times as fast to about the same size.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The signature, the whole IHDR chunk, and the head of the chunk behind it.
_HEAD = struct.Struct(">8sI4sIIBBBBBII4s")
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Beyond these the long way costs no more, for inflating takes most of the time. Pillow gives its decoder no more bytes
# at once, and clears no large image before it is sure that there are pixels.
_MOST_BYTES, _MOST_PIXELS = 64 * 2**10, 128 * 128
_MOST_IN_CHUNK = 2**30
# Of PNG's filters two are written: digits take fewer bytes as they are, photographs as differences from the row above.
# Bytes and microseconds, of 28x28 grey, 32x32, 224x224 and 640x480 RGB at ISA-L's level 1:
#     None    690   18    2,985   24    124,212    490    657,695    3,070
#     Sub     809   23    2,769   29     87,904    590    586,130    2,760
#     Up      800   21    2,728   28     80,394    530    565,149    2,660
#     Pillow  791   55    2,607  118     82,460  5,370    563,118   30,600 (a filter for each row, zlib's level 1)
# Level 0 takes up to a third more bytes; zlib at its quickest takes four times as long on photographs.
_NONE, _UP = 0, 2
_FILTERED_VALUES = 32 * 32 * 3


@dataclasses.dataclass(frozen=True)
class PlainPng:
    """A PNG of which only the header was read.

    Args:
        mode: Pillow's name of its pixels: ``L``, ``LA``, ``RGB`` or ``RGBA``.
        size: (width, height), each at least 1.
        data: the compressed pixels.
    """

    mode: str
    size: tuple[int, int]
    data: bytes | bytearray

    def load(self) -> Image.Image:
        """The pixels; ``ValueError`` where ``PIL.Image.Image.load`` raises ``OSError``: both call the same decoder."""
        return Image.frombytes(self.mode, self.size, self.data, "zip", self.mode)


def open_plain(data: bytes | bytearray) -> PlainPng | None:
    """Read the header of a plain PNG; None for any other file.

    Plain is a small image that consists of a header, one chunk of pixels and an end, with 8 bits a channel and no
    palette, not interlaced. The header's checksum must be right; that of the pixels is not read, as Pillow does not.
    """
    if not _HEAD.size + 4 + len(_END) <= len(data) <= _MOST_BYTES or not data.endswith(_END):
        return None
    signature, length, ihdr, width, height, bits, colour, *methods, checksum, size, idat = _HEAD.unpack_from(data)
    if (signature, length, ihdr, bits, methods, idat) != (SIGNATURE, 13, b"IHDR", 8, [0, 0, 0], b"IDAT"):
        return None
    whole = _HEAD.size + size + 4 + len(_END) == len(data) and zlib.crc32(data[12:29]) == checksum
    if not whole or colour not in _MODES or not 1 <= width * height <= _MOST_PIXELS:
        return None
    return PlainPng(_MODES[colour], (width, height), data[_HEAD.size : _HEAD.size + size])


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 ``(H, W, C)`` of one to four channels, as grey or RGB, with alpha where their number is even, to a PNG."""
    height, width, channels = pixels.shape
    flat = pixels.reshape(height, width * channels)
    rows = np.empty((height, 1 + width * channels), np.uint8)
    if pixels.size < _FILTERED_VALUES:
        rows[:, 0], rows[:, 1:] = _NONE, flat
    else:
        rows[:, 0], rows[0, 1:] = _UP, flat[0]
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    data = isal_zlib.compress(rows.data, 1)
    parts = (_chunk(b"IDAT", data[at : at + _MOST_IN_CHUNK]) for at in range(0, len(data), _MOST_IN_CHUNK))
    return b"".join((SIGNATURE, _chunk(b"IHDR", header), *parts, _END))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", len(data), name) + data + struct.pack(">I", isal_zlib.crc32(data, zlib.crc32(name)))
