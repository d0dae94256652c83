"""Flags that several commands have, and what is read from them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from arn_purify.models import Card
from arn_purify.models.checkpoint import Kind

from .. import data, own
from ..data import DATASETS, Dataset, Split, spec_of
from ..data.image_files import FITS
from ..load import load_model

SMALLEST = 8
"""Pixels a side: SSIM compares windows of 11, padded."""

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers() gives


def common() -> argparse.ArgumentParser:
    """The flags of every command that reads a data set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--dataset", default="mnist", choices=DATASETS)
    parser.add_argument("--data-dir", type=Path, help="where the data are, or are downloaded to (ARN_DATA_DIR, data/)")
    parser.add_argument("--size", type=positive, help="pixels that images of --dataset folder are resized to (28)")
    parser.add_argument(
        "--resize", choices=FITS, default="crop",
        help="how: crop each image to the square at its centre, or fit the whole of it between black borders",
    )  # fmt: skip
    parser.add_argument("--classifier", help="target f: name, path or module:function (the data set's released one)")
    parser.add_argument("--device", type=_device, default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=positive, default=1, help="take every k-th image of the split")
    parser.add_argument("--crafted", type=Path, default=Path("data/crafted"), help="folder of crafted sets")
    return parser


def own_module(name: str) -> str:
    """A module of the user's own, imported: it may add rows to the tables that other flags choose from."""
    try:
        own.module(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def add_attacks(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    """The flag of commands that take several attacks."""
    parser.add_argument(
        "--attacks", type=names, default=default, metavar="A,B", help="names (PGD_N, PGD_N@0.2x100) or module:function"
    )


def add_results_folder(parser: argparse.ArgumentParser) -> None:
    """The flag of commands that write records."""
    parser.add_argument("--out", type=Path, help="folder of records (results/; runs/results/ for --dataset folder)")


def results_folder(flags: argparse.Namespace) -> Path:
    """``--out``; otherwise ``results/``, or where the images are the user's a folder that is not the project's."""
    usual = Path("results") if spec_of(flags.dataset).kept_records else Path("runs", "results")
    return flags.out or usual


def names(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none: cpu, cuda or cuda:INDEX")
    return text


def dataset(flags: argparse.Namespace) -> Dataset:
    """The data set of ``--dataset``."""
    if flags.size is not None and spec_of(flags.dataset).size:
        raise ValueError(f"the images of {flags.dataset} have their own size: no --size")
    size = 28 if flags.size is None else flags.size
    if size < SMALLEST:
        raise ValueError(f"--size {size}: images have at least {SMALLEST} pixels a side")
    return data.load(flags.dataset, flags.data_dir, size, flags.resize)


def split(flags: argparse.Namespace, whole: Dataset) -> Split:
    """The images of ``--split`` and ``--every``."""
    part = whole.split(flags.split).every(flags.every)
    if not len(part):
        raise ValueError(f"{flags.dataset} has no images in its split {flags.split}")
    return part


def classifier(flags: argparse.Namespace) -> str:
    """``--classifier``, or the one that is released for the data set."""
    return flags.classifier or _released(spec_of(flags.dataset).classifier, "classifier", flags)


def purifier(flags: argparse.Namespace) -> str:
    """``--purifier``, or the one that is released for the data set."""
    return flags.purifier or _released(spec_of(flags.dataset).purifier, "purifier", flags)


def _released(name: str, flag: str, flags: argparse.Namespace) -> str:
    if not name:
        raise ValueError(f"no {flag} is released for {flags.dataset}: name one by --{flag}")
    return name


def load(flags: argparse.Namespace, spec: str, kind: Kind, shape: Sequence[int] = ()) -> tuple[nn.Module, Card]:
    """A model on ``--device`` for images of ``--dataset``, and its card."""
    return load_model(spec, kind, flags.dataset, flags.device, shape)


def refuse(flags: argparse.Namespace, why: str, unread: Sequence[str]) -> None:
    """Refuse flags that a command would not read.

    Raises:
        ValueError: one of ``unread``, by the names of their values, was given.
    """
    idle: dict[str, object] = {"every": 1}
    given = [name for name in unread if getattr(flags, name) not in (idle.get(name), None, (), [], False, "")]
    spelled = {"fields": "with", "numbers": "photo-recipe"}
    if given:
        raise ValueError(f"{why}: no {', '.join('--' + spelled.get(name, name).replace('_', '-') for name in given)}")
