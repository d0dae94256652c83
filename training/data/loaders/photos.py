"""Labelled photographs of ImageNet's classes for evaluation: ``photos/test`` with a ``labels.csv`` beside the files.

Training on photographs reads pictures from disk as it needs them (:mod:`..pictures`), so the other splits are empty.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from arn_purify.models import imagenet

from ..image_files import TargetSize, fit_image, read_image
from ..splits import DataError, Dataset, Split

SIZE = 224


def load(root: Path, size: TargetSize) -> Dataset:
    """``root/photos/test``, or ``root`` itself: pictures, and ``labels.csv`` with the columns ``file`` and ``label``.

    Labels are ImageNet's class numbers, 0 to 999.
    Pictures of other sizes than 224x224 are brought to it as ``size`` says.
    """
    folder = root / "photos" / "test"
    if not folder.is_dir() and (root / "labels.csv").is_file():
        folder = root
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} is missing: a line of file,label for each photograph beside it")
    names = imagenet.class_names()
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                label = int(row["label"])
                image = read_image(folder / row["file"])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{table}, line {len(labels) + 2}: {error}") from error
            if not 0 <= label < len(names):
                raise DataError(f"{table}, line {len(labels) + 2}: {label} is no class: 0 to {len(names) - 1}")
            if image.size != (SIZE, SIZE):
                image = fit_image(image, (SIZE, SIZE), size.fit)
            images.append(np.asarray(image))
            labels.append(label)
    if not images:
        raise DataError(f"{table} names no photograph")
    none = Split(torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    return Dataset("photos", none, none, Split.of_arrays(np.stack(images), np.array(labels)), names)
