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
from .workers.ports import check_grpc, listen, url
from .workers.table import Worker

logger = logging.getLogger("service")

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
        OSError, ValueError: a port, a checkpoint, a certificate, or settings that do not fit the model server.
    """
    check_uvicorn()
    _few_arenas()
    configure(settings.log_level, settings.log_format, seat.worker.number if seat else 0)
    if seat is None:  # of several workers the supervisor does so
        warn(settings, os.environ)
    with contextlib.ExitStack() as ports:
        if seat is None and settings.downstream_grpc:
            check_grpc(settings)
        return _serve(settings, seat, seat.sockets if seat else listen(settings, ports))


def _serve(settings: Settings, seat: Seat | None, sockets: list[socket.socket]) -> int:
    worker = seat.worker if seat else None
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
    try:
        config.load()
    except OSError as error:  # which names no file
        files = f"{settings.tls_cert} (ARN_TLS_CERT) and {settings.tls_key} (ARN_TLS_KEY)"
        raise OSError(f"{files} cannot be used as a PEM certificate and its key: {error}") from error
    if seat is None:
        server = Server(config, state.lifecycle, settings.head_seconds)
        logger.info("running on %s", url(settings, sockets))
    else:
        refresh = state.metrics.refresh
        server = WorkerServer(config, state.lifecycle, settings.head_seconds, seat.worker, refresh, seat.channel)
    try:
        server.run(sockets)
    except SystemExit:  # uvicorn's, where the app does not start
        raise state.failure or OSError("the service could not start; the log says why") from None
    if server.force_exit:  # the device's thread still computes: an interpreter that ends under it may crash
        logging.shutdown()
        os._exit(0)
    return 0 if server.started and not server.failed else 1
