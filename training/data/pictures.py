"""Pictures in a folder, of any size and without labels, read from disk as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from . import DataError
from .image_files import read_image, visible_files

_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
_VALIDATION_SHARE = 24  # of 256


def find_pictures(folder: Path) -> list[Path]:
    """Every image file below ``folder``, sorted; paths with a hidden part are left out.

    Raises:
        DataError: there is none, or a name is not UTF-8.
    """
    found = [path for path in visible_files(folder) if path.suffix.lower() in _ENDINGS]
    if not found:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(_ENDINGS))})")
    return found


def split_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Training and validation pictures. Names decide, so that a picture stays on its side when others are added."""
    train: list[Path] = []
    validation: list[Path] = []
    for path in paths:
        held_out = hashlib.sha256(path.name.encode()).digest()[0] < _VALIDATION_SHARE
        (validation if held_out else train).append(path)
    return train, validation


def read_picture(path: Path, short_side: int) -> Image.Image:
    """The picture as RGB, scaled so that its shorter side has ``short_side`` pixels.

    Raises:
        DataError: it cannot be decoded; the message names the file.
    """
    image = read_image(path, short_side)
    scale = short_side / min(image.size)
    width, height = (max(short_side, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


class Crops(Dataset[Tensor]):
    """Random square crops, half of them mirrored, as uint8 ``(3, size, size)``.

    An index is a picture and a seed, so that a worker's crop depends on nothing else.
    """

    def __init__(self, paths: Sequence[Path], size: int, short_sides: tuple[int, int] = (224, 288)) -> None:
        self.paths, self.size, self.short_sides = paths, size, short_sides

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: tuple[int, int]) -> Tensor:
        picture, seed = index
        rng = np.random.default_rng(seed)
        short_side = max(self.size, int(rng.integers(self.short_sides[0], self.short_sides[1] + 1)))
        pixels = np.asarray(read_picture(self.paths[picture], short_side))
        top, left = (int(rng.integers(side - self.size + 1)) for side in pixels.shape[:2])
        pixels = pixels[top : top + self.size, left : left + self.size]
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class Endless(Sampler[tuple[int, int]]):
    """Pictures drawn without end, each with a seed for its crop; ``first`` is the step that a run is resumed at."""

    def __init__(self, pictures: int, seed: int, first: int) -> None:
        self.pictures, self.seed, self.first = pictures, seed, first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.first])
        while True:
            yield int(rng.integers(self.pictures)), int(rng.integers(2**63))


def centre_crop(path: Path, size: int) -> Tensor:
    """The middle of a picture whose shorter side is scaled to 8/7 of ``size``, as uint8 ``(3, size, size)``."""
    image = read_picture(path, round(size * 8 / 7))
    left, top = ((side - size) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
