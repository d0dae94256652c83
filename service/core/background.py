"""Work that no answer waits for, in bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import BodiesFull
from .limits import MemoryBudget, Reservation

_MAX_TASKS = 64


class Background:
    """Tasks that outlive their request and reserve memory for the body that they hold.

    Args:
        memory: where the bytes are reserved.
        on_dropped: called for work that was not started, as too much is under way or the memory is reserved.
    """

    def __init__(self, memory: MemoryBudget, on_dropped: Callable[[], object]) -> None:
        self._memory, self._on_dropped = memory, on_dropped
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Callable[[Reservation], Coroutine[Any, Any, None]], size: int) -> None:
        """Run ``work`` after the request; it holds ``size`` bytes, and reserves what it takes beside. Or drop it."""

        async def within_budget() -> None:
            try:
                with self._memory.reserve(size) as memory:
                    await work(memory)
            except BodiesFull:
                self._on_dropped()

        if len(self._tasks) >= _MAX_TASKS:
            self._on_dropped()
            return
        task = asyncio.create_task(within_budget())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
