"""Data sets: one table of them, a loader for each, and their images in memory.

Images are kept as uint8 ``(N, C, H, W)``; :meth:`Split.batch` gives float32 in [0, 1].
"""

from .datasets import DATASETS, AttackSettings, DatasetSpec, folder, load, spec_of
from .splits import DataError, Dataset, Images, Split
from .transforms import augment, flip_images, shift_images

__all__ = [
    "DATASETS",
    "AttackSettings",
    "DataError",
    "Dataset",
    "DatasetSpec",
    "Images",
    "Split",
    "augment",
    "flip_images",
    "folder",
    "load",
    "shift_images",
    "spec_of",
]
