"""One worker among those that share the port: who is ready, and who takes the next connection.

What the workers know of each other is a table in shared memory. Imports nothing heavy: the supervisor has it too.
"""

from __future__ import annotations

import enum
import fcntl
import json
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SwapUnderWay, Warming

EVERY_ADDRESS = "::"
"""Of IPv6, and of IPv4 too, unless a socket says otherwise, which asyncio's does."""
# A worker's event loop writes its row ten times a second.
_SECONDS_SILENT = 5.0
# How long a worker with more connections than another leaves a new one to that other.
_SECONDS_AHEAD = 0.002
_TABLE, _SWAPS, _LOCK = "workers", "swaps.json", "swaps.lock"


class Stage(enum.IntEnum):
    """How far a worker is."""

    ABSENT = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Table:
    """A row of whole numbers for each worker, written by that worker, and by the supervisor once it has ended.

    Args:
        folder: of this run; the table is a file there.
        count: how many workers there are; their numbers begin with 1.
    """

    _STAGE, _CONNECTIONS, _BEAT, _PID, _COLUMNS = range(5)

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        size = 8 * count * self._COLUMNS
        handle = os.open(folder / _TABLE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, size)
            # A whole number is written in one step, so that no reader sees half of one.
            self._cells = memoryview(mmap.mmap(handle, size)).cast("q")
        finally:
            os.close(handle)

    def write(self, number: int, stage: Stage, connections: int = 0, pid: int = 0) -> None:
        """Set a worker's row."""
        start = (number - 1) * self._COLUMNS
        self._cells[start + self._CONNECTIONS] = connections
        self._cells[start + self._PID] = pid
        self._cells[start + self._BEAT] = time.monotonic_ns()
        self._cells[start + self._STAGE] = stage

    def _cell(self, number: int, column: int) -> int:
        return int(self._cells[(number - 1) * self._COLUMNS + column])

    def stage(self, number: int) -> Stage:
        """How far the worker is."""
        return Stage(self._cell(number, self._STAGE))

    def silent_seconds(self, number: int) -> float:
        """Since its row was written; 0 where there is no worker that could."""
        if self.stage(number) == Stage.ABSENT:
            return 0.0
        return (time.monotonic_ns() - self._cell(number, self._BEAT)) / 1e9

    def connections(self, number: int) -> int:
        """How many it has open."""
        return self._cell(number, self._CONNECTIONS)

    def pids(self) -> list[int]:
        """The processes of the workers that there are."""
        return [pid for number in range(1, self.count + 1) if (pid := self._cell(number, self._PID))]


class Worker:
    """Its own process among the others.

    Args:
        number: from 1 to ``count``.
        count: how many there are.
        folder: of this run, which all of them share.
        successor: whether it takes the place of one that has ended.
    """

    def __init__(self, number: int, count: int, folder: Path, successor: bool) -> None:
        self.number, self.count, self.folder, self.successor = number, count, folder, successor
        self.table = Table(folder, count)
        self._stage, self._connections = Stage.ABSENT, 0
        self._starting: int | None = None

    @property
    def speaks(self) -> bool:
        """Whether it checks and reports what is the same for all of them."""
        return self.number == 1 and not self.successor

    def others(self) -> Iterator[int]:
        """The numbers of the other workers."""
        return (number for number in range(1, self.count + 1) if number != self.number)

    def publish(self, stage: Stage | None = None, connections: int | None = None) -> None:
        """Tell the others how far this one is and how many connections it has; None leaves it as it was."""
        self._stage = self._stage if stage is None else stage
        self._connections = self._connections if connections is None else connections
        if self._starting is not None and self._stage == Stage.READY:
            os.close(self._starting)  # first: whoever then sees that all are ready can swap
            self._starting = None
        self.table.write(self.number, self._stage, self._connections, os.getpid())

    def check_all(self) -> None:
        """Check that every worker serves, and that this one has said so: until then it lets no swap begin.

        Raises:
            Warming: one is being started, is shutting down, or is stuck.
        """
        stuck = [number for number in self.others() if self.table.silent_seconds(number) > _SECONDS_SILENT]
        for number in range(1, self.count + 1):
            if self.table.stage(number) != Stage.READY or number in stuck:
                raise Warming(f"worker {number} of {self.count} is not ready")

    def leave_seconds(self) -> float:
        """How long to leave a new connection to another worker; 0 takes it.

        All of them are woken for it. The one with the fewest takes it, so that each has its share of clients that stay.
        """
        if self._stage == Stage.DRAINING and any(self.table.stage(n) == Stage.READY for n in self.others()):
            return 10 * _SECONDS_AHEAD
        accepting = [n for n in self.others() if self.table.stage(n) in (Stage.STARTING, Stage.READY)]
        heard = [n for n in accepting if self.table.silent_seconds(n) < _SECONDS_SILENT]
        fewest = min(map(self.table.connections, heard), default=self._connections)
        return _SECONDS_AHEAD if self._connections > fewest + fewest // 8 else 0.0

    # -- checkpoints that all workers have taken over since the start ----------------------------------------------

    def hold_swaps(self) -> None:
        """Let no swap begin until this worker is ready; waits for one that is under way."""
        self._starting = self._open_lock()
        fcntl.flock(self._starting, fcntl.LOCK_SH)

    @contextmanager
    def swapping(self) -> Iterator[None]:
        """Alone among all workers.

        Raises:
            SwapUnderWay: another swap has not ended yet, or a worker is being started.
        """
        handle = self._open_lock()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise SwapUnderWay("another swap has not ended yet") from error
        finally:
            os.close(handle)

    def _open_lock(self) -> int:
        return os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def swapped(self) -> dict[str, Path]:
        """The file of each purifier that was replaced, by its name."""
        try:
            return {name: Path(path) for name, path in json.loads((self.folder / _SWAPS).read_text()).items()}
        except FileNotFoundError:
            return {}

    def record_swap(self, name: str, path: Path) -> None:
        """From now on a worker begins with the checkpoint at ``path``."""
        swapped = {name: str(path) for name, path in {**self.swapped(), name: path}.items()}
        new = self.folder / f"{_SWAPS}.new"
        new.write_text(json.dumps(swapped))
        new.replace(self.folder / _SWAPS)
