"""``arn-train train`` for data sets whose pictures are read from disk, without labels."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from arn_purify.models import Arn, ArnConfig

from .. import data
from ..data.loaders import photos
from ..data.pictures import find_pictures, split_pictures
from ..data.splits import DataError
from ..learning.photos import PhotoRecipe, PhotoTrainer
from ..load import load_model
from ..run_name import RunName
from . import options

_SHAPE = (3, photos.SIZE, photos.SIZE)
_UNREAD = (
    "recipe", "seen", "epochs", "batch_size", "fp32", "compile", "weights", "fields", "static", "pools", "every",
    "width", "code_channels", "blocks",
)  # fmt: skip
_HELD_OUT = ("photos/test", "test", "val")  # what `evaluate` measures on


def training_pictures(root: Path, more: Sequence[Path]) -> list[Path]:
    """Those in ``photos/train`` of the data folder ``root``, or else all of it; those of ``more`` beside.

    What lies in a folder's test and validation parts is left out.

    Raises:
        DataError: a folder holds no pictures.
    """
    own = root / "photos" / "train"
    return [
        path
        for folder in (own if own.is_dir() else root, *more)
        for path in find_pictures(folder)
        if not any(path.is_relative_to(folder / part) for part in _HELD_OUT)
    ]


def run(flags: argparse.Namespace, command: str) -> None:
    """Train on the pictures of the data folder and of ``--pictures``."""
    if flags.arch not in (None, "photo"):
        raise ValueError(f"--dataset {flags.dataset} trains the network photo, not {flags.arch}")
    options.refuse(flags, "a run on photographs has its numbers in --photo-recipe", _UNREAD)
    paths = training_pictures(data.folder(flags.data_dir), flags.pictures)
    train, validation = split_pictures(paths)
    if not validation:
        raise DataError(f"{len(paths)} pictures are too few: none is left for validation")
    specs = [options.classifier(flags), *options.names(flags.surrogate or "")]
    loaded = [load_model(spec, "classifier", flags.dataset, flags.device, _SHAPE) for spec in specs]
    classifiers = {card.sha256: classifier for classifier, card in loaded}
    purifier, start = _purifier(flags)
    target = loaded[0][1].name
    before = "" if data.spec_of(flags.dataset).is_target(target) else target
    numbers = dict(flags.numbers)
    recipe = dataclasses.replace(PhotoRecipe(), **numbers)
    stride = max(1, len(validation) // min(flags.watched, 100))
    name = RunName(
        "photos", fields=tuple(numbers.items()), classifiers=len(classifiers), start=start, seed=flags.seed,
        before=before,
    )  # fmt: skip
    # A GPU waits for its crops where one process decodes them; a CPU's cores are busy with the network.
    workers = min(8, os.cpu_count() or 1) if flags.device.startswith("cuda") else 1
    run = PhotoTrainer(purifier, recipe, classifiers, Path(flags.out), name, flags.device, flags.seed, command, workers)
    run.fit(train, validation[::stride])


def _purifier(flags: argparse.Namespace) -> tuple[Arn, str]:
    """``--init`` and its name, or a network that has learned nothing."""
    if not flags.init:
        torch.manual_seed(flags.seed)
        return Arn(ArnConfig.preset("photo", 3, photos.SIZE)), ""
    found, card = load_model(str(flags.init), "purifier", flags.dataset, "cpu", _SHAPE)
    if not isinstance(found, Arn) or found.config.architecture != "photo":
        raise ValueError(f"{flags.init} is no purifier of the architecture photo")
    return found.requires_grad_(True), card.name
