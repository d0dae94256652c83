"""``arn serve``, ``arn purify IN OUT``, ``arn models``.

``arn models`` needs no extra, so each command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from arn_purify import __version__

from .errors import ServiceError


@contextlib.contextmanager
def _needing_extra(command: str) -> Iterator[None]:
    """Name the extra where an import inside fails.

    Raises:
        ImportError: a package of it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("arn_purify"):
            raise
        raise ImportError(f"{command} needs the extra serve, as in: pip install '.[serve]' ({error})") from error


def _serve(flags: argparse.Namespace) -> int:
    with _needing_extra("serve"):
        from pydantic import ValidationError

        from .settings import from_flags
    try:
        settings = from_flags(flags)
        with _needing_extra("serve"):
            if settings.workers > 1:  # the supervisor itself loads no network
                from .workers.supervisor import supervise as run
            else:
                from .serve import serve as run
        return run(settings)
    except ValidationError as error:
        for problem in error.errors():
            where = f"ARN_{str(problem['loc'][0]).upper()}: " if problem["loc"] else ""  # of one setting
            print(f"arn: {where}{problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2


def _purify(flags: argparse.Namespace) -> int:
    with _needing_extra("purify"):
        from .files import purify_files
    summary = purify_files(flags.source, flags.target, flags.model, flags.device, flags.resize)
    target = os.fsencode(flags.target).decode(errors="backslashreplace")
    failed = f", {summary.failed} not (named above)" if summary.failed else ""
    other = f", {summary.other} file(s) of other types not read" if summary.other else ""
    print(f"{summary.purified} image(s) purified into {target}{failed}{other}")
    return 2 if summary.failed else 0


def _models(flags: argparse.Namespace) -> int:  # noqa: ARG001 (as every command)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # torch's, where the extra is not installed
        from arn_purify import models
        from arn_purify.models import imagenet
    packaged = [imagenet.NAME] if imagenet.weights_file() else []
    for name in (*models.available(), *packaged):
        card = models.card_of(models.load(name))
        print(f"{card.name:24} {card.kind:11} {card.dataset:10} {card.sha256[:12]}", flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    top = argparse.ArgumentParser("arn", description="Remove adversarial noise from images.")
    top.add_argument("--version", action="version", version=f"arn {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="run the HTTP service")
    serve_parser.set_defaults(run=_serve)
    with contextlib.suppress(ModuleNotFoundError):  # `_serve` says which extra has it
        from .settings import add_flags, add_transformer_flags

        add_flags(serve_parser)
        add_transformer_flags(serve_parser)
    purify_parser = commands.add_parser("purify", help="purify a file or every image below a folder")
    purify_parser.set_defaults(run=_purify)
    purify_parser.add_argument("source", type=Path, metavar="IN", help="an image, or a folder of images")
    purify_parser.add_argument("target", type=Path, metavar="OUT", help="the file or the folder to write")
    purify_parser.add_argument("--model", default="mnist-transparent", help="a released model or a checkpoint")
    purify_parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    sizes = purify_parser.add_mutually_exclusive_group()
    for flag, fit, what in (
        ("--resize", "crop", "resample images of another size to the model's, cropped to their centre"),
        ("--fit", "fit", "resample them whole, between black borders"),
    ):
        sizes.add_argument(flag, dest="resize", action="store_const", const=fit, help=what)
    commands.add_parser("models", help="list the released checkpoints").set_defaults(run=_models)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    top = parser()
    flags, unknown = top.parse_known_args(arguments)
    try:
        if unknown and (flags.command != "serve" or "host" in flags):
            top.error(f"unrecognized arguments: {' '.join(unknown)}")
        status: int = flags.run(flags)
    except BrokenPipeError:  # who reads has read enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, ServiceError, ImportError) as error:
        print(f"arn: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
