"""Labelled photographs: ``labels.csv``, sizes, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify.training import data
from arn_purify.training.data import DataError
from arn_purify.training.data.image_files import fit_image

SIZES = {"own.png": (224, 224), "wide.jpg": (300, 250), "grey.png": (50, 90)}


def write(folder, labels):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        picture = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        picture.convert("L" if name == "grey.png" else "RGB").save(folder / name)
    lines = (f"{name},{label}" for name, label in labels.items())
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]))
    return folder


@pytest.mark.parametrize("below", [".", "photos/test"])
def test_pictures_of_any_size_are_brought_to_224_with_the_labels_of_the_table(below, tmp_path):
    folder = write(tmp_path / "root" / below, {"wide.jpg": 7, "own.png": 999, "grey.png": 0})
    test = data.load("photos", tmp_path / "root").test
    x, labels = test.batch(slice(0, 3))
    assert labels.tolist() == [7, 999, 0]
    assert x.shape == (3, 3, 224, 224)
    for index, name in enumerate(("wide.jpg", "own.png", "grey.png")):
        with Image.open(folder / name) as opened:
            wanted = np.array(fit_image(opened.convert("RGB"), (224, 224)))
        assert torch.equal((255 * x[index]).round().byte(), torch.from_numpy(wanted).permute(2, 0, 1))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"own.png": 1000}, "line 2: 1000 is no class: 0 to 999"),
        ({"own.png": 3, "wide.jpg": "cat"}, "line 3: "),
        ({"none.png": 3}, "none.png"),
        ({}, "names no photograph"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_line(labels, problem, tmp_path):
    write(tmp_path / "root", labels)
    with pytest.raises(DataError, match=problem):
        data.load("photos", tmp_path / "root")


def test_without_a_table_it_is_named(tmp_path):
    with pytest.raises(DataError, match=r"labels.csv is missing"):
        data.load("photos", tmp_path)
