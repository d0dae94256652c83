"""``arn serve``, ``arn purify IN OUT``, ``arn models``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from pydantic import ValidationError
from tqdm import tqdm

from arn_purify import models
from arn_purify.models.checkpoint import write_atomically

from .app import create_app
from .core import codec
from .core.engine import Engine, Work
from .edge.connection import Acceptor, Connection
from .errors import ServiceError
from .gateway import rest as gateway
from .settings import Settings, add_flags, add_transformer_flags, from_flags
from .state import State
from .telemetry.log import configure

_M_ARENA_MAX = -8  # malloc.h
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class _Server(uvicorn.Server):
    """Uvicorn closes its door at the first signal; ours first says 503 to ``/health/ready`` and finishes its work."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._lifecycle = state.lifecycle
        self._head_seconds = state.settings.head_seconds
        self._draining: asyncio.Task[None] | None = None
        self._acceptors: list[Acceptor] = []

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        self._loop = loop = asyncio.get_running_loop()
        create_server = loop.create_server

        async def listen(factory: Callable[[], asyncio.Protocol], **options: Any) -> asyncio.Server:
            # Uvicorn has no setting for how long a handshake may take; the loop's own is a minute.
            late = {"ssl_handshake_timeout": self._head_seconds} if options["ssl"] else {}
            server: asyncio.Server = await create_server(factory, **options, **late)  # type: ignore[call-overload]
            self._acceptors += (
                Acceptor(listening, factory, ssl=options["ssl"], **late) for listening in server.sockets
            )
            return server

        loop.create_server = listen  # type: ignore[assignment]
        await super().serve(sockets)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        # Uvicorn's own would note the signal and raise it again at the end, so that the process died of it.
        if self._lifecycle.draining:
            if sig == signal.SIGINT:  # who stops a process may send SIGTERM to it and to its group
                self.should_exit = self.force_exit = True
            return
        self._lifecycle.draining = True

        async def drain() -> None:
            await self._lifecycle.drain()
            # For answers that are being sent; then uvicorn gives up what is left.
            self.config.timeout_graceful_shutdown = round(self._lifecycle.seconds_left)
            self.should_exit = True

        def begin() -> None:
            self._draining = asyncio.create_task(drain())

        self._loop.call_soon_threadsafe(begin)


def _few_arenas() -> None:
    """One heap for all threads where the C library is glibc, which else keeps what each has freed for it alone."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status."""
    _few_arenas()
    configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    state: State = app.state.service
    gateway.check(state.gateway)
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        log_config=None,
        access_log=False,
        http=partial(Connection, settings, state.metrics),  # type: ignore[arg-type] # called as the class would be
        ws="none",
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    server = _Server(config, state)
    server.run()
    return 0 if server.started else 1


def purify_files(source: Path, target: Path, model: str, device: str, resize: bool, batch: int = 64) -> int:
    """Purify an image file, or every image below a folder, into PNGs of the same names; returns how many.

    Where two would have one name, as ``a.jpg`` beside ``a.png``, the former becomes ``a.jpg.png``.
    """
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{source}: no image there")
    alone = source.is_file()
    named = Counter(path.with_suffix(".png") for path in paths)  # a.jpg beside a.png keeps its suffix: a.jpg.png
    engine = Engine((model,), (), device, "fp32")
    name = next(iter(engine.purifiers))
    channels, height, width = engine.card(name).input_shape
    with tqdm(total=len(paths), unit="image") as progress:
        for start in range(0, len(paths), batch):
            chunk = paths[start : start + batch]
            arrays = []
            for path in chunk:
                opened = codec.open_image(path.read_bytes(), 10**9)
                if height and not resize and opened.size != (height, width):
                    raise ValueError(
                        f"{path}: {opened.size[1]}x{opened.size[0]}, {name} takes {width}x{height}; --resize"
                    )
                arrays.append(opened.decode(channels or opened.channels, (height, width) if height else None))
            if height:  # one size: one batch
                stacked = np.concatenate(arrays)
                purified = list(engine.run(Work(name), stacked).images)
            else:
                purified = [engine.run(Work(name), array).images[0] for array in arrays]
            for path, pixels in zip(chunk, purified, strict=True):
                png = path.with_suffix(".png")
                if named[png] > 1 and path != png:
                    png = path.with_name(f"{path.name}.png")
                write_atomically(target if alone else target / png.relative_to(source), codec.encode_image(pixels))
                progress.update()
    return len(paths)


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    top = argparse.ArgumentParser("arn", description="Remove adversarial noise from images.")
    commands = top.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser("serve", help="run the HTTP service")
    add_flags(serve_parser)
    add_transformer_flags(serve_parser)
    purify_parser = commands.add_parser("purify", help="purify a file or every image below a folder")
    purify_parser.add_argument("source", type=Path, metavar="IN")
    purify_parser.add_argument("target", type=Path, metavar="OUT")
    purify_parser.add_argument("--model", default="mnist-transparent", help="a shipped name or a checkpoint")
    purify_parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    purify_parser.add_argument("--resize", action="store_true", help="resample images to the model's size")
    commands.add_parser("models", help="list the shipped checkpoints")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    flags = parser().parse_args(arguments)
    try:
        if flags.command == "serve":
            return serve(from_flags(flags))
        if flags.command == "purify":
            count = purify_files(flags.source, flags.target, flags.model, flags.device, flags.resize)
            print(f"{count} image(s) purified into {flags.target}")
            return 0
        for name in models.available():
            card = models.card_of(models.load(name))
            print(f"{card.name:24} {card.kind:11} {card.dataset:8} {card.sha256[:12]}", flush=True)
    except BrokenPipeError:  # who reads has read enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValidationError as error:
        for problem in error.errors():
            print(f"arn: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 2
    except (OSError, ValueError, ServiceError) as error:
        print(f"arn: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
