"""Data sets: sizes, splits, checksums, and folders of the user's own images."""

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import data

needs_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("ARN_DATA_DIR", "data")) / "mnist").is_dir(), reason="MNIST is not in ARN_DATA_DIR"
)


@needs_mnist
def test_mnist_is_split_as_documented():
    mnist = data.load("mnist")
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert mnist.shape == (1, 28, 28)
    assert torch.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_digits_need_no_download_and_fill_the_grey_range():
    digits = data.load("digits")
    assert digits.shape == (1, 28, 28)
    assert sum(map(len, (digits.train, digits.validation, digits.test))) == 1797
    images, labels = digits.train.batch(slice(0, 100))
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == torch.int64


def test_a_stride_takes_every_kth_image():
    split = data.Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    assert split.every(4).labels.tolist() == [0, 4, 8]


def test_a_broken_official_file_is_refused(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"not it")
    with pytest.raises(data.DataError, match="checksum"):
        data.load("mnist", tmp_path)


def test_official_files_are_downloaded_once(tmp_path, monkeypatch):
    """The download itself, with the four files served from memory and their real checksums where MNIST is at hand."""
    images = np.zeros(16 + 4, np.uint8).tobytes()
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(gzip.compress(images))

    monkeypatch.setattr(data.urllib.request, "urlopen", answer)
    with pytest.raises(data.DataError, match="checksum"):  # what came is not MNIST
        data.load("mnist", tmp_path)
    assert asked == ["https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"]
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte").read_bytes() == images


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr(data.urllib.request, "urlopen", refuse)
    with pytest.raises(data.DataError, match="--data-dir"):
        data.load("mnist", tmp_path)


def write(path, colour, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_any_sizes_is_cut_by_name(tmp_path):
    for label, colour in {"cat": (200, 10, 10), "dog": (10, 200, 10)}.items():
        for number in range(40):
            write(tmp_path / label / f"{number}.png", colour, (20 + number, 30))
    folder = data.load("folder", tmp_path, size=32)
    assert folder.class_names == ("cat", "dog")
    assert folder.shape == (3, 32, 32)
    assert len(folder.train) + len(folder.validation) + len(folder.test) == 80
    again = data.load("folder", tmp_path, size=32)
    assert torch.equal(folder.train.images, again.train.images)
    assert folder.train.images[0, :, 0, 0].tolist() == [200, 10, 10]


def test_a_folder_with_its_own_split_keeps_it(tmp_path):
    for part, count in {"train": 3, "val": 2}.items():
        for number in range(count):
            write(tmp_path / part / "a" / f"{number}.png", (7, 7, 7))
    folder = data.load("folder", tmp_path, size=8)
    assert (len(folder.train), len(folder.validation), len(folder.test)) == (3, 2, 2)
    assert folder.shape == (1, 8, 8), "grey images stay one-channel"


@pytest.mark.parametrize("make", ["nothing", "empty", "text"])
def test_a_folder_without_images_is_refused(make, tmp_path):
    root = tmp_path / "root"
    if make != "nothing":
        (root / "class").mkdir(parents=True)
    if make == "text":
        (root / "class" / "notes.txt").write_text("no image")
    with pytest.raises(data.DataError, match="root"):
        data.load("folder", root)


def test_names_are_strict():
    with pytest.raises(data.DataError, match="no data set 'imagenet'"):
        data.load("imagenet")
    with pytest.raises(data.DataError, match="no split 'dev'"):
        data.load("digits").split("dev")
