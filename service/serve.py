"""The process of ``arn serve``."""

from __future__ import annotations

import contextlib
import ctypes
from functools import partial

import uvicorn

from .app import create_app
from .edge.connection import Connection, check_uvicorn
from .edge.server import Server
from .gateway import rest
from .settings import Settings
from .state import State
from .telemetry.log import configure

_M_ARENA_MAX = -8  # malloc.h


def _few_arenas() -> None:
    """Use one heap for all threads: glibc otherwise keeps the memory that a thread has freed for that thread."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def serve(settings: Settings) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status.

    Raises:
        ImportError: uvicorn lacks what the limits depend on.
        OSError, ValueError: a checkpoint, or settings that do not fit the model server.
    """
    check_uvicorn()
    _few_arenas()
    configure(settings.log_level, settings.log_format)
    app = create_app(settings)
    state: State = app.state.service
    rest.check(state.gateway)
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        log_config=None,
        access_log=False,
        http=partial(Connection, settings, state.metrics),  # type: ignore[arg-type] # called as the class would be
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type] # any number of seconds
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    server = Server(config, state.lifecycle, settings.head_seconds)
    server.run()
    return 0 if server.started else 1
