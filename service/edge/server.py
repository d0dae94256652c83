"""The HTTP server: accepts connections, and drains before it closes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from ..core.lifecycle import Lifecycle

_EVERY_ADDRESS = "::"  # of IPv6, and unless a socket says otherwise, which asyncio's does, of IPv4 too


class Acceptor:
    """Accepts every connection that waits at a listening socket, in each turn of the event loop.

    libuv accepts one a turn. Under load a turn includes the work of many requests, so a probe's new connection would
    wait for seconds behind the others in the kernel's queue. And libuv closes connections when no file handle is left.
    """

    PER_TURN = 64

    def __init__(self, listening: socket.socket, factory: Callable[[], asyncio.Protocol], **options: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory, self._options = factory, options
        self._socket = socket.socket(fileno=os.dup(listening.fileno()))
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more connections; open ones stay."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(self.PER_TURN):
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            task = self._loop.create_task(self._connect(client))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: socket.socket) -> None:
        client.setblocking(False)
        with contextlib.suppress(OSError):  # closed already, or not TLS
            await self._loop.connect_accepted_socket(self._factory, client, **self._options)


class Server(uvicorn.Server):
    """Uvicorn stops listening at the first signal; this one first answers 503 to ``/health/ready`` and drains.

    Args:
        config: uvicorn's.
        lifecycle: is drained before the server closes.
        head_seconds: longest TLS handshake.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, head_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle, self._head_seconds = lifecycle, head_seconds
        self._draining: asyncio.Task[None] | None = None
        self._acceptors: list[Acceptor] = []

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, accept through an :class:`Acceptor`, and run until a signal."""
        self._loop = loop = asyncio.get_running_loop()
        create_server = loop.create_server

        async def listen(factory: Callable[[], asyncio.Protocol], **options: Any) -> asyncio.Server:
            # Uvicorn has no setting for the longest handshake; the loop's default is a minute.
            late = {"ssl_handshake_timeout": self._head_seconds} if options["ssl"] else {}
            if options.get("host") == _EVERY_ADDRESS and socket.has_dualstack_ipv6():
                address = options.pop("host"), options.pop("port")
                options["sock"] = socket.create_server(
                    address, family=socket.AF_INET6, backlog=options["backlog"], dualstack_ipv6=True
                )
            server: asyncio.Server = await create_server(factory, **options, **late)  # type: ignore[call-overload]
            self._acceptors += (
                Acceptor(listening, factory, ssl=options["ssl"], **late) for listening in server.sockets
            )
            return server

        loop.create_server = listen  # type: ignore[assignment]
        await super().serve(sockets)  # type: ignore[arg-type]

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Stop accepting, then close."""
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """Drain at the first SIGTERM or SIGINT; a second SIGINT ends at once."""
        # Uvicorn's own would raise the signal again at the end, so that the process died of it.
        if self._lifecycle.draining:
            if sig == signal.SIGINT:  # a second SIGTERM may come by way of the process group
                self.should_exit = self.force_exit = True
            return
        self._lifecycle.draining = True

        async def drain() -> None:
            await self._lifecycle.drain()
            # For answers that are being sent; then uvicorn abandons what is left.
            self.config.timeout_graceful_shutdown = round(self._lifecycle.seconds_left)
            self.should_exit = True

        def begin() -> None:
            self._draining = asyncio.create_task(drain())

        self._loop.call_soon_threadsafe(begin)
