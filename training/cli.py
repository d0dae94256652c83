"""``arn-train craft | train | evaluate | detect | figures | tables | export | convert | import-lisa``."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import shlex
import sys
from collections.abc import Sequence

import torch

from arn_purify.models import CheckpointError

from .commands import convert, craft, detect, evaluate, export, figures, import_lisa, options, tables, train

_COMMANDS = (craft, train, evaluate, tables, convert, detect, figures, import_lisa, export)
_PLACES = ("--data-dir", "--crafted")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("arn-train", description="Craft attacks, train purifiers and measure them.")
    commands = parser.add_subparsers(dest="command", required=True)
    parser.add_argument(
        "--import", dest="imported", action="append", type=options.own_module, metavar="MODULE",
        help="import this module first; it may add networks, recipes and data sets",
    )  # fmt: skip
    common = options.common()
    for command in _COMMANDS:
        command.add_parser(commands, common)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel("WARNING")  # or a line for each of 10,000 uploads
    arguments = sys.argv[1:] if arguments is None else arguments
    flags = _parser().parse_args(arguments)
    command = shlex.join(["arn-train", *_portable(arguments)])
    try:
        kind, _, index = str(vars(flags).get("device")).partition(":")
        if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {flags.device}: torch sees no such device")
        # cuDNN's default. It would craft and measure with 10 bits what records and crafted sets call fp32.
        torch.backends.cudnn.allow_tf32 = flags.command == "train" and not flags.fp32
        return int(flags.run(flags, command) or 0)
    except (OSError, ValueError, CheckpointError) as error:
        print(f"arn-train: {error}", file=sys.stderr)
        return 2


def retain_freed_memory() -> None:
    """With glibc: large tensors that are freed would go back to the system, and be faulted in again for the next.

    For a process that does nothing but train or measure: it never shrinks again.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # the last is Windows'
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _portable(arguments: Sequence[str]) -> list[str]:
    """The arguments without the folders that this machine keeps its data and its crafted sets in."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and not argument.startswith(_PLACES):
            kept.append(argument)
        skip = argument in _PLACES
    return kept


if __name__ == "__main__":
    sys.exit(main())
