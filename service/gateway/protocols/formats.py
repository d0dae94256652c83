"""Which image format bytes begin as: those that are decoded here, and those that must not pass undecoded.

The checks are no stricter than those of Pillow, which opens files whose headers are odd.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable

READ = ("PNG", "JPEG", "WebP", "BMP")
"""The formats that are decoded here; every other one is refused by name."""

HEAD_BYTES = 510
"""The format is recognised by so much of a file, or by all of it; a multiple of three, as base64 is."""
FEWEST_BYTES = 10
"""No image is smaller."""
OPEN_ENDED = ("XBM", "PNM", "ICO", "PCX")
"""Their headers may be longer; a head in which the header does not end counts as one."""
MAY_GO_ON = re.compile(r"P[0-7fFy]|\s{0,16}(?:#define\s|/\*)|\0\0[\1\2]\0|\n[\0\2\3\5]")
"""How those begin."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_STARTS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("PNG", (b"\x89PNG\r\n\x1a\n",)),
    ("JPEG", (b"\xff\xd8\xff",)),
    ("GIF", (b"GIF87a", b"GIF89a")),
    ("TIFF", TIFF_STARTS),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")),
    ("PSD", (b"8BPS\0\x01", b"8BPS\0\x02")),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance", (b"#?RADIANCE\n", b"#?RGBE\n")),
    ("QOI", (b"qoif",)),
    ("NumPy", (b"\x93NUMPY",)),
    ("SGI", tuple(b"\x01\xda%c%c" % (packed, width) for packed in (0, 1) for width in (1, 2))),
    ("DDS", (b"DDS \x7c\0\0\0",)),
    ("SUN", (b"\x59\xa6\x6a\x95",)),
    ("ICNS", (b"icns",)),
    ("BLP", (b"BLP1\0", b"BLP1\1", b"BLP2\0", b"BLP2\1")),
    ("MSP", (b"DanM", b"LinS")),
    ("FITS", (b"SIMPLE",)),
    ("EPS", (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    ("XPM", (b"/* XPM */",)),
    ("DCX", (b"\xb1\x68\xde\x3a",)),
    ("PIXAR", (b"\x80\xe8\0\0",)),
    ("FTEX", (b"FTEX",)),
    ("WMF", (b"\xd7\xcd\xc6\x9a\0\0",)),
    ("FlashPix", (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",)),
    ("XV thumbnail", (b"P7 332",)),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"), "HEIC"),
}
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_BITMAP_INFO = (12, *_BMP_HEADERS[2:])  # with these a DIB may begin
_FRAMES = (b"\x89PNG", b"", *(b"%c\0\0\0" % size for size in _BITMAP_INFO))  # of an icon; none where a head is cut
_DEPTHS = (1, 4, 8, 16, 24, 32)
_JPEG = re.compile(
    rb"\xff\xd8\xff++(?:(\xe0..JFIF|\xe1..(?:Exif|http:)|\xee..Adobe|\xdb\0[\x43\x84\xc5]\0)|[\xc0-\xcf\xda-\xef\xfe](..))",
    re.DOTALL,
)
_MARKER = re.compile(rb"\xff++[\xc0-\xcf\xda-\xef\xfe]")
_FITS = re.compile(rb"SIMPLE..\s*+=?\s*+T\s*+(?:/|\Z)", re.DOTALL)
_XBM = re.compile(rb"\s{0,16}(?:#define\s|/\*)")
_XBM_WIDTH = re.compile(rb"width[ \t]++\d")
_XBM_BITS = re.compile(rb"bits\s{0,9}\[")
_COMMENT = re.compile(rb"#[^\r\n]*+[\r\n]?")
_NETPBM_HEADER = re.compile(rb"P(?:[1-7fF]|0CMYK|y(?:P|RGBA|CMYK))(?:[-+\s\d_.eE]|#[^\r\n]*+[\r\n]?)*+")
_MOST_HEADER_BYTES = 2**16  # of netpbm's
_NUMBER = rb"\s++\+?\d[\d_]{0,9}"
_NETPBM = re.compile(
    rb"P(?:[14]%(n)b%(n)b|(?:[2356]|0CMYK|y(?:P|RGBA|CMYK))%(n)b%(n)b%(n)b|[fF]%(n)b%(n)b\s++[-+.\d][-+.\deE]{0,30})\s"
    % {b"n": _NUMBER}
)
_PAM = re.compile(rb"P7\s(?:(?:HEIGHT|DEPTH|MAXVAL|TUPLTYPE|#)[^\n]*+\n|\s++)*+WIDTH\s")
_IM = re.compile(rb"\r*+(?:[A-Za-z][^:\n]{0,98}:[^\n]{0,98}\n\r*+)++[\0\x1a]")
_IMT = re.compile(rb"(?=[^\n]{0,99}\n)(?:(?:\*|[a-z]++ )[^\n\x0c]{0,98}\n)++\x0c")
_IPTC = re.compile(rb"\x1c[\1-\x09\xf0]")
_UPPER = re.compile(rb"[A-Z]")

FIRST_PAIRS = (
    *{start[:2] for _, starts in _STARTS for start in starts},
    b"RI", b"BM", b"\0\0", b"#d", b"\n#", *(b"P%c" % sign for sign in b"01234567fFy"),
    *(b"\x0a%c" % version for version in (0, 2, 3, 5)), *(b"%c\0" % size for size in _BITMAP_INFO),
)  # fmt: skip
"""The two bytes with which nearly every one of these formats begins."""
LONG_STARTS = tuple(start for _, starts in _STARTS for start in starts if len(start) >= 6 and start[:1] != b"G")
"""Those that hardly ever stand in other bytes by chance; GIF's may be words."""


def format_of(data: bytes | bytearray | memoryview, sure: bool = False) -> str | None:
    """The image format that ``data``, a whole value or its first ``HEAD_BYTES``, begin as; None for none.

    ``sure``: only what numbers hardly ever begin as by chance.
    """
    head = bytes(data[:HEAD_BYTES])
    if len(head) < FEWEST_BYTES:
        return None
    if head.startswith(_ALL_STARTS):
        name = next(name for name, starts in _STARTS if head.startswith(starts))
        if name not in _FURTHER or _FURTHER[name](head, sure):
            return name
    if head[4:8] == b"ftyp":
        size = min(struct.unpack(">I", head[:4])[0], len(head))
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, size, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if found := next((name for name, matches in _RULES if matches(head, sure)), None):
        return found
    if head[:4] in (b"\0\0\1\0", b"\0\0\2\0") and _is_icon(data, sure):
        return "ICO"
    if head[:1] == b"\n" and _is_pcx(data, sure):
        return "PCX"
    if _XBM.match(head) and _is_xbm(data, sure):
        return "XBM"
    if head[:1] == b"P" and _is_netpbm(data):
        return "PNM"
    return None if sure else _rare(data)


def is_jpeg(data: bytes | bytearray | memoryview, at: int = 0) -> bool:
    """Whether a JPEG file begins there: a segment of a usual name, or any segment and behind it another marker.

    Of a file's first ``HEAD_BYTES`` the first segment is enough.
    """
    if not (found := _JPEG.match(data, at)):
        return False
    if found[1]:
        return True
    after = found.end() - 2 + int.from_bytes(found[2], "big")
    return (after > len(data) - 2 and len(data) == HEAD_BYTES) or _MARKER.match(data, after) is not None


def _is_words(head: bytes) -> bool:
    """Whether the base64 of these bytes may be words, of which few letters are capital."""
    letters = base64.b64encode(head)
    return 8 * len(_UPPER.findall(letters)) <= len(letters)


def _is_checked(head: bytes) -> bool:
    """Whether the sixteen words of an MSP header, the last of which is a checksum, make up zero."""
    if len(head) < 32:
        return False
    words = 0
    for word in struct.unpack("<16H", head[:32]):
        words ^= word
    return words == 0


def _below_space(*places: int) -> Callable[[bytes, bool], bool]:
    """The first bytes of sizes below 2**29, as text has none."""
    return lambda head, _: len(head) > max(places) and all(head[at] < 32 for at in places)


_FURTHER: dict[str, Callable[[bytes, bool], bool]] = {
    "JPEG": lambda head, sure: not sure or is_jpeg(head),
    "JPEG XL": lambda head, sure: head[0] == 0 or not (sure or _is_words(head)),
    "MSP": lambda head, _: _is_checked(head),
    "FITS": lambda head, _: _FITS.match(head[:80]) is not None,
    "QOI": _below_space(4, 8),
    "ICNS": _below_space(4),
    "FTEX": _below_space(11, 15),
}


def _is_bitmap(head: bytes, _sure: bool) -> bool:
    """Whether the headers of a BMP make sense; some readers take headers of any size."""
    if head[:2] != b"BM" or len(head) < 18:
        return False
    reserved, offset, size = struct.unpack("<III", head[6:18])
    return size in _BMP_HEADERS or (reserved == 0 and 14 < offset < 2**16 and 12 <= size < 2**10)


def _is_bitmap_info(head: bytes, sure: bool) -> bool:
    """Whether the header of a BMP without its file's makes sense, which has a size and so many bits a pixel."""
    if head[1:4] != b"\0\0\0" or len(head) < 16 or head[0] not in _BITMAP_INFO:
        return False
    width, height, planes, bits = struct.unpack_from("<4H" if head[0] == 12 else "<IIHH", head, 4)
    return bits in _DEPTHS and width > 0 and height > 0 and (planes == 1 or not sure)


def _is_pcx(data: bytes | bytearray | memoryview, sure: bool) -> bool:
    """Whether the header of a PCX file makes sense, and the file is long enough: two bytes unpack to 63 at most."""
    if len(data) < 68 or data[1] not in (0, 2, 3, 5) or data[3] not in (1, 2, 4, 8) or not 1 <= data[65] <= 4:
        return False
    left, top, right, bottom = struct.unpack("<4H", data[4:12])
    if left > right or top > bottom or (sure and (data[2] > 1 or data[64])):
        return False
    unpacked = (right - left + 1) * (bottom - top + 1) * data[3] * data[65] // 8
    return len(data) == HEAD_BYTES or unpacked <= 32 * len(data)


def _is_icon(data: bytes | bytearray | memoryview, sure: bool) -> bool:
    """Whether an image may begin where the directory of an icon or a cursor says."""
    if len(data) < 22:
        return False
    count = data[4] + 256 * data[5]
    if sure:
        reserved, _, bits, size, offset = struct.unpack("<BHHII", data[9:22])
        return bool(0 < count <= 256 and reserved == 0 and bits <= 64 and size > 0 and offset >= 6 + 16 * count)
    cut = len(data) == HEAD_BYTES
    entries = data[6 : 6 + 16 * count]
    places = struct.iter_unpack("<12xI", entries[: len(entries) // 16 * 16])
    starts = (bytes(data[at : at + 4]) for (at,) in places if at < len(data) or cut)
    return (cut and len(entries) < 16 * count) or any(start in _FRAMES for start in starts)


def _is_gimp_brush(head: bytes, _sure: bool) -> bool:
    if len(head) < 20:
        return False
    size, version, width, height, depth = struct.unpack(">5I", head[:20])
    return size >= 20 and version in (1, 2) and width > 0 and height > 0 and depth in (1, 4)


def _is_mcidas(head: bytes, _sure: bool) -> bool:
    if head[:8] != b"\0\0\0\0\0\0\0\4" or len(head) < 256:
        return False
    height, width, depth = struct.unpack(">3i", head[32:44])
    return width > 0 and height > 0 and depth in (1, 2, 4)


_RULES: tuple[tuple[str, Callable[[bytes, bool], bool]], ...] = (
    ("WebP", lambda head, _: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
    ("BMP", _is_bitmap),
    ("DIB", _is_bitmap_info),
    ("FLI", lambda head, _: head[4:6] in (b"\x11\xaf", b"\x12\xaf") and head[14:16] in (b"\0\0", b"\3\0")),
    ("GBR", _is_gimp_brush),
    ("McIDAS", _is_mcidas),
    ("WMF", lambda head, _: head[:4] == b"\1\0\0\0" and head[40:44] == b" EMF"),
)
_ALL_STARTS = tuple(start for _, starts in _STARTS for start in starts)


def _is_xbm(data: bytes | bytearray | memoryview, sure: bool) -> bool:
    """Whether C source code, whatever comments stand before it, defines the width of bits."""
    cut = len(data) == HEAD_BYTES
    return (cut and not sure) or bool(_XBM_WIDTH.search(data) and _XBM_BITS.search(data))


def _is_netpbm(data: bytes | bytearray | memoryview) -> bool:
    """Whether a header of netpbm's is there; a comment within a number ends it for some readers, and not for others."""
    if _PAM.match(data):
        return True
    if not (header := _NETPBM_HEADER.match(data, 0, _MOST_HEADER_BYTES)):
        return False
    unended = header.end() == min(len(data), _MOST_HEADER_BYTES) in (HEAD_BYTES, _MOST_HEADER_BYTES)
    return unended or any(_NETPBM.match(_COMMENT.sub(instead, header[0])) for instead in (b"", b"\n"))


def _rare(data: bytes | bytearray | memoryview) -> str | None:
    """The formats that begin with names and values, or with anything."""
    head = bytes(data[:HEAD_BYTES])
    if _IM.match(data):
        return "IM"
    if _IMT.match(data):
        return "IMT"
    if _IPTC.match(head) and all(b"\x1c\x03" + field in head for field in (b"\x14", b"\x1e", b"\x3c")):
        return "IPTC"
    return "PCD" if data[2048:2052] == b"PCD_" else None
