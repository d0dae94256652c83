"""Images with their labels, in memory, and the three splits of a data set."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class DataError(ValueError):
    """A data set that is missing, broken or unusable. The message says what to do."""


class Images(Protocol):
    """What training asks of a split, whether its images are in memory or not.

    ``shape`` is (C, H, W). Only :meth:`labels_of` needs labels: images that have none raise :class:`DataError` there.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def __len__(self) -> int: ...

    def images_of(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """``(N, C, H, W)`` float32 in [0, 1], channels last in memory."""
        ...

    def labels_of(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """``(N,)`` int64."""
        ...

    def sha256(self) -> str:
        """A hash that differs where any image or label differs."""
        ...


@dataclasses.dataclass(frozen=True)
class Split:
    """``images`` uint8 ``(N, C, H, W)`` and ``labels`` int64 ``(N,)``, in memory."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of_arrays(cls, images: NDArray[np.uint8], labels: NDArray[np.integer]) -> Split:
        """From ``images`` ``(N, H, W)`` or ``(N, H, W, C)``, as files hold them."""
        if images.ndim == 3:
            images = images[..., None]
        tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        return cls(tensor, torch.from_numpy(labels.astype(np.int64)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Tensor | slice) -> Split:
        return Split(self.images[indices], self.labels[indices])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.images.shape[1:]
        return (channels, height, width)

    def to(self, device: torch.device | str) -> Split:
        """The split on the device that works on it: CIFAR-10's training images are 138 MB."""
        return Split(self.images.to(device), self.labels.to(device))

    def images_of(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """Images float32 in [0, 1], channels last in memory."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.images.device)
        images = self.images[indices].to(device).float().div_(255)
        return images.contiguous(memory_format=torch.channels_last)

    def labels_of(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """Labels int64 ``(N,)``."""
        if isinstance(indices, Tensor):
            indices = indices.to(self.labels.device)
        return self.labels[indices].to(device)

    def batch(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """:meth:`images_of` and :meth:`labels_of`."""
        return self.images_of(indices, device), self.labels_of(indices, device)

    def every(self, stride: int) -> Split:
        """Every ``stride``-th image: how a subset is taken, never the first n."""
        return self[::stride]

    def sha256(self) -> str:
        """Hash of images and labels, by which crafted sets know what they were made from."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images.numpy()).data)
        digest.update(np.ascontiguousarray(self.labels.numpy()).data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A loaded data set with its three splits.

    The validation split is cut from train and is where every choice is made; the test split only fills final tables.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.shape

    def split(self, name: str) -> Split:
        """``train``, ``validation`` or ``test``."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in splits:
            raise DataError(f"no split {name!r}: one of {', '.join(splits)}")
        return splits[name]
