import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify.training.data import DataError
from arn_purify.training.data.image_files import read_image
from arn_purify.training.data.pictures import (
    Crops,
    Endless,
    centre_crop,
    find_pictures,
    read_picture,
    split_pictures,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures in two folders, and what is none of them."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(12):
        path = root / ("a" if index % 2 else "b") / f"{index}.{'png' if index % 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        Image.linear_gradient("L").resize((60 + 10 * index, 90)).convert("RGB").save(path)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").write_bytes((root / "a" / "1.png").read_bytes())
    (root / "a" / "._1.png").write_bytes(b"")
    (root / "notes.txt").write_text("none")
    return root


def test_pictures_are_found_at_any_depth_but_not_hidden_ones(folder):
    found = find_pictures(folder)
    assert sorted(path.stem for path in found) == sorted(map(str, range(12)))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no pictures"):
        find_pictures(tmp_path)


def test_a_picture_stays_on_its_side_when_others_are_added(folder):
    paths = [folder / f"{index}.jpg" for index in range(400)]
    train, validation = split_pictures(paths[:200])
    more_train, more_validation = split_pictures(paths)
    assert set(train) <= set(more_train)
    assert set(validation) <= set(more_validation)
    assert 5 < len(validation) < 50


def test_a_crop_depends_on_its_index_alone(folder):
    crops = Crops(find_pictures(folder), 48, (48, 80))
    first, again, other = crops[3, 7], crops[3, 7], crops[3, 8]
    assert first.shape == (3, 48, 48)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_resumed_run_draws_other_pictures():
    draws = [list(itertools.islice(Endless(1000, 0, first), 5)) for first in (0, 0, 250)]
    assert draws[0] == draws[1] != draws[2]


def test_the_middle_of_a_picture(folder):
    assert centre_crop(folder / "b" / "0.jpg", 56).shape == (3, 56, 56)


def test_a_picture_is_prepared_as_the_service_prepares_an_upload(tmp_path):
    rotated = Image.Exif()
    rotated[0x0112] = 6  # a quarter turn
    Image.linear_gradient("L").resize((64, 32)).save(tmp_path / "turned.jpg", exif=rotated)
    Image.fromarray(np.full((32, 32), 32768, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (32, 32), (255, 255, 255, 128)).save(tmp_path / "clear.png")
    for name, size, mean in (
        ("turned.jpg", (32, 64), 127.5),
        ("deep.png", (32, 32), 128),
        ("clear.png", (32, 32), 128),
    ):
        picture = read_picture(tmp_path / name, 32)
        assert picture.size == size
        assert np.asarray(picture).mean() == pytest.approx(mean, abs=1.5)
        assert np.array_equal(picture, read_image(tmp_path / name))


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    with pytest.raises(DataError, match=r"broken\.png is not an image that can be read"):
        Crops([tmp_path / "broken.png"], 32)[0, 0]
