"""The short way in for plain PNGs: their pixels go to Pillow's PNG decoder without the rest of Pillow.

With small images opening a file costs several times what decoding its pixels does. Everything that is not plain is
read by ``PIL.Image.open``.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The signature, the whole IHDR chunk, and the head of the chunk behind it.
_HEAD = struct.Struct(">8sI4sIIBBBBBII4s")
_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
_MODES = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
# Pillow gives its decoder no more at once. Beyond it the long way costs no more, for inflating takes most of the time.
_MOST_BYTES = 64 * 2**10


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

    Plain is what consists of a header, one chunk of pixels and an end, with 8 bits a channel and no palette, not
    interlaced. The checksum of the header must be right; that of the pixels is not looked at, as Pillow does not.
    """
    if not _HEAD.size + 4 + len(_END) <= len(data) <= _MOST_BYTES or not data.endswith(_END):
        return None
    signature, length, ihdr, width, height, bits, colour, *methods, checksum, size, idat = _HEAD.unpack_from(data)
    if (signature, length, ihdr, bits, methods, idat) != (SIGNATURE, 13, b"IHDR", 8, [0, 0, 0], b"IDAT"):
        return None
    whole = _HEAD.size + size + 4 + len(_END) == len(data)
    if not whole or colour not in _MODES or not width or not height or zlib.crc32(data[12:29]) != checksum:
        return None
    return PlainPng(_MODES[colour], (width, height), data[_HEAD.size : _HEAD.size + size])
