"""Labelled photographs of ImageNet's classes for evaluation: ``photos/test`` with a ``labels.csv`` beside the files.

Training on photographs reads pictures from disk as it needs them (:mod:`..pictures`), so the other splits are empty.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from arn_purify.models import imagenet

from ..image_files import TargetSize
from ..splits import DataError, Dataset, Split

SIZE = 224


def load(root: Path, _: TargetSize) -> Dataset:
    """``root/photos/test``: JPEG or PNG files of 224x224, and ``labels.csv`` with the columns ``file`` and ``label``.

    Labels are ImageNet's class numbers, 0 to 999.
    """
    folder = root / "photos" / "test"
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} is missing: a line of file,label for each photograph of {SIZE}x{SIZE} beside it")
    names = imagenet.class_names()
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                label = int(row["label"])
                with Image.open(folder / row["file"]) as opened:
                    image = np.asarray(opened.convert("RGB"))
            except (KeyError, ValueError, OSError) as error:
                raise DataError(f"{table}, line {len(labels) + 2}: {error}") from error
            if image.shape != (SIZE, SIZE, 3) or not 0 <= label < len(names):
                raise DataError(f"{table}, line {len(labels) + 2}: {row['file']} is no {SIZE}x{SIZE} image of a class")
            images.append(image)
            labels.append(label)
    if not images:
        raise DataError(f"{table} names no photograph")
    none = Split(torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))
    return Dataset("photos", none, none, Split.of_arrays(np.stack(images), np.array(labels)), names)
