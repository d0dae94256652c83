"""Bytes to arrays: what a user's image becomes, and nothing but our own errors for what is no image."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.errors import BadParameter, BrokenBody, BrokenImage, ServiceError, TooManyPixels

LIMIT = 10_000


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data, channels=3, resize_to=None):
    return codec.open_image(data, LIMIT).decode(channels, resize_to)[0]


def gradient(mode="RGB", size=(7, 5)):
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return image.convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_formats_arrive_as_they_are(kind, mode):
    image = gradient(mode)
    data = saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decoded(data), expected)
    assert codec.open_image(data, LIMIT).size == (5, 7)


def test_a_grey_image_keeps_its_levels_in_either_number_of_channels():
    image = gradient("L")
    assert np.array_equal(decoded(saved(image), 1)[..., 0], np.asarray(image))
    assert np.array_equal(decoded(saved(image.convert("RGB")), 1)[..., 0], np.asarray(image))


def test_colour_becomes_luminance_for_a_grey_model():
    assert decoded(saved(Image.new("RGB", (1, 1), (255, 0, 0))), 1).item() == 76
    assert decoded(saved(Image.new("RGB", (1, 1), (0, 255, 0))), 1).item() == 150


def test_sixteen_bits_are_rounded_to_eight():
    levels = np.array([[0, 128, 129, 257, 65535]], np.uint16)
    assert decoded(saved(Image.fromarray(levels)), 1)[..., 0].tolist() == [[0, 0, 1, 1, 255]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_black(mode):
    image = Image.new(mode, (1, 1), (200, 200, 200, 128) if mode == "RGBA" else (200, 128))
    assert decoded(saved(image)).flatten().tolist() == pytest.approx([100] * 3, abs=1)
    clear = Image.new("RGBA", (1, 1), (255, 255, 255, 0))
    assert decoded(saved(clear), 1).item() == 0


def bit_fields(pixels, alpha):
    """A BMP of 32 bits a pixel whose header (BITMAPV4HEADER) names a mask for each of four channels."""
    height, width, _ = pixels.shape
    rows = np.dstack([pixels[..., ::-1], np.full((height, width), alpha, np.uint8)])[::-1].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I", 108, width, height, 1, 32, 3, len(rows), 0, 0, 0, 0, *masks)
    header = header.ljust(108, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(rows), 0, 0, 14 + 108) + header + rows


def test_a_bmp_whose_alpha_was_never_set_is_opaque_and_one_with_alpha_is_not():
    pixels = np.asarray(gradient())
    assert np.array_equal(decoded(bit_fields(pixels, 0)), pixels)
    assert np.array_equal(decoded(bit_fields(pixels, 255)), pixels)
    assert decoded(bit_fields(pixels, 128)).max() <= 129
    clear = gradient("RGBA")
    clear.putalpha(0)
    assert decoded(saved(clear)).max() == 0, "a PNG says that it has alpha"


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("JPEG", {}), ("WEBP", {}), ("WEBP", {"lossless": True})]
)
def test_only_pixels_tell_whether_an_image_has_colour(kind, options):
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    assert not codec.open_image(saved(grey.convert("RGB"), kind, **options), LIMIT).has_colour()
    assert not codec.open_image(saved(grey), LIMIT).has_colour()
    tinted = np.asarray(grey.convert("RGB")).copy()
    tinted[4:20, 4:20, 0] = 200
    assert codec.open_image(saved(Image.fromarray(tinted), kind, **options), LIMIT).has_colour()


def test_palettes_are_looked_up_and_their_transparency_counts():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decoded(saved(image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decoded(saved(image, transparency=1)).tolist() == [[[10, 20, 30], [0, 0, 0]]]


def test_one_bit_and_cmyk_images_are_read():
    assert decoded(saved(Image.new("1", (2, 2), 1)), 1).min() == 255
    assert decoded(saved(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "JPEG")).min() > 250


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_and_the_size_is_the_viewers(kind):
    image = Image.new("L", (8, 16), 0)
    image.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: the bright top is the right half
    opened = codec.open_image(saved(image, kind, exif=exif), LIMIT)
    assert opened.size == (8, 16)
    pixels = opened.decode(1)[0, ..., 0]
    assert pixels.shape == (8, 16)
    assert pixels[:, 10:].min() > 200
    assert pixels[:, :6].max() < 50


def test_a_phones_mpo_is_its_first_picture():
    first, second = Image.new("RGB", (8, 8), (250, 250, 250)), Image.new("RGB", (4, 4), (0, 0, 0))
    data = saved(first, "MPO", save_all=True, append_images=[second])
    assert decoded(data).min() > 240


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind):
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 255)]
    with pytest.raises(BrokenImage, match="2 frames"):
        codec.open_image(saved(frames[0], kind, save_all=True, append_images=frames[1:]), LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.8])
def test_truncated_files_are_broken_images(kind, share):
    data = saved(gradient(size=(40, 40)), kind)
    with pytest.raises(BrokenImage):
        decoded(data[: int(len(data) * share)])


def test_other_formats_are_refused():
    for kind in ("GIF", "TIFF", "PPM"):
        with pytest.raises(BrokenImage, match="not a PNG, JPEG, WebP or BMP"):
            codec.open_image(saved(gradient(), kind), LIMIT)


def test_giant_dimensions_are_told_from_the_header():
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises((TooManyPixels, BrokenImage)):
        codec.open_image(b"\x89PNG\r\n\x1a\n" + chunk, 16_000_000)
    with pytest.raises(TooManyPixels, match="200x100 pixels"):
        codec.open_image(saved(Image.new("L", (200, 100))), LIMIT)


def test_resizing_resamples():
    assert decoded(saved(Image.new("L", (30, 20), 7)), 1, (28, 28)).shape == (28, 28, 1)


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_sent_comes_back_bit_equal(kind, channels):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 11, channels), dtype=np.uint8)
    assert np.array_equal(decoded(codec.encode_image(pixels, kind), channels), pixels)


ARRAYS = [np.random.default_rng(0).integers(0, 256, (3, 5, 4, 1), dtype=np.uint8),
          np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)]  # fmt: skip


@pytest.mark.parametrize("array", ARRAYS, ids=["uint8", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_tensors_arrive_as_they_are(array, order):
    data = codec.encode_npy(np.asarray(array, order=order))
    assert np.array_equal(codec.decode_npy(bytearray(data)), array)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.zeros((2, 2, 2, 1), np.float64), BadParameter),
        (np.zeros((2, 2, 2, 1), ">f4"), BadParameter),
        (np.zeros((2, 2), np.uint8), BadParameter),
        (np.zeros((0, 2, 2, 1), np.uint8), BadParameter),
        (np.full((1, 1, 2, 2), np.nan, np.float32), BadParameter),
        (np.full((1, 1, 2, 2), 1.001, np.float32), BadParameter),
        (np.full((1, 1, 2, 2), -0.001, np.float32), BadParameter),
    ],
)
def test_tensors_that_are_not_taken_are_told_why(array, error):
    with pytest.raises(error):
        codec.decode_npy(codec.encode_npy(array))


def test_lying_and_pickled_tensors_are_broken_bodies():
    honest = codec.encode_npy(ARRAYS[0])
    for lie in (
        honest[:-1],
        honest + b"x",
        honest.replace(b"(3, 5, 4, 1)", b"(3, 5, 4, 9)"),
        honest[:20],
        b"\x93NUMPY",
    ):
        with pytest.raises(BrokenBody):
            codec.decode_npy(lie)
    buffer = io.BytesIO()
    np.save(buffer, np.empty((1, 1, 1, 1), object), allow_pickle=True)
    with pytest.raises(BadParameter):
        codec.decode_npy(buffer.getvalue())


def mutated(data):
    return st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255), st.integers(0, len(data))).map(
        lambda t: (data[: t[0]] + bytes([t[1]]) + data[t[0] + 1 :])[: t[2] or None]
    )


IMAGES = [saved(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP")]


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=200), *(mutated(data) for data in IMAGES)))
@example(b"")
def test_no_bytes_raise_anything_but_our_own_errors(data):
    for channels in (1, 3):
        try:
            pixels = decoded(data, channels)
        except ServiceError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == channels


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), mutated(codec.encode_npy(ARRAYS[0])), mutated(codec.encode_npy(ARRAYS[1]))))
def test_no_tensor_raises_anything_but_our_own_errors(data):
    try:
        array = codec.decode_npy(data)
    except ServiceError:
        return
    assert array.ndim == 4
