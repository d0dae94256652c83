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
from ..errors import ServiceError
from ..workers.table import Stage, Worker


class Acceptor:
    """Accepts every connection that waits at a listening socket, in each turn of the event loop.

    libuv accepts one a turn. Under load a turn includes the work of many requests, so a probe's new connection would
    wait for seconds behind the others in the kernel's queue. And libuv closes connections when no file handle is left.
    """

    PER_TURN = 64

    def __init__(
        self,
        listening: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        leave_seconds: Callable[[], float] = lambda: 0.0,
        **options: Any,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._factory, self._leave_seconds, self._options = factory, leave_seconds, options
        self._pause: asyncio.TimerHandle | None = None
        self._socket = socket.socket(fileno=os.dup(listening.fileno()))
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop.add_reader(self._socket, self._accept)

    def close(self) -> None:
        """Accept no more connections; open ones stay."""
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    @property
    def connecting(self) -> int:
        """Connections that are accepted and not yet open."""
        return len(self._connecting)

    def _accept(self) -> None:
        for _ in range(self.PER_TURN):
            if seconds := self._leave_seconds():
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(seconds, self._resume)
                return
            if not self._take():
                return

    def _resume(self) -> None:
        """Take the connection that was left to another worker, if it is still there."""
        self._take()
        self._loop.add_reader(self._socket, self._accept)

    def _take(self) -> bool:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return False
        task = self._loop.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

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
        self.failed = False
        """Whether it ended because only a restart helps."""

    async def serve(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Take connections of ``sockets``, which listen already, through an :class:`Acceptor`, until a signal."""
        self._loop = loop = asyncio.get_running_loop()
        create_server = loop.create_server

        async def listen(factory: Callable[[], asyncio.Protocol], **options: Any) -> asyncio.Server:
            # Uvicorn has no setting for the longest handshake; the loop's default is a minute.
            late = {"ssl_handshake_timeout": self._head_seconds} if options["ssl"] else {}
            options["start_serving"] = False  # the loop would accept past the acceptors
            server: asyncio.Server = await create_server(factory, **options, **late)  # type: ignore[call-overload]
            self._acceptors += (
                Acceptor(listening, factory, self._leave_seconds, ssl=options["ssl"], **late)
                for listening in server.sockets
            )
            return server

        loop.create_server = listen  # type: ignore[assignment]
        await super().serve(sockets)  # type: ignore[arg-type]

    def _leave_seconds(self) -> float:
        """How long a new connection is left to others that listen at the same socket."""
        return 0.0

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


class WorkerServer(Server):
    """The server of one worker, which listens at the supervisor's sockets.

    Args:
        worker: its place among the others.
        refresh: called ten times a second; for gauges, which only their own process can read.
        channel: the file descriptor of a pipe that closes when the supervisor has ended.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        head_seconds: float,
        worker: Worker,
        refresh: Callable[[], object],
        channel: int,
    ) -> None:
        super().__init__(config, lifecycle, head_seconds)
        self._worker, self._refresh, self._channel = worker, refresh, channel

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start, then take connections."""
        self._loop.add_reader(self._channel, self._orphaned)
        await super().startup(sockets)  # type: ignore[arg-type]
        self._publish()

    async def on_tick(self, counter: int) -> bool:
        """Tell the others how this one is; end where only a restart helps."""
        self._publish()
        self._refresh()
        if not self._lifecycle.alive:
            self.failed = True
            return True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As :class:`Server` does; the others learn of it."""
        super().handle_exit(sig, frame)
        self._worker.publish(Stage.DRAINING)

    def _publish(self) -> None:
        if self._lifecycle.draining:
            stage = Stage.DRAINING
        else:
            try:
                self._lifecycle.check_ready()
                stage = Stage.READY
            except ServiceError:
                stage = Stage.STARTING
        self._worker.publish(stage, self._open)

    @property
    def _open(self) -> int:
        return len(self.server_state.connections) + sum(acceptor.connecting for acceptor in self._acceptors)

    def _leave_seconds(self) -> float:
        self._worker.publish(connections=self._open)
        return self._worker.leave_seconds()

    def _orphaned(self) -> None:
        self._loop.remove_reader(self._channel)
        self.handle_exit(signal.SIGTERM, None)
