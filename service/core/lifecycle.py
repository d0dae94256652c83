"""Whether the service takes requests, how many it has accepted, and how a shutdown waits for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import Draining
from .batcher import Batcher


class Lifecycle:
    """From warm-up to drain.

    Args:
        batcher: the queue, whose thread warms the models up.
        drain_seconds: longest time to finish accepted requests.
        check_workers: raises ``Warming`` unless every worker at the same port is ready.
    """

    def __init__(
        self, batcher: Batcher, drain_seconds: float, check_workers: Callable[[], object] = lambda: None
    ) -> None:
        self._batcher, self._drain_seconds, self._check_workers = batcher, drain_seconds, check_workers
        self.draining = False
        self.in_flight = 0
        self._ends = math.inf

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one accepted request until the block ends; a shutdown waits for it."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def check_accepting(self) -> None:
        """Raises ``Draining`` once a shutdown has begun."""
        if self.draining:
            raise Draining("the service is shutting down")

    def check_ready(self) -> None:
        """Check that a new request can be purified now.

        Raises:
            Draining: the service is shutting down.
            Warming, EngineFailure: as :meth:`Batcher.check_warm` says.
        """
        self.check_accepting()
        self._batcher.check_warm()

    def check_all_ready(self) -> None:
        """As :meth:`check_ready`, and that all workers are ready: what a probe asks."""
        self.check_ready()
        self._check_workers()

    @property
    def alive(self) -> bool:
        """Whether the process can still serve; false once the device's thread is gone and only a restart helps."""
        return self.draining or not self._batcher.ended

    async def drain(self) -> None:
        """Refuse new work and wait for the accepted requests, at most ``drain_seconds``."""
        self.draining, self._ends = True, time.monotonic() + self._drain_seconds
        while self.in_flight and time.monotonic() < self._ends:
            await asyncio.sleep(0.01)

    @property
    def seconds_left(self) -> float:
        """What remains of ``drain_seconds``, but one second at least."""
        return max(1.0, min(self._drain_seconds, self._ends - time.monotonic()))
