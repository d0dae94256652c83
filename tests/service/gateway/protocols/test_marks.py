"""An image within other bytes or text is found, whatever its first bytes and in whatever spelling; nothing else is."""

import base64
import io
import json
import struct
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw

from arn_purify.service.gateway.protocols import marks
from arn_purify.service.gateway.protocols.spelling import read

GREY = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)


def saved(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(first, between=b""):
    """A JPEG whose segment of this marker is the first."""
    data, segments, at = saved("JPEG"), [], 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at : at + length])
        at += length
    return b"\xff\xd8" + between + b"".join(sorted(segments, key=lambda part: part[1] != first)) + data[at:]


BMP = saved("BMP")
ROWS = np.repeat(GREY[::-1, :, None], 3, 2).tobytes()
CORE = b"BM" + struct.pack("<IHHII4H", 26 + len(ROWS), 0, 0, 26, 12, 28, 28, 1, 24) + ROWS
FILES = {
    "PNG": saved("PNG"), "WebP": saved("WEBP", lossless=True), "GIF": saved("GIF"), "TIFF": saved("TIFF"),
    "BigTIFF": saved("TIFF", big_tiff=True), "JPEG 2000": saved("JPEG2000"), "AVIF": saved("AVIF"),
    "codestream": saved("JPEG2000", no_jp2=True), "PPM": saved("PPM"), "PCX": saved("PCX"),
    "JPEG": saved("JPEG"), "DHT first": jpeg(0xC4), "SOF first": jpeg(0xC0), "DQT first": jpeg(0xDB),
    "DRI first": jpeg(0xE0, b"\xff\xdd\0\4\0\0"), "fill bytes": jpeg(0xE0, b"\xff\xff"),
    "comment first": jpeg(0xFE, b"\xff\xfe\0\4hi"),
    "BMP": BMP, "BMP core": CORE, "BMP reserved": BMP[:6] + b"\1\0\0\0" + BMP[10:],
}  # fmt: skip


def b64(data):
    return base64.b64encode(data).decode()


def url_safe(data):
    return base64.urlsafe_b64encode(data).decode()


WITHIN = {
    "base64 in JSON": lambda data: json.dumps({"image": b64(data)}),
    "URL-safe base64 in JSON": lambda data: json.dumps({"image": url_safe(data)}),
    "base64 as a name": lambda data: json.dumps({b64(data): 1}),
    "hexadecimal in JSON": lambda data: json.dumps({"image": data.hex()}),
    "base64 twice in JSON": lambda data: json.dumps({"image": b64(b64(data).encode())}),
    "Latin-1 in JSON": lambda data: json.dumps(["a cat", data.decode("latin-1")], ensure_ascii=False),
    "escapes in JSON": lambda data: json.dumps(["a cat", data.decode("latin-1")]),
    "JSON in JSON": lambda data: json.dumps({"image": json.dumps({"image": url_safe(data)})}),
    "JSON in bytes": lambda data: json.dumps({"image": data.hex()}).encode(),
    "base64 in Python": lambda data: f"{{'image': '{b64(data)}'}}",
    "hexadecimal in text": lambda data: f"the image is 0x{data.hex()}.",
    "URL-safe base64 behind a prefix": lambda data: "image/jpeg;base64:" + url_safe(data),
    "lines of base64 in text": lambda data: "an image:\n" + base64.encodebytes(data).decode(),
    "other bytes": lambda data: b"\x0a\xff\x01" + data,
    "base64 of other bytes": lambda data: b64(b"\x0a\xff\x01" + data),
    "base64 in other bytes": lambda data: b"\x0a\xff\x01\x12" + b64(data).encode() + b"\x18\0",
}


@pytest.mark.parametrize("how", WITHIN)
@pytest.mark.parametrize("kind", FILES)
def test_an_image_within_something_else_is_refused(kind, how):
    with Image.open(io.BytesIO(FILES[kind])) as image:
        assert image.size == (28, 28)
    found = read(WITHIN[how](FILES[kind]))
    assert found
    assert found.reason


@pytest.mark.parametrize("kind", [kind for kind in FILES if FILES[kind][:2] == b"\xff\xd8"])
@pytest.mark.parametrize("start", [b"\x0a\xff\xd8", "see /9j", "x"])
def test_a_jpeg_behind_the_beginning_of_one_is_found(start, kind):
    data = FILES[kind]
    assert read(start + (data if isinstance(start, bytes) else b64(data))).reason


def page():
    """The pixels of a page with smooth grey edges, which have many bytes 255 and some of 216."""
    image = Image.new("L", (900, 600), "white")
    draw = ImageDraw.Draw(image)
    for at in range(20, 560, 40):
        draw.text((at, at), "Some words of black on white", fill=at % 200)
        draw.ellipse((at, 20, at + 300, 320), outline="grey")
    return image.resize((600, 400), Image.Resampling.LANCZOS).tobytes()


RANDOM = np.random.default_rng(7)
OTHERS = {
    "random bytes": RANDOM.bytes(2**20),
    "a page": page(),
    "base64 of numbers": b64(RANDOM.bytes(2**19)),
    "strings of a protocol": b"\x0a\x03\x01ab" * 100_000,
    "paths": "\n".join(f"/workspace/models/{at:020}" for at in range(70_000)),
    "digits": " ".join(f"{at:064x}" for at in range(70_000)),
    "priorities": "see: " + "P1 P2 P3 P4 10 20 " * 70_000,
    "JSON": json.dumps([{"name": f"number {at}", "path": f"/9/data/{at}"} for at in range(1000)]),
    "a quote": 'Of "a cat", "GIF89a is a word here", and BM another.' + "\xe9",
    "JSON that is broken": '["a", "b\\x"' + ', "\\"' * 1000,
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_values_hold_no_image(what):
    assert read(OTHERS[what]) is None


@pytest.mark.parametrize(
    "value",
    ['["' + '\\"' * 2**20, '["' + '","' * 2**19, b"\x80\xff\xd8" + b"\xff" * 2**20 + b"\0", b"\0\x80" + b"BM" * 2**19,
     "x " + "/9j/4" * 2**18, "x " + "iV" + "A" * 2**20, "x " + "8950" * 2**18, "x " + "UDUg" * 2**18],
)  # fmt: skip
def test_the_time_grows_with_the_length(value):
    start = time.process_time()
    read(value)
    assert time.process_time() - start < 4


def test_only_so_many_texts_of_json_are_looked_at(monkeypatch):
    text = json.dumps(["a text of some length"] * 9)
    assert read(text) is None
    monkeypatch.setattr("arn_purify.service.gateway.protocols.spelling.MOST_PLACES", 8)
    assert read(text).reason == "holds more than 8 texts as JSON"


def test_only_so_many_places_are_looked_at(monkeypatch):
    data = b"\0\x80" + b"BM" * 9
    assert marks.place(data) is None
    monkeypatch.setattr(marks, "MOST_PLACES", 8)
    assert marks.place(data) == 2 + 2 * 7
