"""Which image format bytes begin as: those that are decoded here, and those that must not pass undecoded."""

from __future__ import annotations

import re
import struct

READ = ("PNG", "JPEG", "WebP", "BMP")
"""The formats that are decoded here; every other one is refused by name."""

HEAD_BYTES = 512
"""The format is recognised by so much of a file."""
FEWEST_BYTES = 10
"""No image is smaller."""

_STARTS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", (b"\xff\xd8\xff",)),
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("TIFF", (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0")),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0")),
    ("PSD", (b"8BPS\0\x01\0\0\0\0\0\0", b"8BPS\0\x02\0\0\0\0\0\0")),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance", (b"#?RADIANCE\n", b"#?RGBE\n")),
    ("QOI", (b"qoif\0\0",)),
    ("NumPy", (b"\x93NUMPY",)),
    ("SGI", tuple(b"\x01\xda%c%c" % (packed, width) for packed in (0, 1) for width in (1, 2))),
    ("DDS", (b"DDS \x7c\0\0\0",)),
    ("SUN", (b"\x59\xa6\x6a\x95",)),
    ("ICNS", (b"icns\0",)),
    ("BLP", (b"BLP1\0", b"BLP1\1", b"BLP2\0", b"BLP2\1")),
    ("MSP", (b"DanM", b"LinS")),
    ("IM", (b"Image type:",)),
    ("FITS", (b"SIMPLE  =",)),
    ("EPS", (b"%!PS-Adobe", b"\xc5\xd0\xd3\xc6")),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"), "HEIC"),
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_BITMAP_INFO = _BMP_HEADERS[2:]  # with these a DIB may begin
_XBM = re.compile(rb"#define\s+\S*_width\s+\d")
_GAP = rb"(?:\s|#[^\n]*\n)+"  # one way to match each: two would double the work with every character
_NETPBM = re.compile(
    rb"P[14]" + _GAP + rb"\d{1,9}" + _GAP + rb"\d{1,9}\s|"
    rb"P[2356]" + _GAP + rb"\d{1,9}" + _GAP + rb"\d{1,9}" + _GAP + rb"\d{1,5}\s|"
    rb"P7\s(?:[^\n]*\n){0,9}?WIDTH \d|"
    rb"P[fF]" + _GAP + rb"\d{1,9}" + _GAP + rb"\d{1,9}" + _GAP + rb"[-+.\d]+\s"
)

FIRST_PAIRS = (
    *{start[:2] for _, starts in _STARTS for start in starts},
    b"RI", b"BM", b"\0\0", b"#d", *(b"P%c" % sign for sign in b"1234567fF"),
    *(b"\x0a%c" % version for version in (0, 2, 3, 5)), *(b"%c\0" % size for size in _BITMAP_INFO),
)  # fmt: skip
"""The two bytes with which every one of these formats begins."""


def format_of(data: bytes | bytearray | memoryview, sure: bool = False) -> str | None:
    """The image format that ``data`` begin as, of which the first ``HEAD_BYTES`` are enough; None for none.

    ``sure``: only what numbers hardly ever begin as by chance.
    """
    head = bytes(data[:HEAD_BYTES])
    if len(head) < FEWEST_BYTES:
        return None
    for name, starts in _STARTS:
        if head.startswith(starts):
            return None if sure and not _sure(name, head) else name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        size = min(struct.unpack(">I", head[:4])[0], len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if head[:2] == b"BM" and len(head) >= 18 and _is_bitmap(head):
        return "BMP"
    if head[:1] == b"\x0a" and _is_pcx(head):
        return "PCX"
    if head[1:4] == b"\0\0\0" and _is_bitmap_info(head):
        return "DIB"
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and _is_icon(head):
        return "ICO"
    if _XBM.match(head):
        return "XBM"
    return "PNM" if _NETPBM.match(head) else None


def _sure(name: str, head: bytes) -> bool:
    """Whether more than two or three bytes speak for it."""
    if name == "JPEG":  # a segment, and behind it another marker
        after = 4 + struct.unpack(">H", head[4:6])[0]
        return head[3] >= 0xC0 and (after >= len(head) or head[after] == 0xFF)
    return not (name == "JPEG XL" and head[0] == 0xFF)


def _is_bitmap(head: bytes) -> bool:
    """Whether the headers of a BMP make sense; some readers take headers of any size."""
    reserved, offset, size = struct.unpack("<III", head[6:18])
    return size in _BMP_HEADERS or (reserved == 0 and 14 < offset < 2**16 and 12 <= size < 2**10)


def _is_bitmap_info(head: bytes) -> bool:
    """Whether the header of a BMP without its file's makes sense, which has a plane and so many bits a pixel."""
    if len(head) < 16 or head[0] not in _BITMAP_INFO:
        return False
    planes, bits = struct.unpack("<HH", head[12:16])
    return planes == 1 and bits in (1, 4, 8, 16, 24, 32)


def _is_pcx(head: bytes) -> bool:
    """Whether the header of a PCX file makes sense."""
    if len(head) < 68 or head[1] not in (0, 2, 3, 5) or head[2] > 1 or head[3] not in (1, 2, 4, 8):
        return False
    left, top, right, bottom = struct.unpack("<4H", head[4:12])
    return left <= right and top <= bottom and head[64] == 0 and 1 <= head[65] <= 4


def _is_icon(head: bytes) -> bool:
    """Whether the first entry of an icon's directory makes sense."""
    if len(head) < 22:
        return False
    (count,) = struct.unpack("<H", head[4:6])
    reserved, _, bits, size, offset = struct.unpack("<BHHII", head[9:22])
    return bool(0 < count <= 256 and reserved == 0 and bits <= 64 and size > 0 and offset >= 6 + 16 * count)
