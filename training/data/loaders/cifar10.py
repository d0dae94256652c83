"""CIFAR-10: 45,000 photographs to train, the last 5,000 to validate, 9,980 to test."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from arn_purify.models.files import write_atomically

from ..image_files import TargetSize
from ..splits import DataError, Dataset, Split
from .files import download, read_checked, read_npz

_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Test images that copies in NumPy's form may hold as JPEG only (their mask ``lossless``). They are left out of every
# copy, so that a number means the same 9,980 images whichever copy they are from.
_LEFT_OUT = (
    1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117, 8551,
    9254,
)  # fmt: skip


def load(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (32 always)
    """From ``cifar10/*.npz`` where they are, else from the official archive, downloaded once."""
    root = data_folder / "cifar10"
    whole = _from_npz(root) if (root / "test.npz").is_file() else _from_archive(root)
    if whole.images.shape != (60000, 3, 32, 32):
        raise DataError(f"{root}: not CIFAR-10: {tuple(whole.images.shape)}")
    kept = torch.ones(10000, dtype=torch.bool)
    kept[list(_LEFT_OUT)] = False
    return Dataset("cifar10", whole[:45000], whole[45000:50000], whole[50000:][kept], _CLASSES)


def _from_npz(root: Path) -> Split:
    parts = (read_npz(root / f"{part}.npz") for part in (*(f"train_{i}" for i in range(5)), "test"))
    return _joined(Split.of_arrays(part["images"], part["labels"]) for part in parts)


def _from_archive(root: Path) -> Split:
    path = root / "cifar-10-binary.tar.gz"
    if not path.is_file():
        write_atomically(path, download(_URL, root, path.name))
    names = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    with tarfile.open(fileobj=io.BytesIO(read_checked(path, _MD5))) as archive:
        members = (archive.extractfile(f"cifar-10-batches-bin/{name}.bin") for name in names)
        return _joined(_of_rows(member.read()) for member in members if member)


def _of_rows(raw: bytes) -> Split:
    """Of each image a label, then the red, the green and the blue plane."""
    rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    return Split.of_arrays(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0])


def _joined(parts: Iterable[Split]) -> Split:
    """In one tensor that is filled part by part: ``torch.cat`` would hold everything twice."""
    whole, end = Split(torch.zeros(60000, 3, 32, 32, dtype=torch.uint8), torch.zeros(60000, dtype=torch.int64)), 0
    for part in parts:
        begin, end = end, end + len(part)
        if whole.images[begin:end].shape != part.images.shape:
            raise DataError(f"not CIFAR-10: images {begin} to {end} are {tuple(part.images.shape)}")
        whole.images[begin:end], whole.labels[begin:end] = part.images, part.labels
    return whole[:end]
