"""The short way for plain PNGs gives what Pillow gives. See :mod:`tests.fuzz_png`."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec, png
from arn_purify.service.errors import BrokenImage, TooManyPixels
from tests.fuzz import png_chunk, saved
from tests.fuzz_png import run

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
IMAGES = {mode: Image.fromarray(PIXELS).convert(mode) for mode in ("L", "LA", "RGB", "RGBA")}


def test_generated_and_damaged_files_have_the_same_pixels_or_the_same_refusal():
    record = run(300, seed=1)
    assert record["different"] == []
    assert record["outcomes"]["plain, read"] > 150
    assert record["outcomes"]["plain, broken_image"] > 20
    assert record["outcomes"]["not plain, read"] > 50


@pytest.mark.parametrize("mode", IMAGES)
def test_what_pillow_writes_is_plain_and_opened_without_pillows_open(mode, monkeypatch):
    data = bytearray(saved(IMAGES[mode], "PNG"))
    expected = codec.open_by_pillow(data, 99).decode(3)
    monkeypatch.setattr(codec, "open_by_pillow", None)
    opened = codec.open_image(data, 99)
    assert (opened.size, opened.channels) == ((9, 11), 1 if mode in ("L", "LA") else 3)
    assert np.array_equal(opened.decode(3), expected)
    with pytest.raises(TooManyPixels, match="11x9 pixels"):
        codec.open_image(data, 98)


def test_what_is_not_plain_is_left_to_pillow():
    data = saved(IMAGES["RGB"], "PNG")
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 4), np.uint8)
    assert png.open_plain(data)
    assert png.open_plain(saved(Image.fromarray(noise[..., :3]), "PNG"))
    header, pixels = data[16:29], data[41:-16]
    others = {
        "cut": data[:-1],
        "longer": data + b"x",
        "too short": data[:20],
        "header's checksum": data[:29] + bytes(4) + data[33:],
        "chunk before the pixels": data[:33] + png_chunk(b"gAMA", bytes(4)) + data[33:],
        "chunk behind the pixels": data[:-12] + png_chunk(b"gAMA", bytes(4)) + data[-12:],
        "two chunks of pixels": data[:33]
        + png_chunk(b"IDAT", pixels[:9])
        + png_chunk(b"IDAT", pixels[9:])
        + data[-12:],
        "many pixels": saved(Image.new("L", (129, 128)), "PNG"),
        "many bytes": saved(Image.fromarray(noise), "PNG"),
        "palette": saved(IMAGES["RGB"].convert("P"), "PNG"),
        "one bit": saved(IMAGES["L"].convert("1"), "PNG"),
        "JPEG": saved(IMAGES["RGB"], "JPEG"),
    }
    for at, value in [(0, 0), (3, 0), (8, 16), (9, 3), (9, 1), (10, 1), (11, 1), (12, 1)]:  # of the header
        changed = header[:at] + bytes([value]) + header[at + 1 :]
        changed = bytes(4) + changed[4:] if at < 4 else changed
        others[f"header {at}"] = data[:8] + png_chunk(b"IHDR", changed) + data[33:]
    assert {name for name, other in others.items() if png.open_plain(other)} == set()


def test_broken_pixels_are_decoded_once(monkeypatch):
    data = saved(IMAGES["RGB"], "PNG")
    broken = data[:50] + bytes(20) + data[70:]
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(BrokenImage, match="cannot be decoded"):
        codec.open_image(broken, 99).decode(3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 11), (1, 5000), (90, 70)])
def test_what_is_written_is_read_by_pillow(channels, size, monkeypatch):
    monkeypatch.setattr(png, "_MOST_IN_CHUNK", 500)
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    for given in (pixels, pixels[:, ::-1]):
        image = Image.open(io.BytesIO(png.encode(given)))
        assert np.array_equal(np.asarray(image).reshape(given.shape), given)
        assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]


def test_checksums_that_are_written_are_right():
    data = codec.encode_image(PIXELS[..., :3])
    at, names = 8, []
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        assert data[at : at + 12 + length] == png_chunk(name, data[at + 8 : at + 8 + length])
        names.append(name)
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]
    assert len(zlib.decompress(data[41:-16])) == 9 * (1 + 11 * 3)
