"""MNIST: 55,000 digits to train, the last 5,000 to validate, 10,000 to test."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arn_purify.models.files import write_atomically

from ..image_files import TargetSize
from ..splits import DataError, Dataset, Split
from .files import download, read_checked, read_npz

_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# MD5 of the uncompressed original files.
_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def load(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (28 always)
    """From ``mnist/train.npz`` and ``test.npz`` where they are, else from the official files, downloaded once."""
    root = data_folder / "mnist"
    if (root / "train.npz").is_file():
        arrays = [read_npz(root / f"{part}.npz") for part in ("train", "test")]
        train, test = (Split.of_arrays(a["images"], a["labels"]) for a in arrays)
    else:
        train_x, train_y, test_x, test_y = (_official_file(root, name) for name in _FILES)
        train = Split.of_arrays(train_x[16:].reshape(-1, 28, 28), train_y[8:])
        test = Split.of_arrays(test_x[16:].reshape(-1, 28, 28), test_y[8:])
    if train.images.shape != (60000, 1, 28, 28) or test.images.shape != (10000, 1, 28, 28):
        raise DataError(f"{root}: not MNIST: {tuple(train.images.shape)} and {tuple(test.images.shape)}")
    return Dataset("mnist", train[:55000], train[55000:], test, tuple(str(digit) for digit in range(10)))


def _official_file(root: Path, name: str) -> NDArray[np.uint8]:
    path = root / name
    if not path.is_file():
        packed = download(f"{_URL}{name}.gz", root, "the official files")
        try:
            write_atomically(path, gzip.decompress(packed))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}.gz is incomplete or damaged ({error}): try again") from error
    return np.frombuffer(read_checked(path, _FILES[name]), np.uint8)
