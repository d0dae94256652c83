"""``arn-train tables``: write every table from the records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..report import pages
from . import options


def add_parser(commands: options.Commands[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:  # noqa: ARG001
    """Declare the command."""
    parser = commands.add_parser("tables", help="write every table from the records")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--check", action="store_true", help="fail if a table is not what the records say")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace, command: str) -> int:  # noqa: ARG001
    """Write the tables, or with ``--check`` return 1 where one is stale."""
    stale = pages.update(flags.results, check=flags.check)
    if stale and flags.check:
        print(f"arn-train: stale: {', '.join(map(str, stale))}; run `arn-train tables`", file=sys.stderr)
        return 1
    return 0
