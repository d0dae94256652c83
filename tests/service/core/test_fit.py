"""One way to bring an image to a model's size: the service's is training's."""

import io

import numpy as np
import pytest
from PIL import Image

from arn_purify.service.core import codec
from arn_purify.service.core.fit import fit_image
from arn_purify.training import data

SIZE = 32


def noise(mode, size):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(values[..., :2].copy().view(np.uint16)[..., 0])
    return Image.fromarray(values).convert(mode)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


PICTURES = [
    *(("PNG", mode, (192, 64), {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(("PNG", mode, (40, 51), {}) for mode in ("RGBA", "L", "I;16")),
    *(("PNG", "RGB", size, {}) for size in [(32, 32), (7, 5), (1, 300), (33, 32)]),
    *(("JPEG", mode, (100, 60), turned()) for mode in ("RGB", "L", "CMYK")),
    ("WEBP", "RGBA", (70, 90), {"lossless": True}),
    ("BMP", "RGB", (64, 192), {}),
]  # fmt: skip


def pictures(test):
    return pytest.mark.parametrize(("kind", "mode", "size", "options"), PICTURES)(test)


@pictures
def test_the_service_prepares_an_image_as_training_does(kind, mode, size, options, tmp_path):
    picture = saved(noise(mode, size), kind, **options)
    for number in range(60):  # enough for each of training's three splits
        (tmp_path / "folder" / f"class_{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"class_{number % 2}" / f"{number}.{kind.lower()}").write_bytes(picture)
    trained = data.load("folder", tmp_path / "folder", size=SIZE).test.images[0].permute(1, 2, 0).numpy()
    served = codec.open_image(picture, 10**6).decode(trained.shape[-1], (SIZE, SIZE), "crop")[0]
    assert np.array_equal(served, trained)


@pictures
@pytest.mark.parametrize("fit", ["crop", "fit"])
def test_trainings_function_and_the_services_are_one(fit, kind, mode, size, options, tmp_path):
    training = pytest.importorskip("arn_purify.training.data.image_files")
    picture = saved(noise(mode, size), kind, **options)
    path = tmp_path / "picture"
    path.write_bytes(picture)
    trained = np.asarray(training.fit_image(training.read_image(path), (SIZE, 40), fit))
    assert np.array_equal(codec.open_image(picture, 10**6).decode(3, (SIZE, 40), fit)[0], trained)


def bars(size):
    """White at the left and right fifth, grey between."""
    image = Image.new("L", size, 100)
    fifth = size[0] // 5
    for left in (0, size[0] - fifth):
        image.paste(255, (left, 0, left + fifth, size[1]))
    return image


def test_crop_keeps_the_centre_and_fit_the_whole_image():
    wide = bars((200, 50))
    cropped = np.asarray(fit_image(wide, (28, 28), "crop"))
    assert (cropped == 100).all()
    fitted = np.asarray(fit_image(wide, (28, 28), "fit"))
    rows = fitted[:, 14].nonzero()[0]
    assert (rows.min(), rows.max()) == (10, 16), "a quarter of the height, in the middle of black borders"
    assert fitted[13, 0] > 250
    assert fitted[13, 27] > 250
    assert (fitted[13, 8:20] == 100).all()


@pytest.mark.parametrize("fit", ["crop", "fit"])
@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000), (28, 28), (3, 5)])
def test_any_proportions_fit(fit, size):
    image = noise("RGB", size)
    fitted = fit_image(image, (28, 28), fit)
    assert fitted.size == (28, 28)
    if size == (28, 28):
        assert np.array_equal(np.asarray(fitted), np.asarray(image))
