"""What is no image is never taken for one; what is one is written again as its client wrote it."""

import base64
import io
import json
import struct
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from arn_purify.service.gateway.protocols import percent
from arn_purify.service.gateway.protocols.formats import format_of
from arn_purify.service.gateway.protocols.spelling import read

from ..helpers import PNG

RANDOM = np.random.default_rng(0)
NO_IMAGES = [
    "", "BM", "BMW", "PNG", "GIF", "P3 is great", "50% off, today", "data:text/plain,hello", "/9 k/", "cafe" * 40,
    "b'x'",
    b"", b"BM", b"\0\0\1\0" * 9, bytes(100), b"II", RANDOM.bytes(10_000),
    np.zeros((1, 3, 480, 640), np.uint8), RANDOM.integers(0, 256, (1, 3, 480, 640), np.uint8),
    RANDOM.integers(0, 256, (1, 480, 640, 3), np.uint8), RANDOM.random((8, 1000), np.float32),
    np.eye(20, dtype=np.uint8), np.zeros((4, 0)), np.array([], np.uint8), np.full((2, 20), np.nan),
    np.arange(1000), np.array([True] * 20),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_IMAGES, ids=lambda value: repr(value)[:30])
def test_other_values_are_no_images(value):
    assert read(value) is None


@given(
    st.text(max_size=200) | st.binary(max_size=200) | arrays.arrays(np.uint8, (4, 20)) | arrays.arrays(np.float32, 30)
)
def test_any_value_is_read_or_is_none(value):
    found = read(value)
    assert found is None or found.reason or found.files


@pytest.mark.parametrize("width", [1, 4, 60, 64, 76])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", " "])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("padded", [True, False])
def test_lines_of_any_length_are_written_again(width, line_break, end, padded):
    def spell(data):
        text = base64.b64encode(data).decode()
        text = text if padded else text.rstrip("=")
        return line_break.join(text[at : at + width] for at in range(0, len(text), width)) + end

    for data in (PNG, PNG + b"\0", PNG + b"\0\0"):  # each has another padding
        found = read(spell(data))
        assert list(found.files) == [data]
        if padded or len(data) % 3:  # of what needs no padding nobody can say whether it would have had one
            assert found.write([PNG + b"another"]) == spell(PNG + b"another")


def test_rows_of_several_files_keep_their_length_where_zeros_fill_them_up():
    rows = np.zeros((2, len(PNG) + 9), np.uint8)
    rows[0, : len(PNG)], rows[1, : len(PNG)] = list(PNG), list(PNG)
    found = read(rows)
    assert [file[: len(PNG)] for file in found.files] == [PNG, PNG]
    assert found.write([PNG[:50], PNG]).shape == rows.shape
    assert found.write([PNG, PNG + bytes(99)]).shape == (2, len(PNG) + 99)


def test_a_file_among_rows_that_are_none_is_named():
    rows = RANDOM.integers(0, 256, (3, len(PNG)), np.uint8)
    rows[1] = list(PNG)
    assert "one of its rows begins as a PNG file" in read(rows).reason


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "JPEG"), (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"), (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM" + bytes(12) + b"\x28\0\0\0", "BMP"), (b"BMW drives fast, really", None), (b"MM\0*" + bytes(9), "TIFF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "HEIC"), (b"\0\0\0\x18ftypisom\0\0\0\0isom", None),
        (b"P6 # a comment\n 28 28 255\n", "PNM"), (b"P4 28 28 ", None), (b"P7\nWIDTH 28\n", "PNM"),
        (b"\x93NUMPY\x01\0v\0{'descr'", "NumPy"),
    ],
)  # fmt: skip
def test_formats_are_told_by_their_first_bytes(head, expected):
    assert format_of(head) == expected


@pytest.mark.parametrize("head", [b"P1", b"P5 28", b"P6 28 28", b"PF 28", b"P7 "])
@pytest.mark.parametrize("gap", [b" ", b"\n", b"#\n", b" #\n "])
def test_no_gap_is_looked_at_in_many_ways(head, gap):
    """With two ways to match a character this would not end."""
    assert format_of(head + 200 * gap + b"x") is None


@given(st.text("%%%4aFgé0\n\ud800", max_size=40), st.sampled_from([3, 7, 2**18]))
def test_percent_encoding_is_undone_as_the_standard_library_does(text, piece):
    data = text.encode("utf-8", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(percent, "_PIECE", piece)
        assert percent.unquoted(data) == unquote_to_bytes(data)


def test_a_file_in_millions_of_lines_is_refused():
    """Each line would be an object while it is read."""
    data = PNG + bytes(2**18)
    letters = base64.b64encode(data).decode()
    usual, many = ("\n".join(letters[at : at + n] for at in range(0, len(letters), n)) for n in (76, 2))
    assert list(read(usual).files) == [data]
    assert read(many).reason.endswith("too many lines")


def test_a_prefix_may_begin_with_any_white_space():
    found = read(" " * 1000 + "data:image/png;base64," + base64.b64encode(PNG).decode())
    assert list(found.files) == [PNG]
    assert read(" " * 1_000_000) is None


def picture(kind, header=b""):
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (28, 28), np.uint8)).save(buffer, kind, lossless=True)
    return b"\xff\xd8" + header + buffer.getvalue()[20:] if header else buffer.getvalue()


EXIF = b"\xff\xe1" + struct.pack(">H", 16) + b"Exif\0\0II*\0\x08\0\0\0"
ADOBE = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe\0d" + bytes(5)
FILES = {
    "PNG": PNG, "JFIF": picture("JPEG"), "Exif": picture("JPEG", EXIF), "Adobe": picture("JPEG", ADOBE),
    "without": picture("JPEG")[:2] + picture("JPEG")[20:], "WebP": picture("WEBP"), "BMP": picture("BMP"),
}  # fmt: skip
HIDDEN = {
    "a tf.Example": lambda data: b"\x0a\xf7\x01\x0a\x05image\x12" + data,
    "its base64": lambda data: base64.b64encode(b"\x0a\xf7\x01\x0a\x05image\x12" + data).decode(),
    "a form's part": lambda data: (
        b"--c\r\nContent-Disposition: file; filename=z; more=abcdefghijklmnopq\r\n\r\n" + data
    ),
    "another text": lambda data: '{"image": "' + base64.b64encode(data).decode() + '"}',
    "JSON as PHP writes it": lambda data: json.dumps({"x": base64.b64encode(data).decode()}).replace("/", "\\/"),
    "JSON in JSON in JSON": lambda data: json.dumps(HIDDEN["JSON as PHP writes it"](data)).replace("/", "\\/"),
    "JSON of escapes": lambda data: '{"x": "' + "".join(f"\\u{sign:04X}" for sign in base64.b64encode(data)) + '"}',
    "JSON of Latin-1": lambda data: json.dumps({"x": data.decode("latin-1")}),
    "other characters": lambda data: "!" * 700 + "!".join(base64.b64encode(data).decode()),
    "letters as numbers": lambda data: np.frombuffer(base64.b64encode(data), np.uint8)[None],
    "letters of two": lambda data: np.tile(np.frombuffer(base64.b64encode(data), np.uint8), (2, 1)).astype(np.int64),
    "four bytes a number": lambda data: np.frombuffer(data + bytes(-len(data) % 4), "<i4"),
}


@pytest.mark.parametrize("how", HIDDEN)
@pytest.mark.parametrize("kind", FILES)
def test_an_image_in_something_else_is_found_and_refused(kind, how):
    found = read(HIDDEN[how](FILES[kind]))
    assert found
    assert found.reason
