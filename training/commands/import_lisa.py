"""``arn-train import-lisa``: LISA from the user's own copy into the data folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import data
from ..data.loaders.lisa import import_lisa
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:  # noqa: ARG001
    """Declare the command."""
    parser = commands.add_parser("import-lisa", help="LISA from a copy of your own into the data folder")
    parser.add_argument("source", type=Path, help="folder with allAnnotations.csv, or of CLASS/[TRACK/] crops")
    parser.add_argument("--data-dir", type=Path, help="where the data are (ARN_DATA_DIR, data/)")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:  # noqa: ARG001
    """Import, and say how many crops there are."""
    train, test = import_lisa(flags.source, data.folder(flags.data_dir))
    print(f"{train} crops to train on, {test} to test on")
