"""``arn-train convert``: a checkpoint in the format of another runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..convert import convert
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:  # noqa: ARG001
    """Declare the command."""
    parser = commands.add_parser("convert", help="a checkpoint as ONNX (.onnx) or torch.export's archive (.pt2)")
    parser.add_argument("source", help="released name or path")
    parser.add_argument("target", type=Path, help="file to write; its ending names the format")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> None:  # noqa: ARG001
    """Convert, and say how far the answers are apart."""
    print(f"{flags.target}: at most {convert(flags.source, flags.target):.1g} from torch's answers")
