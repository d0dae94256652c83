"""``arn-train figures``: draw the pictures of documents and model cards again."""

from __future__ import annotations

import argparse
from pathlib import Path

from arn_purify import models

from ..load import load_model
from ..report import figures
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "figures", parents=[common], help="draw the pictures of documents and model cards again"
    )
    parser.add_argument("--purifier", default="mnist-transparent", help="name or path")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:  # noqa: ARG001
    """Draw those that were made from something else."""
    f, _ = load_model(options.classifier(flags), "classifier", "digits", "cpu")
    g, _ = load_model(flags.purifier, "purifier", "digits", "cpu")
    figures.draw_pictures(f, g, flags.out, flags.seed)
    for model in map(models.load, models.available()):
        if figures.has_sheet(models.card_of(model)):
            figures.draw_sheet(f, model, models.ZOO, flags.seed)
