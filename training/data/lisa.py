"""LISA from the user's own copy: there is no official download to take it from.

Written are ``lisa/train.npz``, ``lisa/test.npz`` and ``lisa/classes.json`` of the data folder, which
:func:`arn_purify.training.data.load` reads: uint8 images ``(N, 32, 32, 3)``, labels, and the ``track`` of each crop.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from arn_purify.models.checkpoint import write_atomically

from . import DataError

CLASSES = (
    "addedLane", "keepRight", "laneEnds", "merge", "pedestrianCrossing", "school", "schoolSpeedLimit25", "signalAhead",
    "speedLimit25", "speedLimit30", "speedLimit35", "speedLimit45", "stop", "stopAhead", "turnRight", "yield",
)  # fmt: skip
# The paper's counts: the 4,657 largest crops, of which 1,148 are tested.
_LARGEST, _TEST_SHARE = 4657, 1148 / 4657

Crop = tuple[str, str, str, Image.Image]
"""Class, track, name and picture."""


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
    small = [crop[3].convert("RGB").resize((32, 32), Image.Resampling.BILINEAR) for crop in crops]
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
            frame = _open(annotations.parent / row["Filename"])
            yield row["Annotation tag"], row["Origin track"], row["Filename"], frame.crop((left, top, right, bottom))


def _cut_out(source: Path) -> Iterator[Crop]:
    """The track is the video in a file's name, as LISA names its frames, or the folder inside that of the class."""
    for name in CLASSES:
        for path in sorted((source / name).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                video, _, frame = path.name.partition(".avi")
                inside = "" if path.parent == source / name else path.parent.name
                yield name, video if frame else inside, path.relative_to(source).as_posix(), _open(path)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} is no image that can be read ({error})") from error
