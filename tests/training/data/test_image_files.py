"""How image files are decoded, and come to the size that a network is trained at."""

import struct

import numpy as np
import pytest
from PIL import Image

from arn_purify.training.data.image_files import fit_image, read_image


def stripes(width, height):
    """Red on the left quarter, blue on the right quarter, green between."""
    image = Image.new("RGB", (width, height), (0, 200, 0))
    image.paste((200, 0, 0), (0, 0, width // 4, height))
    image.paste((0, 0, 200), (width - width // 4, 0, width, height))
    return image


def test_an_oblong_image_is_cropped_to_its_centre_or_fitted_between_borders():
    wide = stripes(192, 64)
    cropped, fitted = (np.asarray(fit_image(wide, (32, 32), fit)) for fit in ("crop", "fit"))
    assert (cropped == (0, 200, 0)).all(), "the coloured quarters lie outside the centre"
    bars = fitted[[*range(10), *range(21, 32)]]
    assert (bars == 0).all()
    assert fitted[10:21, 0].tolist() == [[200, 0, 0]] * 11
    assert fitted[10:21, -1].tolist() == [[0, 0, 200]] * 11
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert (np.asarray(fit_image(tall, (32, 32))) == (0, 200, 0)).all()


def test_the_order_of_operations_is_that_of_the_docstring():
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (45, 100, 3), np.uint8))
    cropped = noise.resize((32, 24), Image.Resampling.BICUBIC, box=(20, 0, 80, 45))
    assert np.array_equal(fit_image(noise, (24, 32), "crop"), cropped)
    fitted = np.zeros((24, 32, 3), np.uint8)
    fitted[5:19] = noise.resize((32, 14), Image.Resampling.BICUBIC)
    assert np.array_equal(fit_image(noise, (24, 32), "fit"), fitted)


@pytest.mark.parametrize("size", [(1, 500), (500, 1)])
def test_a_line_of_pixels_stays_visible(size):
    assert np.asarray(fit_image(Image.new("L", size, 200), (28, 28), "fit")).sum() == 28 * 200


@pytest.mark.parametrize("fit", ["crop", "fit"])
def test_an_image_of_the_size_is_left_alone(fit):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8))
    assert np.array_equal(fit_image(noise, (24, 32), fit), noise)


@pytest.mark.parametrize(("alpha", "shown"), [(0, (10, 20, 30)), (255, (10, 20, 30)), (128, (5, 10, 15))])
def test_a_bitmap_whose_alpha_was_never_set_is_opaque(alpha, shown, tmp_path):
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0) + masks + bytes(52)
    start = 14 + len(header)
    pixels = bytes((30, 20, 10, alpha)) * 16
    (tmp_path / "x.bmp").write_bytes(struct.pack("<2sIHHI", b"BM", start + 64, 0, 0, start) + header + pixels)
    assert read_image(tmp_path / "x.bmp").getpixel((1, 1)) == shown
