"""``arn-train export``: round a run to fp16, measure it, write its card."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..data import spec_of
from ..export import export
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", parents=[common], help="round a run to fp16, measure it, write its card")
    parser.add_argument("source", type=Path, help="a run's checkpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, help="folder (models/zoo/; the run's own for --dataset folder)")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:  # noqa: ARG001 (the card holds the run's own)
    """Export, and print what was measured."""
    dataset = options.dataset(flags)
    dataset = dataclasses.replace(dataset, validation=dataset.validation.every(flags.every))
    classifier = flags.classifier or spec_of(flags.dataset).classifier  # only a purifier needs one
    usual = Path("models/zoo") if spec_of(flags.dataset).kept_records else flags.source.parent
    card = export(flags.source, flags.name, flags.out or usual, dataset, classifier, flags.crafted, flags.device)
    print(f"{card.name} {card.sha256[:12]}", {k: round(v, 2) for k, v in card.metrics.items()})
