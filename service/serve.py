"""The process of ``arn serve``."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
from functools import partial
from typing import NamedTuple

import uvicorn

from .app import create_app
from .edge.connection import Connection, check_uvicorn
from .edge.server import Server, WorkerServer
from .environment import warn
from .gateway import rest
from .settings import Settings
from .state import State
from .telemetry.log import configure
from .workers.table import Worker

_M_ARENA_MAX = -8  # malloc.h


class Seat(NamedTuple):
    """What a worker gets from its supervisor: its place, the listening sockets, and a pipe that ends with it."""

    worker: Worker
    sockets: list[socket.socket]
    channel: int


def _few_arenas() -> None:
    """Use one heap for all threads: glibc otherwise keeps the memory that a thread has freed for that thread."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # the last is Windows'
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def serve(settings: Settings, seat: Seat | None = None) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status.

    Args:
        settings: of this process.
        seat: where it is one of several workers; None: it listens by itself.

    Raises:
        ImportError: uvicorn lacks what the limits depend on.
        OSError, ValueError: a checkpoint, or settings that do not fit the model server.
    """
    check_uvicorn()
    _few_arenas()
    worker = seat.worker if seat else None
    configure(settings.log_level, settings.log_format, worker.number if worker else 0)
    if seat is None:  # of several workers the supervisor does so
        warn(settings, os.environ)
    app = create_app(settings, worker)
    state: State = app.state.service
    if worker is None or worker.speaks:
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
    if seat is None:
        server = Server(config, state.lifecycle, settings.head_seconds)
    else:
        refresh = state.metrics.refresh
        server = WorkerServer(config, state.lifecycle, settings.head_seconds, seat.worker, refresh, seat.channel)
    server.run(seat.sockets if seat else None)
    if server.force_exit:  # the device's thread still computes: an interpreter that ends under it may crash
        logging.shutdown()
        os._exit(0)
    return 0 if server.started and not server.failed else 1
