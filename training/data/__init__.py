"""Data sets as tensors in memory: MNIST, CIFAR-10, LISA, scikit-learn's digits, and folders of the user's own images.

Images are kept as uint8 ``(N, C, H, W)``; :meth:`Split.batch` gives float32 in [0, 1]. The validation split is cut
from train and is where every choice is made; the test split only fills final tables.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import logging
import os
import tarfile
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from arn_purify.models.checkpoint import write_atomically

if TYPE_CHECKING:
    import PIL.Image

logger = logging.getLogger(__name__)

DATASETS = ("mnist", "cifar10", "lisa", "lisa-track", "digits", "digits-colour", "folder")

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# MD5 of the uncompressed original files.
_MNIST_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Test images that copies in NumPy's form may hold as JPEG only (their mask ``lossless``). They are left out of every
# copy, so that a number means the same 9,980 images wherever they came from.
_CIFAR10_LEFT_OUT = (
    1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117, 8551,
    9254,
)  # fmt: skip


class DataError(ValueError):
    """A data set that is missing, broken or unusable. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """``images`` uint8 ``(N, C, H, W)`` and ``labels`` int64 ``(N,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | slice) -> Split:
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> Split:
        """The split where it is worked on: CIFAR-10's training images are 138 MB."""
        return Split(self.images.to(device), self.labels.to(device))

    def batch(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Images float32 in [0, 1], channels last in memory, and labels."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.images.device)
        images = self.images[indices].to(device).float().div_(255)
        return images.contiguous(memory_format=torch.channels_last), self.labels[indices].to(device)

    def every(self, stride: int) -> Split:
        """Every ``stride``-th image: how a subset is taken, never the first n."""
        return self[::stride]

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


def flip_images(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror those of ``images`` ``(N, C, H, W)`` for which ``flipped`` ``(N,)`` bool says so."""
    return torch.where(flipped.to(images.device)[:, None, None, None], images.flip(3), images)


def folder(data_dir: str | Path | None = None) -> Path:
    """Where the data are: the argument, ``ARN_DATA_DIR``, else ``data/``."""
    return Path(data_dir or os.environ.get("ARN_DATA_DIR") or "data")


def load(name: str, data_dir: str | Path | None = None, size: int = 28) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of ``DATASETS``.
        data_dir: where the data are, or are downloaded to, as :func:`folder` says.
        size: height and width that the images of ``folder`` are resized to; the others have their own.

    Raises:
        DataError: an unknown name, a file that does not match its checksum, a folder without images.
    """
    root = folder(data_dir)
    if name == "mnist":
        return _mnist(root / "mnist")
    if name == "cifar10":
        return _cifar10(root / "cifar10")
    if name in ("lisa", "lisa-track"):
        return _lisa(root / "lisa", name)
    if name in ("digits", "digits-colour"):
        return _digits(name)
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
        arrays = [_load_npz(root / f"{part}.npz") for part in ("train", "test")]
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
        train[:55000],
        train[55000:],
        test,
        tuple(str(digit) for digit in range(10)),
    )


def _official_mnist_file(root: Path, name: str) -> NDArray[np.uint8]:
    path = root / name
    if not path.is_file():
        packed = _download(f"{_MNIST_URL}{name}.gz", root, "the official files")
        try:
            write_atomically(path, gzip.decompress(packed))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name}.gz did not come whole ({error}): try again") from error
    return np.frombuffer(_checked(path, _MNIST_FILES[name]), np.uint8)


def _download(url: str, root: Path, official: str) -> bytes:
    logger.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (https)
            data: bytes = answer.read()
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{root.name} is not in {root} and could not be downloaded ({error}): "
            f"put {official} or the same as .npz there, or name the folder above with --data-dir"
        ) from error
    return data


def _checked(path: Path, md5: str) -> bytes:
    data = path.read_bytes()
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} does not match its published checksum: delete it and try again")
    return data


def _cifar10(root: Path) -> Dataset:
    """45,000 to train, the last 5,000 to validate, 9,980 to test."""
    if (root / "test.npz").is_file():
        parts = [_load_npz(root / f"{part}.npz") for part in (*(f"train_{i}" for i in range(5)), "test")]
        images, labels = (np.concatenate([part[key] for part in parts]) for key in ("images", "labels"))
        whole = _split(images, labels)
    else:
        path = root / "cifar-10-binary.tar.gz"
        if not path.is_file():
            write_atomically(path, _download(_CIFAR10_URL, root, path.name))
        files = [
            f"cifar-10-batches-bin/{name}.bin" for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
        ]
        with tarfile.open(fileobj=io.BytesIO(_checked(path, _CIFAR10_MD5))) as archive:
            members = [archive.extractfile(file) for file in files]
            raw = b"".join(member.read() for member in members if member)
        rows = np.frombuffer(raw, np.uint8).reshape(-1, 1 + 3 * 32 * 32)  # a label, then red, green and blue planes
        whole = _split(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0])
    if whole.images.shape != (60000, 3, 32, 32):
        raise DataError(f"{root}: not CIFAR-10: {tuple(whole.images.shape)}")
    kept = torch.ones(10000, dtype=torch.bool)
    kept[list(_CIFAR10_LEFT_OUT)] = False
    return Dataset("cifar10", whole[:45000], whole[45000:50000], whole[50000:][kept], _CIFAR10_CLASSES)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _lisa(root: Path, name: str) -> Dataset:
    """LISA's sixteen classes of 32x32 crops, as :mod:`arn_purify.training.data.lisa` imports them.

    ``lisa`` keeps the split of its files, by image, and validates on a tenth of train: nearly every test image has a
    neighbouring frame of the same sign in train. ``lisa-track`` cuts the same images again so that no track, the video
    of one sign, is in two splits.
    """
    if not all((root / file).is_file() for file in ("train.npz", "test.npz", "classes.json")):
        raise DataError(
            f"LISA is not in {root} and has no official download: ask its authors at UC San Diego for "
            "a copy, then `arn-train import-lisa FOLDER`; or name the folder above with --data-dir"
        )
    train, test = (_load_npz(root / f"{part}.npz") for part in ("train", "test"))
    class_names = tuple(json.loads((root / "classes.json").read_text()))
    if name == "lisa":
        whole = _split(train["images"], train["labels"])
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
        cut = len(whole) // 10
        test_split = _split(test["images"], test["labels"])
        return Dataset(name, whole[order[cut:]], whole[order[:cut]], test_split, class_names)
    images, labels, tracks = (np.concatenate([train[key], test[key]]) for key in ("images", "labels", "track"))
    if (tracks == "").any():
        raise DataError(f"{root}: crops of unknown track cannot be split by track")
    whole, part_of = _split(images, labels), torch.from_numpy(by_track(labels, tracks, (0.68, 0.07, 0.25)))
    return Dataset(name, whole[part_of == 0], whole[part_of == 1], whole[part_of == 2], class_names)


def by_track(labels: NDArray[np.integer], tracks: NDArray[np.str_], shares: tuple[float, ...]) -> NDArray[np.int64]:
    """The part of each image ``(N,)`` such that a track is whole in one part, each class near its ``shares``.

    Class by class, the rarest first, each track (in a random order that is always the same) goes to the part that lacks
    most of the class.
    """
    part_of = np.full(len(labels), -1)
    order = np.random.default_rng(0).permutation(np.unique(tracks))
    for label in sorted(np.unique(labels), key=lambda label: (labels == label).sum()):
        mine = labels == label
        for track in order:
            if (part_of[mine & (tracks == track)] == -1).any():
                lacking = [share * mine.sum() - (mine & (part_of == part)).sum() for part, share in enumerate(shares)]
                part_of[tracks == track] = int(np.argmax(lacking))
    return part_of


def _digits(name: str) -> Dataset:
    """scikit-learn's digits: grey in MNIST's frame, or each in two colours of its own in CIFAR-10's."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, size = load_digits(), 28 if name == "digits" else 32
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in small])
    if name == "digits-colour":
        generator = np.random.default_rng(0)
        ground, ink = (generator.uniform(*levels, (len(images), 1, 1, 3)) for levels in ((0, 110), (145, 255)))
        images = np.round(ground + (ink - ground) * (images[..., None] / 255)).astype(np.uint8)
    whole = _split(images, digits.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
    parts = (whole[order[:1297]], whole[order[1297:1497]], whole[order[1497:]])
    return Dataset(name, *parts, tuple(str(digit) for digit in range(10)))


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
            logger.warning("%s has no test/: what is measured on its test split is measured on val/", root)
            layout["test"] = layout["val"]
        parts = [_images_under(layout[part], class_names, size) for part in ("train", "val", "test")]
        images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        part_of = np.repeat(np.arange(3), [len(part[1]) for part in parts])
        keep = tuple(part_of == part for part in range(3))
    else:
        images, labels, names = _images_under(root, class_names, size)
        bucket = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 for name in names])
        keep = (bucket < 8, bucket == 8, bucket == 9)
    if (images == images[..., :1]).all():  # grey images stay one-channel
        images = images[..., :1]
    train, validation, test = (_split(images[mask], labels[mask]) for mask in keep)
    if not (len(train) and len(validation) and len(test)):
        raise DataError(f"{root}: too few images for a train, validation and test split")
    return Dataset("folder", train, validation, test, class_names)


def _images_under(
    root: Path, class_names: tuple[str, ...], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """RGB images ``(N, size, size, 3)`` uint8, their labels and their names under ``root``."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    images, labels, names = [], [], []
    for label, class_name in enumerate(class_names):
        for path in sorted((root / class_name).rglob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            try:
                with Image.open(path) as image:
                    upright = _eight_bits(ImageOps.exif_transpose(image))
                    fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
            except (UnidentifiedImageError, OSError) as error:
                raise DataError(f"{path} is no image that can be read ({error})") from error
            images.append(np.asarray(fitted))
            labels.append(label)
            names.append(path.relative_to(root).as_posix())
    if not images:
        raise DataError(f"{root} holds no images")
    return np.stack(images), np.array(labels), names


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """RGB as the service reads an upload: 16-bit grey rounded to 8 bits, alpha composited over black."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")
