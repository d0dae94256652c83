"""scikit-learn's digits, which need no download: for tests, toy runs and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..image_files import TargetSize
from ..splits import Dataset, Split


def load_grey(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (they come with scikit-learn)
    """The digits in MNIST's frame of 28x28 pixels."""
    return _load("digits", 28)


def load_colour(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (they come with scikit-learn)
    """Each digit in two colours of its own, in CIFAR-10's frame of 32x32 pixels."""
    return _load("digits-colour", 32)


def _load(name: str, size: int) -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in small])
    if name == "digits-colour":
        generator = np.random.default_rng(0)
        ground, ink = (generator.uniform(*levels, (len(images), 1, 1, 3)) for levels in ((0, 110), (145, 255)))
        images = np.round(ground + (ink - ground) * (images[..., None] / 255)).astype(np.uint8)
    whole = Split.of_arrays(images, digits.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
    parts = (whole[order[:1297]], whole[order[1297:1497]], whole[order[1497:]])
    return Dataset(name, *parts, tuple(str(digit) for digit in range(10)))
