"""No check of a format is stricter than Pillow's, and no ordinary value is taken for a file."""

import base64
import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.gateway.protocols.formats import HEAD_BYTES, format_of
from arn_purify.service.gateway.protocols.spelling import read

GREY = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
PIXELS = GREY.tobytes()
COLOURS = np.repeat(GREY[:, :, None], 3, 2).tobytes()


def saved(kind, mode="L", **options):
    buffer = io.BytesIO()
    Image.fromarray(GREY).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def changed(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def card(name, value):
    return f"{name:8}{value}".ljust(80).encode()


def fits(first):
    cards = [first, card("BITPIX", "= 8"), card("NAXIS", "= 2"), card("NAXIS1", "= 28"), card("NAXIS2", "= 28")]
    return b"".join([*cards, card("END", "")]).ljust(2880) + PIXELS


def icon(count, at):
    """An icon of so many images, all but one of which lie nowhere."""
    frame = saved("PNG")
    entries = [struct.pack("<BBBBHHII", 1, 1, 0, 1, 0, 0, 0, 2**31) for _ in range(count)]
    entries[at] = struct.pack("<BBBBHHII", 28, 28, 0, 1, 0, 0, 0, 6 + 16 * count)
    return struct.pack("<3H", 0, 1, count) + b"".join(entries) + frame


TIFF, PCX, DIB = saved("TIFF", big_tiff=True), saved("PCX"), saved("DIB")
XBM = saved("XBM", "1")
IM_LINES = b"Name: a\r\nImage type: L image\r\nImage size (x*y): 28*28\r\nFile size (no of images): 1\r\n"
IPTC_FIELDS = ((60, b"\1\0"), (20, b"\0\x1c"), (30, b"\0\x1c"), (120, b"\0\1"))
PSD = struct.pack(">HIIHHIII", 1, 28, 28, 8, 1, 0, 0, 0) + b"\0\0" + PIXELS
FLI = struct.pack("<IHHHHHHIH", 0, 0xAF11, 1, 28, 28, 8, 3, 0, 0).ljust(128, b"\0")
FLI += struct.pack("<IHH8xIH", 22 + len(PIXELS), 0xF1FA, 1, 6 + len(PIXELS), 16) + PIXELS
PIXAR = changed(changed(b"\x80\xe8".ljust(1024, b"\0"), 416, b"\x1c\0\x1c\0"), 424, b"\x0e\0\2\0") + COLOURS
CORE = struct.pack("<I4H", 12, 28, 28, 1, 24) + np.repeat(GREY[::-1, :, None], 3, 2).tobytes()
FILES = {
    "TIFF": {"BigTIFF": changed(TIFF, 4, b"\x09\0\1\0")},
    "PCX": {"reserved": changed(PCX, 64, b"\1"), "encoding": changed(PCX, 2, b"\7")},
    "DIB": {"no planes": changed(DIB, 12, b"\0\0"), "a short header": CORE},
    "ICO": {
        "reserved": changed(saved("ICO", "RGB", sizes=[(28, 28)], bitmap_format="bmp"), 9, b"\1"),
        "many images": icon(100, 99),
    },
    "PNM": {
        "a long comment": b"P5\n#" + b"c" * 600 + b"\n28 28\n255\n" + PIXELS,
        "blank lines": b"P5" + b"\n" * 600 + b"28 28\n255\n" + PIXELS,
        "a comment in a number": b"P5 2#c\n8 28 255\n" + PIXELS,
        "of Python": b"PyRGBA\n28 28\n255\n" + np.repeat(GREY[:, :, None], 4, 2).tobytes(),
    },
    "XBM": {
        "a line break": b"\n" + XBM,
        "a comment": b"/* a */ b\n*/\n" + XBM,
        "a long comment": b"/*\n" + 99 * b"a comment\n" + b"*/\n" + XBM,
        "another name": XBM.replace(b"im_width", b"width"),
    },
    "PSD": {"reserved": b"8BPS\0\1" + b"\1" * 6 + PSD},
    "FITS": {"a blank": fits(card("SIMPLE", "  = T")), "none": fits(card("SIMPLE", "=T / a comment"))},
    "XPM": {"": b'/* XPM */\nstatic char *x[] = {\n"1 1 1 1",\n"a c #000000",\n"a"};\n'},
    "XV thumbnail": {"": b"P7 332\n#END_OF_COMMENTS\n28 28 255\n" + PIXELS},
    "DCX": {"": struct.pack("<3I", 987654321, 12, 0) + PCX},
    "FLI": {"": FLI},
    "PIXAR": {"": PIXAR},
    "GBR": {"": struct.pack(">5I", 22, 1, 28, 28, 1) + b"a\0" + PIXELS},
    "IM": {"another line first": (IM_LINES + b"\0").ljust(511, b"\0") + b"\x1a" + PIXELS},
    "IMT": {"": b"* a comment\nwidth 28\nheight 28\npixel n8\n\x0c" + PIXELS},
    "FTEX": {"": b"FTEX" + struct.pack("<8i", 256, 28, 28, 1, 1, 1, 36, len(COLOURS)) + COLOURS},
    "PCD": {"": (b"a".ljust(2048) + b"PCD_").ljust(96 * 2048 + 768 * 512 * 3 // 2, b"a")},
    "IPTC": {
        "": b"".join(struct.pack(">BBBH", 28, 3, field, len(value)) + value for field, value in IPTC_FIELDS)
        + struct.pack(">BBBH", 28, 8, 10, len(PIXELS)) + PIXELS
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:IM image format")
@pytest.mark.parametrize(
    ("kind", "data"),
    [pytest.param(kind, data, id=f"{kind} {how}") for kind in FILES for how, data in FILES[kind].items()],
)
def test_a_file_that_pillow_opens_is_refused_by_name(kind, data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.width
    assert format_of(data) == kind
    for value in (data, base64.b64encode(data).decode(), np.frombuffer(data, np.uint8)):
        assert read(value).reason
    if kind != "PCD":
        assert read(data.hex()).reason
        assert read(data.decode("latin-1")).reason


@pytest.mark.parametrize("how", FILES["PNM"])
def test_base64_of_a_long_header_with_characters_that_readers_skip_is_refused(how):
    assert read("!" + "!".join(base64.b64encode(FILES["PNM"][how]).decode())).reason


def test_every_format_of_pillow_is_known_or_cannot_be_told():
    Image.init()
    ours = {kind.upper() for kind in FILES} | {"PPM", "CUR"}
    written = {"BMP", "BLP", "DDS", "EPS", "GIF", "ICNS", "JPEG", "JPEG2000", "MSP", "PNG", "QOI", "SGI", "SUN", "WEBP"}
    elsewhere = {"AVIF", "MCIDAS", "WMF", "XVTHUMB"}
    nothing_decodes = {"BUFR", "GRIB", "HDF5", "MPEG"}
    nameless = {"TGA", "SPIDER"}
    rest = {kind.upper() for kind in Image.OPEN} - ours - written - elsewhere - nothing_decodes - nameless
    assert rest <= {"FPX", "MIC"}, "Pillow opens another format"  # these two with olefile


@pytest.mark.parametrize(
    "text",
    [
        "/worker/data/model", "/workspace/models/resnet50", "/world/europe/news", "_world_news_2024",
        "/workspace/models/ResNet50/variables holds the weights of the model, as it was trained in the spring of 2024.",
        "LinSmith01", "DanMartin1", "SIMPLETONS AND OTHERS", "FTEXTURES OF CLOTH", "qoif is a fast format",
        "icns files", "Image type: cat", "P4 machines", "/* C */ int main(void) { return 0; }",
        "#define WIDTH 28\nint main;\n", "#define window_width 640\n" + "int main(void) { return 0; }\n" * 40,
        "Name: a\nTitle: b\n",
    ],
)  # fmt: skip
def test_ordinary_text_is_no_image(text):
    assert read(text) is None
    assert read(text.encode()) is None
    assert read(base64.b64encode(text.encode() * 20).decode()) is None


def test_a_bare_jpeg_xl_file_is_one():
    head = b"\xff\x0a" + np.random.default_rng(0).bytes(60)
    assert format_of(head) == "JPEG XL"
    assert format_of(head, sure=True) is None


@pytest.mark.parametrize("most", [3, 12, 256])
def test_numbers_are_seldom_the_beginning_of_a_loose_format(most):
    random = np.random.default_rng(most)
    found = [read(random.integers(0, most, 784).astype(np.uint8)) for _ in range(1000)]
    assert len([one for one in found if one]) <= 1


@pytest.mark.parametrize("start", [b"P5", b"P7\n", b"P5#", b"P5 1", b"/*", b"#define ", b"\0\0\1\0\xff\xff", b"A:\n"])
@pytest.mark.parametrize("more", [b" ", b"\n", b"#", b"#\n", b" #\n", b"1 ", b"#define ", b"#define a_width", b"A:\n"])
def test_the_time_grows_with_the_length(start, more):
    data = start + more * (2**20 // len(more)) + b"x"
    start_time = time.process_time()
    format_of(data)
    format_of(data[:HEAD_BYTES])
    assert time.process_time() - start_time < 1
