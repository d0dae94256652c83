"""LISA, sixteen classes of 32x32 crops of traffic signs: imported from the user's own copy, then loaded.

There is no official download. :func:`import_lisa` writes ``lisa/train.npz``, ``lisa/test.npz`` and
``lisa/classes.json`` into the data folder: uint8 images ``(N, 32, 32, 3)``, labels, and the ``track`` of each crop.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from arn_purify.models.files import write_atomically

from ..image_files import TargetSize, read_image, visible_files
from ..splits import DataError, Dataset, Split
from .files import read_npz

CLASSES = (
    "addedLane", "keepRight", "laneEnds", "merge", "pedestrianCrossing", "school", "schoolSpeedLimit25", "signalAhead",
    "speedLimit25", "speedLimit30", "speedLimit35", "speedLimit45", "stop", "stopAhead", "turnRight", "yield",
)  # fmt: skip
# The paper's counts: the 4,657 largest crops, of which 1,148 are tested.
_LARGEST, _TEST_SHARE = 4657, 1148 / 4657

Crop = tuple[str, str, str, Image.Image]
"""Class, track, name and picture."""


def load_by_image(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (32 always)
    """The split of the files, a tenth of train for validation.

    Nearly every test image has a neighbouring frame of the same sign in train.
    """
    train, test, class_names = _read(data_folder / "lisa")
    whole = Split.of_arrays(train["images"], train["labels"])
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole)))
    cut = len(whole) // 10
    test_split = Split.of_arrays(test["images"], test["labels"])
    return Dataset("lisa", whole[order[cut:]], whole[order[:cut]], test_split, class_names)


def load_by_track(data_folder: Path, size: TargetSize) -> Dataset:  # noqa: ARG001 (32 always)
    """The same images split again so that no track, the video of one sign, is in two parts."""
    train, test, class_names = _read(data_folder / "lisa")
    images, labels, tracks = (np.concatenate([train[key], test[key]]) for key in ("images", "labels", "track"))
    if (tracks == "").any():
        raise DataError(f"{data_folder / 'lisa'}: crops of unknown track cannot be split by track")
    whole, part_of = Split.of_arrays(images, labels), torch.from_numpy(by_track(labels, tracks, (0.68, 0.07, 0.25)))
    return Dataset("lisa-track", whole[part_of == 0], whole[part_of == 1], whole[part_of == 2], class_names)


def _read(root: Path) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], tuple[str, ...]]:
    if not all((root / file).is_file() for file in ("train.npz", "test.npz", "classes.json")):
        raise DataError(
            f"LISA is not in {root} and has no official download: ask its authors at UC San Diego for "
            "a copy, then `arn-train import-lisa FOLDER`; or name the folder above with --data-dir"
        )
    train, test = (read_npz(root / f"{part}.npz") for part in ("train", "test"))
    return train, test, tuple(json.loads((root / "classes.json").read_text()))


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


def import_lisa(source: Path, root: Path) -> tuple[int, int]:
    """Read the original data set (a folder with ``allAnnotations.csv``) or ``CLASS/[TRACK/]*`` crops into ``root``.

    Taken are the paper's sixteen classes, of crops not marked as occluded the 4,657 with the longest shorter side, and
    a random quarter of each class for the test. Returns how many train and test.

    Raises:
        DataError: neither of the two, or no crop of these classes.
    """
    annotations = source / "allAnnotations.csv"
    crops = sorted(
        _annotated(annotations) if annotations.is_file() else _cut_out(source),
        key=lambda crop: (-min(crop[3].size), crop[2]),
    )[:_LARGEST]
    if not crops:
        raise DataError(f"{source} holds neither allAnnotations.csv nor a folder for any of {', '.join(CLASSES)}")
    small = [crop[3].resize((32, 32), Image.Resampling.BILINEAR) for crop in crops]
    images, tracks = np.stack([np.asarray(crop) for crop in small]), np.array([crop[1] for crop in crops])
    labels = np.array([CLASSES.index(crop[0]) for crop in crops], np.uint8)
    generator, test = np.random.default_rng(0), np.zeros(len(crops), bool)
    for label in range(len(CLASSES)):
        mine = generator.permutation(np.flatnonzero(labels == label))
        test[mine[: round(_TEST_SHARE * len(mine))]] = True
    for part, chosen in (("train", ~test), ("test", test)):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images[chosen], labels=labels[chosen], track=tracks[chosen])
        write_atomically(root / "lisa" / f"{part}.npz", buffer.getvalue())
    write_atomically(root / "lisa" / "classes.json", json.dumps(CLASSES).encode())
    return int((~test).sum()), int(test.sum())


def _annotated(annotations: Path) -> Iterator[Crop]:
    with annotations.open(newline="") as file:
        for row in csv.DictReader(file, delimiter=";"):
            if row["Annotation tag"] not in CLASSES or row["Occluded,On another road"].startswith("1"):
                continue
            sides = ("Upper left corner X", "Upper left corner Y", "Lower right corner X", "Lower right corner Y")
            left, top, right, bottom = (int(row[side]) for side in sides)
            frame = read_image(annotations.parent / row["Filename"])
            yield row["Annotation tag"], row["Origin track"], row["Filename"], frame.crop((left, top, right, bottom))


def _cut_out(source: Path) -> Iterator[Crop]:
    """The track is the video in a file's name, as LISA names its frames, or the folder inside that of the class."""
    for name in CLASSES:
        for path in visible_files(source / name) if (source / name).is_dir() else ():
            video, _, frame = path.name.partition(".avi")
            inside = "" if path.parent == source / name else path.parent.name
            yield name, video if frame else inside, path.relative_to(source).as_posix(), read_image(path)
