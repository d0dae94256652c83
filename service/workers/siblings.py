"""What one worker asks of all others: to take over a checkpoint, all of them or none.

Each listens at a Unix socket in the run's folder, which only this user can open. The asker sends a checkpoint, each
answers whether it can serve it, and takes it over once the asker has heard from all of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

from ..errors import ServiceError, SwapRefused, Warming
from .table import Worker

logger = logging.getLogger("service.workers")

Adopt = Callable[[], Awaitable[None]]
"""Takes over a checkpoint that is built and checked."""
Build = Callable[[str, Path, str], Awaitable[Adopt]]
"""Builds and checks the checkpoint of a purifier's name, a path and a hash; raises ``SwapRefused``."""


class Siblings:
    """The other workers, as one of them reaches them.

    Args:
        worker: this one.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._server: asyncio.Server | None = None
        self.build: Build
        """How this worker builds what another one asks of it; set before :meth:`start`."""

    async def start(self) -> None:
        """Listen to the others."""
        path = self._socket(self._worker.number)
        Path(path).unlink(missing_ok=True)  # its predecessor's
        self._server = await asyncio.start_unix_server(self._answer, path)

    def stop(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.close()

    def _socket(self, number: int) -> str:
        return str(self._worker.folder / f"{number}.socket")

    # -- asking -------------------------------------------------------------------------------------------------------

    def swapping(self) -> AbstractContextManager[None]:
        """Alone among all workers; raises ``SwapUnderWay``."""
        return self._worker.swapping()

    @contextmanager
    def copied(self, path: Path) -> Iterator[Path]:
        """A copy of a checkpoint, so that all workers read the same bytes, now and when one is restarted.

        Raises:
            SwapRefused: there is no room for it.
        """
        before = set(self._worker.swapped().values())
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="swap-", dir=self._worker.folder))
            shutil.copyfile(path, folder / path.name)
        except OSError as error:
            if folder:
                shutil.rmtree(folder)
            raise SwapRefused(f"{path.name} cannot be copied for the other workers: {error.strerror}") from error
        copy = folder / path.name
        try:
            yield copy
        finally:
            for gone in {copy, *before} - set(self._worker.swapped().values()):
                shutil.rmtree(gone.parent)

    async def take_over(self, name: str, path: Path, sha256: str, adopt: Adopt) -> None:
        """Have every worker take over a checkpoint, or none; ``adopt`` does it here.

        Raises:
            SwapRefused: one of them cannot serve it.
            Warming: one of them does not answer.
        """
        links: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        with ExitStack() as stack:
            for number in self._worker.others():
                try:
                    links[number] = await asyncio.open_unix_connection(self._socket(number))
                except OSError as error:
                    raise _gone(number) from error
                stack.enter_context(closing(links[number][1]))
                links[number][1].write(_line(name=name, path=str(path), sha256=sha256))
            for number, (reader, _) in links.items():
                answer = await _read(reader)
                if not answer:
                    raise _gone(number)
                if refusal := json.loads(answer)["refused"]:
                    raise SwapRefused(f"worker {number}: {refusal}")
            self._worker.record_swap(name, path)
            await adopt()
            for _, writer in links.values():
                writer.write(_line(adopt=True))
            for number, (reader, _) in links.items():
                if not await _read(reader):
                    logger.warning("worker %d has ended before it took %s over; its successor does", number, name)

    # -- being asked --------------------------------------------------------------------------------------------------

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            if not (line := await _read(reader)):
                return
            wanted = json.loads(line)
            name, path = wanted["name"], Path(wanted["path"])
            try:
                adopt = await self.build(name, path, wanted["sha256"])
            except ServiceError as error:
                writer.write(_line(refused=str(error)))
                return
            writer.write(_line(refused=""))
            # Where the asker has ended before its word, its record counts: so begins its successor.
            if not await _read(reader) and self._worker.swapped().get(name) != path:
                return
            try:
                await adopt()
            except Exception:
                logger.exception("%s cannot be taken over; a successor begins with it", name)
                signal.raise_signal(signal.SIGTERM)
                return
            writer.write(_line(adopted=True))


def _gone(number: int) -> Warming:
    return Warming(f"worker {number} does not answer; no model was swapped")


def _line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


async def _read(reader: asyncio.StreamReader) -> bytes:
    """A line; empty where the other end has ended."""
    try:
        line = await reader.readline()
    except OSError:
        return b""
    return line if line.endswith(b"\n") else b""
