"""Data sets as tensors in memory: MNIST, scikit-learn's digits, and folders of the user's own images.

Images are kept as uint8 ``(N, C, H, W)``; :meth:`Split.batch` gives float32 in [0, 1]. The validation split is cut
from train and is where every choice is made; the test split only fills final tables.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import logging
import os
import urllib.request
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import write_atomically

logger = logging.getLogger(__name__)

DATASETS = ("mnist", "digits", "folder")

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# MD5 of the uncompressed original files.
_MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class DataError(ValueError):
    """A data set that is missing, broken or unusable. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """``images`` uint8 ``(N, C, H, W)`` and ``labels`` int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Images float32 in [0, 1], channels last in memory, and labels."""
        images = self.images[indices].to(device).float().div_(255)
        return images.contiguous(memory_format=torch.channels_last), self.labels[indices].to(device)

    def every(self, stride: int) -> Split:
        """Every ``stride``-th image: how a subset is taken, never the first n."""
        return Split(self.images[::stride], self.labels[::stride])

    def sha256(self) -> str:
        """Hash of images and labels, by which crafted sets know what they were made from."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named data set with its three splits."""

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return (channels, height, width)

    def split(self, name: str) -> Split:
        """``train``, ``validation`` or ``test``."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in splits:
            raise DataError(f"no split {name!r}: one of {', '.join(splits)}")
        return splits[name]


def shift_images(images: Tensor, offsets: Tensor, largest: int) -> Tensor:
    """Translate each image of ``(N, C, H, W)`` by its ``offsets`` ``(N, 2)`` in [0, 2 largest], filling with zeros."""
    if not largest:
        return images
    n, c, height, width = images.shape
    padded = F.pad(images, (largest,) * 4)
    top, left = offsets.to(images.device).unbind(1)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    batch = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    return padded[batch, channel, rows, columns].contiguous(memory_format=torch.channels_last)


def load(name: str, data_dir: str | Path | None = None, size: int = 28) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of ``DATASETS``.
        data_dir: where the data are, or are downloaded to: the argument, ``ARN_DATA_DIR``, else ``data/``.
        size: height and width that the images of ``folder`` are resized to; the others have their own.

    Raises:
        DataError: an unknown name, a file that does not match its checksum, a folder without images.
    """
    root = Path(data_dir or os.environ.get("ARN_DATA_DIR") or "data")
    if name == "mnist":
        return _mnist(root / "mnist")
    if name == "digits":
        return _digits()
    if name == "folder":
        return _folder(root, size)
    raise DataError(f"no data set {name!r}: one of {', '.join(DATASETS)}")


def _split(images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Split:
    if images.ndim == 3:
        images = images[..., None]
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return Split(tensor, torch.from_numpy(labels.astype(np.int64)))


def _mnist(root: Path) -> Dataset:
    if (root / "train.npz").is_file():
        arrays = [np.load(root / f"{part}.npz") for part in ("train", "test")]
        train, test = (_split(a["images"], a["labels"]) for a in arrays)
    else:
        raw = {name: _official_mnist_file(root, name) for name in _MNIST_FILES}
        (train_x, train_y, test_x, test_y) = raw.values()
        train = _split(train_x[16:].reshape(-1, 28, 28), train_y[8:])
        test = _split(test_x[16:].reshape(-1, 28, 28), test_y[8:])
    if train.images.shape != (60000, 1, 28, 28) or test.images.shape != (10000, 1, 28, 28):
        raise DataError(f"{root}: not MNIST: {tuple(train.images.shape)} and {tuple(test.images.shape)}")
    return Dataset(
        "mnist",
        Split(train.images[:55000], train.labels[:55000]),
        Split(train.images[55000:], train.labels[55000:]),
        test,
        tuple(str(digit) for digit in range(10)),
    )


def _official_mnist_file(root: Path, name: str) -> NDArray[np.uint8]:
    path = root / name
    if not path.is_file():
        logger.info("downloading %s%s.gz", _MNIST_URL, name)
        try:
            with urllib.request.urlopen(f"{_MNIST_URL}{name}.gz", timeout=60) as answer:  # noqa: S310 (https)
                data = gzip.decompress(answer.read())
        except OSError as error:
            raise DataError(
                f"MNIST is not in {root} and could not be downloaded ({error}): "
                "put the official files or train.npz and test.npz there, or name their folder with --data-dir"
            ) from error
        write_atomically(path, data)
    data = path.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != _MNIST_FILES[name]:
        raise DataError(f"{path} does not match its published checksum: delete it and try again")
    return np.frombuffer(data, np.uint8)


def _digits() -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(i).resize((28, 28), Image.Resampling.BICUBIC)) for i in small])
    whole = _split(images, digits.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
    parts = (order[:1297], order[1297:1497], order[1497:])
    train, validation, test = (Split(whole.images[part], whole.labels[part]) for part in parts)
    return Dataset("digits", train, validation, test, tuple(str(digit) for digit in range(10)))


def _folder(root: Path, size: int) -> Dataset:
    """``root/<class>/*``, cut 80:10:10 by file name, or ``root/{train,val[,test]}/<class>/*``."""
    if not root.is_dir():
        raise DataError(f"{root} is no folder")
    layout = {part: root / part for part in ("train", "val", "test")}
    split_by_user = layout["train"].is_dir() and layout["val"].is_dir()
    classes_root = layout["train"] if split_by_user else root
    class_names = tuple(sorted(path.name for path in classes_root.iterdir() if path.is_dir()))
    if not class_names:
        raise DataError(f"{classes_root} holds no class folders: one folder of images a class is expected")
    if split_by_user:
        if not layout["test"].is_dir():
            layout["test"] = layout["val"]
        parts = [_images_under(layout[part], class_names, size) for part in ("train", "val", "test")]
        train, validation, test = (_split(images, labels) for images, labels, _ in parts)
    else:
        images, labels, names = _images_under(root, class_names, size)
        bucket = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 for name in names])
        keep = (bucket < 8, bucket == 8, bucket == 9)
        train, validation, test = (_split(images[mask], labels[mask]) for mask in keep)
    if not (len(train) and len(validation) and len(test)):
        raise DataError(f"{root}: too few images for a train, validation and test split")
    return Dataset("folder", train, validation, test, class_names)


def _images_under(
    root: Path, class_names: tuple[str, ...], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    images, labels, names = [], [], []
    for label, class_name in enumerate(class_names):
        for path in sorted((root / class_name).rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image)
                    fitted = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"{path} is no image that can be read ({error})") from error
            images.append(np.asarray(fitted))
            labels.append(label)
            names.append(path.relative_to(root).as_posix())
    if not images:
        raise DataError(f"{root} holds no images")
    stack = np.stack(images)
    if (stack == stack[..., :1]).all():  # grey images stay one-channel
        stack = stack[..., :1]
    return stack, np.array(labels), names
