"""A folder of the user's own images, a folder inside it for each class."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..splits import DataError, Dataset, Split

logger = logging.getLogger(__name__)


def load(root: Path, size: int) -> Dataset:
    """``root/<class>/*``, cut 80:10:10 by file name, or ``root/{train,val[,test]}/<class>/*``."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
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
    train, validation, test = (Split.of_arrays(images[mask], labels[mask]) for mask in keep)
    if not (len(train) and len(validation) and len(test)):
        raise DataError(f"{root}: too few images for a train, validation and test split")
    return Dataset("folder", train, validation, test, class_names)


def _images_under(
    root: Path, class_names: tuple[str, ...], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """RGB images ``(N, size, size, 3)`` uint8, their labels and their names under ``root``."""
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
                raise DataError(f"{path} is not an image that can be read ({error})") from error
            images.append(np.asarray(fitted))
            labels.append(label)
            names.append(path.relative_to(root).as_posix())
    if not images:
        raise DataError(f"{root} holds no images")
    return np.stack(images), np.array(labels), names


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB as the service reads an upload: 16-bit grey rounded to 8 bits, alpha composited over black."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")
