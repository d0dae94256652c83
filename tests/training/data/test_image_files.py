"""How images of any size come to the one that a network is trained at."""

import numpy as np
import pytest
from PIL import Image

from arn_purify.training.data.image_files import resize_image


def stripes(width, height):
    """Red on the left quarter, blue on the right quarter, green between."""
    image = Image.new("RGB", (width, height), (0, 200, 0))
    image.paste((200, 0, 0), (0, 0, width // 4, height))
    image.paste((0, 0, 200), (width - width // 4, 0, width, height))
    return image


def test_an_oblong_image_is_cropped_to_its_centre_or_fitted_whole():
    wide = stripes(192, 64)
    cropped, fitted = (np.asarray(resize_image(wide, (32, 32), mode)) for mode in ("crop", "fit"))
    assert (cropped == (0, 200, 0)).all(), "the coloured quarters lie outside the centre"
    assert fitted[:, 0].tolist() == [[200, 0, 0]] * 32
    assert fitted[:, -1].tolist() == [[0, 0, 200]] * 32
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    assert (np.asarray(resize_image(tall, (32, 32))) == (0, 200, 0)).all()


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_the_order_of_operations_is_that_of_the_docstring(mode):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (45, 100, 3), np.uint8))
    wanted = noise.resize((32, 24), Image.Resampling.BICUBIC, box=(20, 0, 80, 45) if mode == "crop" else None)
    assert np.array_equal(resize_image(noise, (24, 32), mode), wanted)


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_an_image_of_the_size_is_left_alone(mode):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8))
    assert np.array_equal(resize_image(noise, (24, 32), mode), noise)
