"""A folder of the user's own images, a folder inside it for each class."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..image_files import TargetSize, fit_image, read_image, visible, visible_files
from ..splits import DataError, Dataset, Split

logger = logging.getLogger(__name__)

_PARTS = ("train", "val", "test")
# With train/ beside them, folders of these names are parts and no classes.
_NAMES_OF_PARTS = frozenset({"val", "valid", "validation", "dev", "test"})


def load(root: Path, size: TargetSize) -> Dataset:
    """``root/<class>/*``, cut 80:10:10 by file name, or ``root/{train,val[,test]}/<class>/*``.

    Paths with a hidden part are ignored.

    Raises:
        DataError: no images, a class without images or that one part lacks, a name that is not UTF-8, or a file that
            cannot be read as an image.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder")
    found = _class_names(root)
    names_of_parts = {name.casefold() for name in found} & _NAMES_OF_PARTS
    if {"train", "val"} <= set(found):
        class_names, images, labels, part_of = _split_by_user(root, size)
    elif "train" in map(str.casefold, found) and names_of_parts:
        raise DataError(
            f"{root} holds {', '.join(found)}: folders of parts are called train/ and val/, and maybe test/"
        )
    else:
        class_names = found
        images, labels, names = _images_under(root, class_names, size)
        bucket = np.array([int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 for name in names])
        part_of = np.maximum(bucket - 7, 0)
    if (images == images[..., :1]).all():  # grey images stay one-channel
        images = images[..., :1]
    train, validation, test = (Split.of_arrays(images[part_of == part], labels[part_of == part]) for part in range(3))
    if not (len(train) and len(validation) and len(test)):
        raise DataError(f"{root}: too few images for a train, validation and test split")
    if unseen := sorted(set(range(len(class_names))) - set(train.labels.tolist())):
        raise DataError(
            f"{root}: no image of {_classes(class_names[label] for label in unseen)} is in the four fifths that train: "
            "add images, or choose the parts yourself as train/ and val/"
        )
    return Dataset("folder", train, validation, test, class_names)


def _split_by_user(
    root: Path, size: TargetSize
) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The classes, images ``(N, size, size, 3)``, labels and numbers of parts of ``root/{train,val[,test]}``."""
    folders = {part: root / part for part in _PARTS}
    classes = {part: _class_names(folder) for part, folder in folders.items() if folder.is_dir()}
    _check_same(root, classes)
    if "test" not in classes:
        logger.warning("%s has no test/: what is measured on its test split is measured on val/", root)
        folders["test"] = folders["val"]
    parts = [_images_under(folder, classes["train"], size) for folder in folders.values()]
    images, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    return classes["train"], images, labels, np.repeat(np.arange(3), [len(part[1]) for part in parts])


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(path.name for path in visible(folder) if path.is_dir())
    if not names:
        raise DataError(f"{folder} holds no class folders: one folder of images a class is expected")
    return names


def _check_same(root: Path, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse classes that one part has and another lacks: their labels would shift, or their images vanish."""
    train, problems = classes["train"], []
    for part, names in classes.items():
        for one, other, missing in (("train", part, set(train) - set(names)), (part, "train", set(names) - set(train))):
            if missing:
                problems.append(f"{one}/ has {_classes(sorted(missing))} that {other}/ lacks")
    if problems:
        raise DataError(f"{root}: {'; '.join(problems)}. Every part needs the same class folders")


def _classes(names: Iterable[str]) -> str:
    listed = list(names)
    return f"the class{'es' if len(listed) > 1 else ''} {', '.join(listed)}"


def _images_under(
    root: Path, class_names: tuple[str, ...], size: TargetSize
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """RGB images ``(N, size, size, 3)`` uint8, their labels and their names under ``root``."""
    files = {name: visible_files(root / name) for name in class_names}
    if empty := [name for name, paths in files.items() if not paths]:
        raise DataError(f"{root}: no image of {_classes(empty)}; remove the folder or fill it")
    images, labels, names = [], [], []
    for label, paths in enumerate(files.values()):
        for path in paths:
            images.append(np.asarray(fit_image(read_image(path), (size.pixels, size.pixels), size.fit)))
            labels.append(label)
            names.append(path.relative_to(root).as_posix())
    return np.stack(images), np.array(labels), names
