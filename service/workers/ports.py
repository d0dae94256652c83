"""The ports that are opened before the models are loaded: one that is taken ends the start at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

from ..settings import Settings
from .table import EVERY_ADDRESS

_BACKLOG = 2048


def listen(settings: Settings, ports: contextlib.ExitStack) -> list[socket.socket]:
    """Sockets that listen at every address of ``settings.host``, until ``ports`` closes them.

    Raises:
        OSError: they cannot; the sentence names host and port.
    """
    host, port = settings.host, settings.port
    with _named("", host, port):
        if host == EVERY_ADDRESS and socket.has_dualstack_ipv6():
            both = socket.create_server((host, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
            return [ports.enter_context(both)]
        return [
            ports.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG))
            for family, address in _addresses(host, port)
        ]


def check_grpc(settings: Settings) -> None:
    """Check that no other service has the port of gRPC, which opens its sockets itself.

    Raises:
        OSError: one has; the sentence names host and port.
    """
    with _named("gRPC ", settings.host, settings.grpc_port):
        try:
            family, address = _addresses(settings.host, settings.grpc_port)[0]
            socket.create_server(address, family=family).close()  # fails even where one like this shares its port
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # gRPC itself may find an address that it can listen at
                raise


def reserve_grpc(settings: Settings, ports: contextlib.ExitStack) -> int:
    """The port of gRPC, kept for the workers while none of them listens.

    Each worker has its own socket at the port (``SO_REUSEPORT``).

    Raises:
        OSError: another service has it; the sentence names host and port.
    """
    check_grpc(settings)
    with _named("gRPC ", settings.host, settings.grpc_port):
        family, address = _addresses(settings.host, settings.grpc_port)[0]
        kept = ports.enter_context(socket.socket(family))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(address)
        return int(kept.getsockname()[1])


def url(settings: Settings, sockets: list[socket.socket]) -> str:
    """Where the service is found, with the port that was taken."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{sockets[0].getsockname()[1]}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


@contextlib.contextmanager
def _named(what: str, host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = f"[{host}]" if ":" in host else host
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror  # below 0: of a name
        raise OSError(f"{what}cannot listen on {name}:{port}: {why}") from error
